"""Where lines go: the worker's output and the runs' own logs on a real Prefect server."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import anyio
import pytest

from ecs_worker.lifecycle.journal.event_feed import EventFeed
from ecs_worker.lifecycle.journal.journal import Journal
from ecs_worker.lifecycle.journal.output import LOOK_BACK, OVERLAP, ContainerOutput
from ecs_worker.lifecycle.journal.run_logs import RunLogs
from ecs_worker.lifecycle.journal.sieve import Sieve
from ecs_worker.lifecycle.report import Report
from ecs_worker.lifecycle.run.ledger import Ledger
from ecs_worker.model import ContainerFacts, LogStream, Output, Phase, Placement, TaskFacts
from ecs_worker.ops.logging import ConsoleFormatter, JsonFormatter
from ecs_worker.prefect_api.schemas import LogEntry, ProposedState, StateType
from ecs_worker.settings import PrefectSettings, WorkerSettings
from ecs_worker.worker import build
from support.builders import PoolView, claimed_run, run_in
from support.reading import GROUP, PACE, TARGET, Console
from support.waiting import until

if TYPE_CHECKING:
    from ecs_worker.aws.session import Aws
    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.prefect_api.client import PrefectClient
    from support.servers.prefect import Admin

pytestmark = pytest.mark.anyio

LOG = LogStream(GROUP, "run", "prefect", "us-east-1")
CAR = LogStream(GROUP, "run", "proxy", "us-east-1")


@dataclass
class Stage:
    """A run whose task writes to the simulator, and what a worker has to show its lines."""

    console: Console
    aws: Aws
    admin: Admin
    api: PrefectClient

    async def held(self, output: Output, *, begun: bool = True, **placement: Any) -> Run:
        """A run that is Pending on the server, with a task that runs."""
        pool = await self.admin.create_pool()
        run_id = UUID(await self.admin.create_run(await self.admin.create_deployment(pool)))
        claim = uuid4()
        await self.api.propose_state(run_id, ProposedState(StateType.PENDING, "Pending", transition_id=claim))
        now = datetime.fromtimestamp(self.console.cloud.clock.now(), UTC)
        arn = f"arn:aws:ecs:us-east-1:123456789012:task/c/{uuid4().hex}"
        claimed = claimed_run(run_id, name="quick-fox", claim_id=claim)
        where = Placement(TARGET, "c", "prefect", log=LOG, output=output, **placement)
        if begun:
            task = TaskFacts(arn, last_status="RUNNING", created_at=now, started_at=now)
            return run_in(Phase.RUNNING, claim=claimed, where=where, task=task)
        return run_in(Phase.STARTING, claim=claimed, where=where, task=TaskFacts(arn, created_at=now))

    def worker(self) -> tuple[ContainerOutput, RunLogs, Ledger]:
        feed = RunLogs(self.api)
        ledger = Ledger(limit=None, max_launching=10)
        return ContainerOutput(self.aws, feed, Sieve(self.api), ledger, PACE), feed, ledger

    def report(self, output: ContainerOutput, run_logs: RunLogs, ledger: Ledger) -> Report:
        """Tells the ends of what the ledger holds. Nothing is launched: no way is open."""
        settings = WorkerSettings(pool="pool", name="worker", report_grace_seconds=0)
        parts = build(settings, PrefectSettings(), self.api, self.aws, stopping=anyio.Event())
        journal = Journal(run_logs, EventFeed(self.api, "worker", PoolView()), output, "worker")
        return Report(self.api, ledger, journal, parts.locate, parts.way, 0.0)

    async def lines(self, held: Run, container: str = "prefect") -> list[dict[str, Any]]:
        found = await self.admin.logs(held.id)
        return [line for line in found if line["name"] == f"ecs.{container}"]


@pytest.fixture
def stage(console: Console, aws: Aws, admin3: Admin, api3: PrefectClient) -> Stage:
    return Stage(console, aws, admin3, api3)


def stream_of(held: Run, log: LogStream = LOG) -> str:
    assert held.task is not None
    return log.name(held.task.task_id)


def taken_over(held: Run, *, held_until: datetime | None = None, **facts: Any) -> Run:
    """The run as the next worker holds it. `held_until`: the last heartbeat of the one before."""
    assert held.task is not None
    task = replace(held.task, **facts)
    return run_in(Phase.RUNNING, claim=held.claim, where=held.placement, task=task, adopted=True, held_until=held_until)


def stopped(held: Run, **facts: Any) -> None:
    assert held.task is not None
    held.seen(replace(held.task, last_status="STOPPED", version=9, **facts))


async def look(report: Report) -> None:
    """A look at the ends, until all are told."""
    async with anyio.create_task_group() as ends:
        await report.look(ends)


async def test_both_destinations_get_each_line_with_its_time(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    logs, feed, ledger = stage.worker()
    held = await stage.held(Output.BOTH)
    ledger.take(held)
    console = stage.console
    console.container(stream_of(held), rate=5.0, delay=2.0, jitter=20.0, total=200)
    with caplog.at_level(logging.INFO, "ecs_worker.output"):
        async with anyio.create_task_group() as running:
            logs.follow(held)
            running.start_soon(logs.run)
            await until(lambda: len(caplog.records) >= 100)
            console.stop(stream_of(held))
            stopped(held)
            logs.follow(held)
            await until(lambda: len(logs) == 0)
            running.cancel_scope.cancel()
    await feed.flush()
    written = console.written(stream_of(held))
    shown = [record for record in caplog.records if record.name == "ecs_worker.output"]
    assert Counter(record.getMessage() for record in shown) == written
    lines = await stage.lines(held)
    assert Counter(line["message"] for line in lines) == written
    numbers = [int(line["message"].rpartition(" ")[2]) for line in lines]
    assert numbers == sorted(numbers)  # the server sorts by the lines' own times
    fields = json.loads(JsonFormatter().format(shown[0]))
    assert fields["message"] in written
    assert (fields["flow_run_id"], fields["flow_run_name"], fields["container"]) == (
        str(held.id),
        "quick-fox",
        "prefect",
    )
    sent = {line["message"]: datetime.fromisoformat(line["timestamp"]) for line in lines}
    assert datetime.fromisoformat(fields["time"]) == sent[fields["message"]]
    assert ConsoleFormatter(coloured=False).format(shown[0]).endswith(f" INFO    quick-fox | {fields['message']}")
    coloured = {ConsoleFormatter(coloured=True).format(record).partition("quick-fox")[0][-6:] for record in shown}
    assert len(coloured) == 1
    assert "\x1b[" in coloured.pop()


async def test_after_a_restart_no_line_is_lost_or_doubled_on_the_server(stage: Stage) -> None:
    """The first process dies with lines read and not sent."""
    held = await stage.held(Output.PREFECT)
    console = stage.console
    console.container(stream_of(held), rate=10.0, delay=2.0, jitter=20.0)
    logs, feed, ledger = stage.worker()
    ledger.take(held)
    async with anyio.create_task_group() as running:
        logs.follow(held)
        running.start_soon(logs.run)
        await until(lambda: len(feed) >= 200)
        await feed.flush()
        await until(lambda: len(feed) >= 100)
        running.cancel_scope.cancel()
    logs, feed, ledger = stage.worker()
    held = taken_over(held)
    ledger.take(held)
    async with anyio.create_task_group() as running:
        logs.follow(held)
        running.start_soon(logs.run)
        await until(lambda: len(feed) >= 200)
        console.stop(stream_of(held))
        stopped(held)
        logs.follow(held)
        await until(lambda: len(logs) == 0)
        running.cancel_scope.cancel()
    await feed.flush()
    assert Counter(line["message"] for line in await stage.lines(held)) == console.written(stream_of(held))


async def test_after_a_restart_the_worker_s_output_repeats_the_last_minutes(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    logs, _, ledger = stage.worker()
    held = await stage.held(Output.WORKER)
    assert held.task is not None
    now = datetime.now(UTC)
    held = taken_over(held, created_at=now - timedelta(hours=1))
    ledger.take(held)
    stream = stage.console.cloud.logs.open_stream(GROUP, stream_of(held), None, now.timestamp())
    for message, ago in (("long ago", 2 * LOOK_BACK), ("a minute ago", 60.0)):
        stream.write(now.timestamp() - ago, message, 0.0)
    with caplog.at_level(logging.INFO, "ecs_worker.output"):
        async with anyio.create_task_group() as running:
            logs.follow(held)
            running.start_soon(logs.run)
            await until(lambda: bool(caplog.records))
            ledger.drop(held)
            await until(lambda: len(logs) == 0)
            running.cancel_scope.cancel()
    assert [record.getMessage() for record in caplog.records if record.name == "ecs_worker.output"] == ["a minute ago"]


@pytest.mark.parametrize("to", [Output.WORKER, Output.BOTH])
async def test_after_a_death_the_worker_s_output_goes_on_from_the_last_heartbeat(
    stage: Stage, caplog: pytest.LogCaptureFixture, to: Output
) -> None:
    """By when CloudWatch took lines in: what came late wasn't shown yet, however old it is."""
    logs, _, ledger = stage.worker()
    held = await stage.held(to)
    assert held.task is not None
    died = datetime.now(UTC) - timedelta(hours=2)
    held = taken_over(held, held_until=died, created_at=died - timedelta(hours=1))
    ledger.take(held)
    stream = stage.console.cloud.logs.open_stream(GROUP, stream_of(held), None, died.timestamp() - 3600)
    for message, written, delay in (
        ("shown", -60, 0),
        ("shown a moment ago", -OVERLAP - 1, 0),
        ("late", -100, 99),
        ("perhaps shown", -1, 0),
        ("after the death", 30, 0),
    ):
        stream.write(died.timestamp() + written, message, delay)
    with caplog.at_level(logging.INFO, "ecs_worker.output"):
        async with anyio.create_task_group() as running:
            logs.follow(held)
            running.start_soon(logs.run)
            await until(lambda: len(caplog.records) >= 3)
            ledger.drop(held)
            await until(lambda: len(logs) == 0)
            running.cancel_scope.cancel()
    shown = [record.getMessage() for record in caplog.records if record.name == "ecs_worker.output"]
    assert shown == ["late", "perhaps shown", "after the death"]


