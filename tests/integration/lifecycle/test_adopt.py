"""Which orphans a worker takes up, where it looks for their tasks, and what it makes of what it finds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aioboto3
import anyio
import pytest
from aiohttp import web

from ecs_worker.errors import PrefectUnavailable
from ecs_worker.lifecycle.run.claims import claim_message
from ecs_worker.lifecycle.run.run import UNLAUNCHED
from ecs_worker.model import Phase, Place
from ecs_worker.prefect_api.budget import LABELS_BURST
from ecs_worker.settings import WorkerSettings
from support.scene import POOL
from support.simulator import TaskScript, What, fault
from support.simulator.helpers import DEFINITION, run_task
from support.waiting import until

if TYPE_CHECKING:
    from support.scene import MakeScene, Scene

pytestmark = pytest.mark.anyio

ACCOUNT = "123456789012"
HERE = Place("us-east-1", ACCOUNT, "default")
TASK_ARN = "arn:aws:ecs:us-east-1:123456789012:task/default/"
SETTLED = 3600.0  # seconds of age at which no claim is fresh any more


def settings(**changes: Any) -> WorkerSettings:
    return WorkerSettings(**{"pool": POOL, "name": "worker", **changes})


class Orphan:
    """A run that a dead worker claimed, and its task if it has one."""

    def __init__(
        self, scene: Scene, *, place: Place | None = HERE, worker: str = "dead", queue: str = "default"
    ) -> None:
        self.scene = scene
        self.run_id = scene.api.add_run()
        self.claim_id = str(uuid4())
        scene.api.runs[self.run_id]["work_queue_name"] = queue
        details = {"transition_id": self.claim_id}
        message = claim_message(worker, place)
        scene.api.enter(self.run_id, {"type": "PENDING", "message": message, "state_details": details}, ago=SETTLED)

    async def launch(self, attempt: int = 1, *, ecs: Any = None, named: bool = True, cluster: str = "default") -> str:
        """Its task, which the run names if `named`."""
        started_by = f"prefect/{self.run_id}/{self.claim_id}"
        request = run_task(cluster=cluster, startedBy=started_by, clientToken=f"{self.claim_id}-{attempt}")
        arn: str = (await (ecs or self.scene.ecs).run_task(**request))["tasks"][0]["taskArn"]
        if named:
            self.scene.api.runs[self.run_id]["infrastructure_pid"] = f"{cluster}::{arn}"
        return arn

    def runs(self, label: str = "dead") -> None:
        """Its flow has begun."""
        self.scene.api.enter(self.run_id, {"type": "RUNNING"})
        self.scene.api.runs[self.run_id]["labels"] = {"prefect.worker.name": label}

    @property
    def state(self) -> str:
        return str(self.scene.api.runs[self.run_id]["state_type"])

    @property
    def message(self) -> str:
        return str(self.scene.api.runs[self.run_id]["state"]["message"])

    @property
    def held(self) -> bool:
        return self.run_id in {str(run.id) for run in self.scene.parts.ledger}


async def look(scene: Scene) -> None:
    """One look for orphans, and all that follows from it."""
    async with scene.parts.way.open(20):
        await scene.adopt()
        await until(lambda: not any(run.phase in UNLAUNCHED for run in scene.parts.ledger))


# -- what is known of the one before


async def test_the_last_heartbeat_of_the_dead_is_known(make_scene: MakeScene) -> None:
    """Of a worker that died before this one began, of one of its own name, and of a colleague that dies later."""
    names = ("dead", "worker", "colleague")
    scene = await make_scene(settings(), beats={"dead": 7200, "worker": 5})
    scene.api.add_worker("colleague")
    orphans = {name: Orphan(scene, worker=name) for name in names}
    for name, orphan in orphans.items():
        await orphan.launch()
        orphan.runs(label=name)
    await look(scene)
    assert not orphans["colleague"].held
    scene.api.add_worker("colleague", status="OFFLINE", later=3)  # its last heartbeat, after the look
    await look(scene)
    now = datetime.now(UTC)
    ago = {name: held_until(orphan, now) for name, orphan in orphans.items()}
    assert (round(ago["dead"], -2), round(ago["worker"], -1), round(ago["colleague"], -1)) == (7200, 10, 0)
    assert ago["worker"] >= 5  # not its own heartbeat
    assert ago["colleague"] <= 0


async def test_a_server_without_labels_does_not_tell_who_held_a_run(make_scene: MakeScene) -> None:
    scene = await make_scene(settings(), beats={"long dead": 7200, "dead": 300, "also dead": 100, "alive": 400})
    scene.api.add_worker("alive")
    orphan = Orphan(scene)
    await orphan.launch()
    orphan.runs()
    scene.api.runs[orphan.run_id]["labels"] = {}
    await look(scene)
    scene.clock.advance(SETTLED)  # if the other one is its first choice
    await look(scene)
    assert round(held_until(orphan, datetime.now(UTC)), -2) == 300


def held_until(orphan: Orphan, now: datetime) -> float:
    """When the run's holder was last known to live: so many seconds ago."""
    (run,) = [run for run in orphan.scene.parts.ledger if str(run.id) == orphan.run_id]
    assert run.held_until is not None
    return (now - run.held_until).total_seconds()


# -- who may take up what


async def test_only_runs_of_the_worker_s_own_queues_are_taken_up(make_scene: MakeScene) -> None:
    scene = await make_scene(settings(work_queues=("b",)))
    others, own = Orphan(scene, queue="default"), Orphan(scene, queue="b")
    for orphan in (others, own):
        await orphan.launch()
        orphan.runs()
    await look(scene)
    assert (others.held, own.held) == (False, True)


async def test_a_claim_of_another_region_is_launched_there(make_scene: MakeScene) -> None:
    scene = await make_scene(settings())
    orphan = Orphan(scene, place=Place("eu-west-1", ACCOUNT, "default"))
    scene.aws.site("eu-west-1").logs.create_group("prefect")
    await look(scene)
    (launched,) = scene.aws.launched
    assert ":eu-west-1:" in launched.arn
    assert orphan.held


async def test_a_claim_of_another_default_cluster_is_looked_for_there(make_scene: MakeScene) -> None:
    scene = await make_scene(settings(cluster="two"))
    scene.aws.ecs.create_cluster("one")
    scene.aws.ecs.create_cluster("two")
    orphan = Orphan(scene, place=Place("us-east-1", ACCOUNT, "one"))
    arn = await orphan.launch(named=False, cluster="one")
    await look(scene)
    assert [task.arn for task in scene.aws.launched] == [arn]
    assert scene.api.runs[orphan.run_id]["infrastructure_pid"] == f"one::{arn}"


async def test_what_is_out_of_reach_is_left_alone_and_told_once(
    make_scene: MakeScene, caplog: pytest.LogCaptureFixture
) -> None:
    scene = await make_scene(settings())
    claimed = Orphan(scene, place=Place("us-east-1", "999999999999", "default"))
    named = Orphan(scene)
    foreign = "arn:aws:ecs:us-east-1:999999999999:task/default/0a"
    scene.api.runs[named.run_id]["infrastructure_pid"] = f"default::{foreign}"
    named.runs()
    for _ in range(2):
        scene.clock.advance(SETTLED)
        await look(scene)
    assert (claimed.state, named.state, len(scene.parts.ledger)) == ("PENDING", "RUNNING", 0)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sum("can't be reached from here" in warning for warning in warnings) == 1
    assert sum("can't be watched from here" in warning for warning in warnings) == 1


async def test_a_claim_whose_job_has_credentials_of_its_own_is_launched_in_their_account(scene: Scene) -> None:
    orphan = Orphan(scene)
    scene.aws.accounts["AKIDOTHER"] = "999999999999"
    scene.aws.site("us-east-1", "999999999999").logs.create_group("prefect")
    credentials = {"aws_access_key_id": "AKIDOTHER", "aws_secret_access_key": "an-example"}
    scene.api.runs[orphan.run_id]["job_variables"] = {"aws_credentials": credentials}
    await look(scene)
    (launched,) = scene.aws.launched
    assert ":999999999999:" in launched.arn
    assert orphan.held


async def test_region_and_cluster_of_a_task_are_those_of_its_arn(make_scene: MakeScene) -> None:
    scene = await make_scene(settings(), region="eu-west-1")
    async with aioboto3.Session().client("ecs", region_name="us-east-1") as ecs:
        await ecs.register_task_definition(**DEFINITION)
        orphan = Orphan(scene)
        await orphan.launch(ecs=ecs)
    orphan.runs()
    await look(scene)
    scene.aws.advance(30)
    await scene.watch()
    await scene.watch(later=61)
    await scene.report()
    (run,) = scene.parts.ledger
    assert (run.phase, run.target.region, orphan.state) == (Phase.RUNNING, "us-east-1", "RUNNING")