async def test_what_prefect_s_logger_has_sent_is_not_sent_again_unless_the_container_died_before(stage: Stage) -> None:
    logs, feed, ledger = stage.worker()
    held = await stage.held(Output.PREFECT)
    ledger.take(held)
    await stage.admin.set_state(held.id, "RUNNING")
    stream, put = stream_of(held), stage.console.cloud.logs.put

    def logged(text: str) -> LogEntry:
        now = datetime.now(UTC)
        put(GROUP, stream, f"{now:%H:%M:%S}.{now.microsecond // 1000:03} | INFO    | Flow run 'fox' - {text}")
        return LogEntry(held.id, logging.INFO, text, now, "prefect.flow_runs")

    stage.console.cloud.clock.set_speed(1)
    stage.console.cloud.advance(datetime.now(UTC).timestamp() - stage.console.cloud.clock.now())
    await stage.api.write_logs([logged("sent"), logged("sent, too")])
    put(GROUP, stream, "printed")
    async with anyio.create_task_group() as running:
        logs.follow(held)
        running.start_soon(logs.run)
        await until(lambda: len(feed) == 1 and len(logs) == 1)  # nothing is held any more
        put(GROUP, stream, "the end")
        logged("it died before this was sent")
        await until(lambda: len(feed) == 2)
        stopped(held, containers=(ContainerFacts("prefect", exit_code=137),))
        await look(stage.report(logs, feed, ledger))
        await until(lambda: len(logs) == 0)
        running.cancel_scope.cancel()
    await feed.flush()
    shown = [line["message"].rpartition(" - ")[2] for line in await stage.lines(held)]
    assert sorted(shown) == ["it died before this was sent", "printed", "the end"]