async def test_who_is_not_the_first_choice_takes_up_what_the_first_leaves(make_scene: MakeScene) -> None:
    scene = await make_scene(settings())
    orphans = [Orphan(scene) for _ in range(12)]
    for orphan in orphans:
        await orphan.launch()
        orphan.runs()
    scene.api.add_worker("of another queue")
    await look(scene)
    first = sum(orphan.held for orphan in orphans)
    assert 0 < first < len(orphans)
    scene.clock.advance(31)
    await look(scene)
    assert all(orphan.held for orphan in orphans)


async def test_a_claim_counts_more_than_the_label_of_an_earlier_attempt(scene: Scene) -> None:
    """A suspended run that a colleague had held was resumed; its new claim was not known to stand."""
    orphan = Orphan(scene, worker="colleague")
    first = await orphan.launch()
    orphan.runs(label="colleague")
    await scene.ecs.stop_task(cluster="default", task=first)
    scene.api.enter(orphan.run_id, {"type": "PAUSED", "name": "Suspended"})
    scene.api.enter(orphan.run_id, {"type": "SCHEDULED", "name": "Resuming"})
    anew = {"message": claim_message("worker", HERE), "state_details": {"transition_id": str(uuid4())}}
    scene.api.enter(orphan.run_id, {"type": "PENDING", **anew})
    scene.clock.advance(SETTLED)
    scene.api.add_worker("colleague")
    await look(scene)
    assert orphan.held
    assert len(scene.aws.launched) == 2


# -- what is true is asked before it is judged


async def test_a_flow_that_runs_in_a_second_task_is_not_crashed_for_the_first(scene: Scene) -> None:
    orphan = Orphan(scene)
    first = await orphan.launch()
    await scene.ecs.stop_task(cluster="default", task=first)
    scene.aws.advance(60)
    second = await orphan.launch(2, named=False)
    scene.aws.advance(60)
    orphan.runs()
    await look(scene)
    await scene.watch()
    await scene.report()
    (run,) = scene.parts.ledger
    assert (orphan.state, run.task.arn if run.task else "") == ("RUNNING", second)
    await scene.parts.steps.sign.repeat()
    assert scene.api.runs[orphan.run_id]["infrastructure_pid"] == f"default::{second}"


async def test_a_run_that_waits_in_its_container_for_a_retry_is_adopted(scene: Scene) -> None:
    orphan = Orphan(scene)
    arn = await orphan.launch()
    orphan.runs()
    scene.api.runs[orphan.run_id]["empirical_policy"] = {"retry_type": "in_process"}
    scene.api.enter(orphan.run_id, {"type": "SCHEDULED", "name": "AwaitingRetry"})
    scheduled = Orphan(scene)
    scene.api.enter(scheduled.run_id, {"type": "SCHEDULED", "name": "AwaitingRetry"})
    scene.aws.advance(30)
    await look(scene)
    assert (orphan.held, scheduled.held) == (True, False)
    await scene.ecs.stop_task(cluster="default", task=arn)
    scene.aws.advance(120)
    await scene.watch()
    await scene.report()
    assert orphan.state == "CRASHED"


async def test_what_runs_and_names_its_task_costs_no_history(scene: Scene) -> None:
    orphans = [Orphan(scene) for _ in range(5)]
    for orphan in orphans:
        await orphan.launch()
        orphan.runs()
    colleagues = [Orphan(scene, worker="alive") for _ in range(5)]
    scene.api.add_worker("alive")
    scene.api.add_worker("worker")
    for _ in range(2):
        await look(scene)
        scene.clock.advance(SETTLED)
    assert all(orphan.held for orphan in orphans)
    assert not any(orphan.held for orphan in colleagues)
    assert "GET /flow_run_states/" not in {name for _, name in scene.api.calls}


# -- permanent errors end, passing ones wait


async def test_a_job_that_can_t_be_rendered_any_more_does_not_hide_its_task(scene: Scene) -> None:
    scene.api.deployment["job_variables"] = {
        "task_definition_arn": f"arn:aws:ecs:us-east-1:{ACCOUNT}:task-definition/no:7"
    }
    orphan = Orphan(scene)
    scene.aws.ecs.scripts.default = TaskScript(running=5, exit_code=137)
    await orphan.launch()
    orphan.runs()
    await look(scene)
    assert orphan.held
    scene.aws.advance(60)
    await scene.watch()
    await scene.report()
    assert orphan.state == "CRASHED"


async def test_a_claim_that_can_t_be_launched_ends_with_the_remedy(scene: Scene) -> None:
    scene.api.deployment["job_variables"] = {"inherit_network": True}
    orphan = Orphan(scene)
    await look(scene)
    await scene.report()
    assert orphan.state == "CRASHED"
    assert "inherit_network" in orphan.message


async def test_one_stuck_orphan_lets_no_look_list_everything(scene: Scene) -> None:
    stuck = Orphan(scene)
    scene.aws.fault(fault(What.ERROR, action="ListTasks", code="ServerException", message="", status=500))
    await look(scene)
    listed = scene.api.listed
    assert (stuck.held, "RUNNING" in listed[0]) == (False, True)
    listed.clear()
    await look(scene)
    assert listed == [frozenset({"PENDING", "CANCELLING"})]
    scene.aws.director.clear()
    await look(scene)
    assert stuck.held


# -- a limit holds over restarts


async def test_what_the_last_worker_left_takes_the_slots(make_scene: MakeScene) -> None:
    scene = await make_scene(settings(limit=2))
    for _ in range(2):
        orphan = Orphan(scene)
        await orphan.launch()
        orphan.runs()
    await look(scene)
    assert scene.parts.ledger.free == 0


async def test_runs_of_a_worker_that_may_have_died_a_moment_ago_are_counted(make_scene: MakeScene) -> None:
    scene = await make_scene(settings(limit=3))
    scene.api.add_worker("worker-1")
    running, fresh = Orphan(scene, worker="worker-1"), Orphan(scene, worker="worker-1")
    await running.launch()
    running.runs("worker-1")
    await look(scene)
    assert (len(scene.parts.ledger), scene.parts.ledger.free) == (0, 1)
    scene.api.add_worker("worker-1")  # it beats again
    await look(scene)
    assert scene.parts.ledger.free == 3
    scene.api.remove_worker("worker-1")
    scene.clock.advance(SETTLED)
    await look(scene)
    assert (running.held, fresh.held, scene.parts.ledger.free) == (True, True, 1)


# -- two of one name


async def test_two_workers_of_one_name_are_told(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    await look(scene)
    await scene.parts.heartbeat.beat()
    await look(scene)
    assert "Another worker called worker" not in caplog.text
    scene.api.add_worker("worker", later=7)  # a heartbeat that this worker did not send
    await look(scene)
    assert "Another worker called worker seems to be alive in work pool pool" in caplog.text


async def test_a_look_that_fails_half_way_ends_with_the_server_s_error(scene: Scene) -> None:
    Orphan(scene)
    listings = 0

    def fail_the_third(call: str) -> None:  # after two listings: the runs themselves
        nonlocal listings
        listings += call == "POST /flow_runs/filter"
        if listings == 3:
            raise web.HTTPServiceUnavailable

    scene.api.on_call = fail_the_third
    async with anyio.create_task_group() as lanes:
        with pytest.raises(PrefectUnavailable):  # which the loop tells, and looks again; any other would end the worker
            await scene.parts.adopt.look(lanes)


# -- what it costs


def leave_running(scene: Scene, number: int, worker: str) -> None:
    """So many runs, with tasks, that the worker of that name looked after."""
    for orphan in [Orphan(scene) for _ in range(number)]:
        scene.api.runs[orphan.run_id]["infrastructure_pid"] = f"default::{TASK_ARN}{orphan.run_id}"
        orphan.runs(worker)


async def test_running_runs_of_its_own_cost_a_restarted_worker_no_call_each(make_scene: MakeScene) -> None:
    scene = await make_scene(settings())
    leave_running(scene, 250, "worker")
    before = len(scene.api.calls)
    await look(scene)
    assert len(scene.parts.ledger) == 250
    assert len(scene.api.calls) - before < 20


async def test_a_dead_colleague_s_runs_are_watched_before_all_are_labelled(make_scene: MakeScene) -> None:
    scene = await make_scene(settings())
    leave_running(scene, 250, "dead")

    def labelled() -> int:
        return sum("labels" in name for _, name in scene.api.calls)

    async with anyio.create_task_group() as group:
        group.start_soon(scene.parts.steps.sign.run)
        await look(scene)
        assert len(scene.parts.ledger) == 250
        assert labelled() < 250
        await until(lambda: labelled() > LABELS_BURST)  # the others follow, paced
        group.cancel_scope.cancel()