async def test_what_prefect_does_not_take_in_time_stays_on_cloudwatch_and_is_told(stage: Stage) -> None:
    held = await stage.held(Output.PREFECT)
    _, feed, _ = stage.worker()
    now = datetime.now(UTC)
    for number in range(30):
        feed.add_output(held.id, "prefect", f"{number:02} ".ljust(800_000, "x"), now, "log stream s of group g")
    await feed.flush()
    numbers = [int(line["message"][:2]) for line in await stage.lines(held)]
    assert sorted(numbers) == list(range(30 - len(numbers), 30))
    await feed.flush()
    told = [line["message"] for line in await stage.admin.logs(held.id) if line["level"] == logging.WARNING]
    skipped = f"{30 - len(numbers)} lines of container prefect up to here are left out, since the Prefect API took none"
    assert told == [f"{skipped} for too long. They are on CloudWatch, in log stream s of group g."]


@pytest.mark.parametrize("text", ["a\x00b", "lone \ud800", "ÿ" * 700_000, "\x01" * 700_000, "😀" * 300_000])
async def test_no_text_is_too_odd_or_too_long(stage: Stage, text: str) -> None:
    held = await stage.held(Output.PREFECT)
    _, feed, _ = stage.worker()
    now = datetime.now(UTC)
    for message in ("before", text, "after"):
        feed.add_output(held.id, "prefect", message, now, "")
    await feed.flush()
    lines = [line["message"] for line in await stage.lines(held)]
    assert {"before", "after"} < set(lines)
    kept = "".join(line for line in lines if line not in {"before", "after"})
    assert len(kept) == len(text.replace("\x00", ""))
    assert all(len(json.dumps(line)) < 1_000_000 for line in lines)


async def test_a_run_that_never_began_shows_its_containers_last_lines(stage: Stage) -> None:
    """Also late ones, without holding up the state, and side-cars' that the job names."""
    held = await stage.held(Output.NOWHERE, side_car_logs=(CAR,), start_attempts=1)
    console = stage.console
    console.container(stream_of(held), lines=tuple(f"line {n}" for n in range(700)))
    console.container(stream_of(held, CAR), lines=("I am the proxy",), delay=10.0)
    console.cloud.advance(1)
    console.cloud.logs.put(GROUP, stream_of(held), "ModuleNotFoundError", delay=20.0)
    for stream in (stream_of(held), stream_of(held, CAR)):
        console.stop(stream)
    containers = (ContainerFacts("prefect", exit_code=1), ContainerFacts("proxy", exit_code=0))
    stopped(held, stop_code="EssentialContainerExited", containers=containers)
    logs, feed, ledger = stage.worker()
    ledger.take(held)
    await look(stage.report(logs, feed, ledger))
    run = await stage.admin.read_run(held.id)
    assert run["state_type"] == "CRASHED"
    async with anyio.create_task_group() as running:
        running.start_soon(logs.run)
        await until(lambda: len(logs) == 0)
        running.cancel_scope.cancel()
    await feed.flush()
    lines = [line["message"] for line in await stage.lines(held)]
    numbered = [line for line in lines if line != "ModuleNotFoundError"]
    assert sorted(numbered) == [f"line {n}" for n in range(700 - len(numbered), 700)]
    assert len(numbered) in {499, 500}  # the late one is among the 500, or came after them
    assert lines.count("ModuleNotFoundError") == 1
    assert [line["message"] for line in await stage.lines(held, "proxy")] == ["I am the proxy"]


async def test_an_attempt_that_is_repeated_leaves_its_last_lines(stage: Stage) -> None:
    held = await stage.held(Output.NOWHERE, begun=False, side_car_logs=(CAR,))
    stage.console.container(stream_of(held, CAR), lines=("no upstream",))
    stage.console.stop(stream_of(held, CAR))
    stopped(
        held,
        stop_code="TaskFailedToStart",
        stopped_reason="Timeout waiting for network interface provisioning to complete.",
        containers=(ContainerFacts("prefect"), ContainerFacts("proxy", exit_code=1)),
    )
    logs, feed, ledger = stage.worker()
    ledger.take(held)
    await look(stage.report(logs, feed, ledger))
    assert (held.phase, held.attempt) == (Phase.CLAIMED, 2)
    async with anyio.create_task_group() as running:
        running.start_soon(logs.run)
        await until(lambda: len(logs) == 0)
        running.cancel_scope.cancel()
    await feed.flush()
    assert [line["message"] for line in await stage.lines(held, "proxy")] == ["no upstream"]


async def test_a_run_that_began_is_not_shown_again(stage: Stage) -> None:
    held = await stage.held(Output.NOWHERE)
    await stage.admin.set_state(held.id, "RUNNING")
    stopped(held, containers=(ContainerFacts("prefect", exit_code=137),))
    logs, feed, ledger = stage.worker()
    ledger.take(held)
    await look(stage.report(logs, feed, ledger))
    assert (await stage.admin.read_run(held.id))["state_type"] == "CRASHED"
    assert len(logs) == 0


async def test_a_task_that_is_not_ours_any_more_is_read_to_its_present_end(stage: Stage) -> None:
    logs, feed, ledger = stage.worker()
    held = await stage.held(Output.PREFECT)
    ledger.take(held)
    stage.console.container(stream_of(held), lines=("one",))
    logs.follow(held)
    async with anyio.create_task_group() as running:
        running.start_soon(logs.run)
        await until(lambda: len(feed) == 1)
        ledger.drop(held)
        await until(lambda: len(logs) == 0)
        running.cancel_scope.cancel()
