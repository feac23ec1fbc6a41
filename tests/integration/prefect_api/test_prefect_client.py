"""The client against real Prefect servers, 3.x and 2.20."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from ecs_worker.errors import PrefectNotFound, PrefectRejected
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.prefect_api.schemas import LogEntry, ProposedState, SetStateStatus, StateType
from ecs_worker.settings import PrefectSettings
from support.servers.prefect import Admin, PrefectServer, prefect_server

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

TEMPLATE = {
    "job_configuration": {"command": "{{ command }}"},
    "variables": {"type": "object", "properties": {"command": {"type": "string"}}},
}


def claim() -> ProposedState:
    return ProposedState(StateType.PENDING, "Pending", transition_id=uuid4())


async def new_run(admin: Admin) -> UUID:
    pool = await admin.create_pool()
    return UUID(await admin.create_run(await admin.create_deployment(pool)))


async def test_health_and_version(api: PrefectClient, prefect: PrefectServer) -> None:
    assert await api.health()
    assert not api.is_cloud
    version = await api.server_version()
    assert version is not None
    assert version.startswith({"3": "3.", "2": "2.20."}[prefect.line])


# -- pools and workers


async def test_a_pool_is_created_once_by_several_workers(api: PrefectClient) -> None:
    name = f"pool é+?# {uuid4().hex[:8]}"
    assert await api.read_pool(name) is None
    created = await asyncio.gather(*(api.create_pool(name, TEMPLATE) for _ in range(5)))
    assert len({pool.id for pool in created}) == 1
    pool = await api.read_pool(name)
    assert pool is not None
    assert (pool.name, pool.type, pool.base_job_template) == (name, "ecs", TEMPLATE)


async def test_an_empty_template_is_filled(api: PrefectClient, admin: Admin) -> None:
    name = await admin.create_pool(concurrency_limit=3)
    before = await api.read_pool(name)
    assert before is not None
    assert (before.base_job_template, before.concurrency_limit) == ({}, 3)
    await api.update_pool(name, base_job_template=TEMPLATE, concurrency_limit=None)
    after = await api.read_pool(name)
    assert after is not None
    assert (after.base_job_template, after.concurrency_limit) == (TEMPLATE, None)


async def test_a_refusal_tells_where_and_why_but_not_what_was_sent(api: PrefectClient) -> None:
    with pytest.raises(PrefectRejected, match=r"POST /work_pools/ answered 422: .*base_job_template") as caught:
        await api.create_pool("bad-template", {"job_configuration": {"s3cret": "{{ s3cret-value }}"}})
    assert caught.value.status == 422
    assert "s3cret" not in str(caught.value)


async def test_heartbeats_make_workers_online(api: PrefectClient, admin: Admin) -> None:
    pool = await admin.create_pool()
    assert await api.heartbeat(pool, "worker-a", 30) is None
    await api.heartbeat(pool, "worker-b", 30)
    assert {worker.name for worker in await api.workers(pool, "ONLINE")} == {"worker-a", "worker-b"}
    assert await api.workers(pool, "OFFLINE") == []
    assert [worker.name for worker in await api.newest_workers(pool)] == ["worker-b", "worker-a"]
    with pytest.raises(PrefectNotFound):
        await api.heartbeat("no-such-pool", "worker-a", 30)


# -- polling


async def test_polling_gives_due_runs_in_order(api: PrefectClient, admin: Admin) -> None:
    pool = await admin.create_pool()
    deployment = await admin.create_deployment(pool)
    now = datetime.now(UTC)
    second = await admin.create_run(deployment, scheduled=now - timedelta(seconds=10), job_variables={"cpu": 512})
    first = await admin.create_run(deployment, scheduled=now - timedelta(minutes=1))
    later = await admin.create_run(deployment, scheduled=now + timedelta(hours=1))

    due = await api.scheduled_runs(pool, before=now)
    assert [str(run.id) for run in due] == [first, second]
    assert due[1].job_variables == {"cpu": 512}
    assert due[0].state_type is StateType.SCHEDULED
    assert str(due[0].deployment_id) == deployment
    assert [str(run.id) for run in await api.scheduled_runs(pool, before=now, limit=1)] == [first]
    assert [str(run.id) for run in await api.scheduled_runs(pool, queues=["default"])] == [first, second, later]
    with pytest.raises(PrefectNotFound):
        await api.scheduled_runs(pool, queues=["no-such-queue"])
    await api.update_pool(pool, is_paused=True)
    assert await api.scheduled_runs(pool, before=now) == []


# -- claiming


async def test_of_many_claims_one_wins(api: PrefectClient, admin: Admin) -> None:
    run_id = await new_run(admin)
    claims = [claim() for _ in range(12)]
    answers = await asyncio.gather(*(api.propose_state(run_id, state) for state in claims))
    accepted = [state for state, answer in zip(claims, answers, strict=True) if answer.status is SetStateStatus.ACCEPT]
    assert len(accepted) == 1
    assert {answer.status for answer in answers} == {SetStateStatus.ACCEPT, SetStateStatus.ABORT}
    run = await api.read_run(run_id)
    assert run is not None
    assert run.state is not None
    assert run.state.transition_id == accepted[0].transition_id


async def test_a_claim_repeated_is_recognised_by_its_transition_id(api: PrefectClient, admin: Admin) -> None:
    run_id, state = await new_run(admin), claim()
    assert (await api.propose_state(run_id, state)).status is SetStateStatus.ACCEPT
    again = await api.propose_state(run_id, state)
    assert again.status is SetStateStatus.REJECT
    assert again.reason
    assert again.state is not None
    assert (again.state.type, again.state.transition_id) == (StateType.PENDING, state.transition_id)
    other = await api.propose_state(run_id, claim())
    assert other.status is SetStateStatus.ABORT


async def test_a_claim_is_released_by_scheduling_again(api: PrefectClient, admin: Admin) -> None:
    run_id = await new_run(admin)
    await api.propose_state(run_id, claim())
    when = datetime.now(UTC) + timedelta(minutes=5)
    released = await api.propose_state(run_id, ProposedState(StateType.SCHEDULED, scheduled_time=when))
    assert released.status is SetStateStatus.ACCEPT
    assert released.state is not None
    assert released.state.scheduled_time == when
    types = [state.type for state in await api.state_history(run_id)]
    assert types == [StateType.SCHEDULED, StateType.PENDING, StateType.SCHEDULED]


async def test_a_run_in_the_future_may_not_start_yet(api: PrefectClient, admin: Admin) -> None:
    deployment = await admin.create_deployment(await admin.create_pool())
    run_id = UUID(await admin.create_run(deployment, scheduled=datetime.now(UTC) + timedelta(hours=1)))
    await api.propose_state(run_id, claim())
    answer = await api.propose_state(run_id, ProposedState(StateType.RUNNING))
    assert answer.status is SetStateStatus.WAIT
    assert answer.delay_seconds > 3000


async def test_force_writes_cancelled_over_anything(api: PrefectClient, admin: Admin) -> None:
    run_id = await new_run(admin)
    await api.propose_state(run_id, ProposedState(StateType.COMPLETED))
    answer = await api.propose_state(run_id, ProposedState(StateType.CANCELLED, message="gone"), force=True)
    assert answer.status is SetStateStatus.ACCEPT
    run = await admin.read_run(run_id)
    assert (run["state_type"], run["state"]["message"]) == ("CANCELLED", "gone")


async def test_a_deleted_run(api: PrefectClient, admin: Admin) -> None:
    run_id = await new_run(admin)
    await admin.call("DELETE", f"/flow_runs/{run_id}")
    assert await api.read_run(run_id) is None
    assert not await api.update_run(run_id, infrastructure_pid="arn")
    await api.label_run(run_id, {"a": "b"})
    with pytest.raises(PrefectNotFound):
        await api.propose_state(run_id, claim())


# -- reading and updating


async def test_what_the_worker_writes_on_a_run(api: PrefectClient, admin: Admin, prefect: PrefectServer) -> None:
    run_id = await new_run(admin)
    assert await api.update_run(run_id, infrastructure_pid="cluster::arn")
    await api.label_run(run_id, {"prefect.worker.name": "w"})
    run = await api.read_run(run_id)
    assert run is not None
    assert run.infrastructure_pid == "cluster::arn"
    labels = run.labels.get("prefect.worker.name")
    assert labels == {"3": "w", "2": None}[prefect.line]


async def test_runs_are_filtered(api: PrefectClient, admin: Admin) -> None:
    pool = await admin.create_pool()
    deployment = await admin.create_deployment(pool)
    runs = [UUID(run) for run in await admin.create_runs(deployment, 3)]
    await api.propose_state(runs[1], claim())
    other = await new_run(admin)

    assert {run.id for run in await api.runs(pool=pool)} == set(runs)
    assert [run.id for run in await api.runs(pool=pool, states=[StateType.PENDING, StateType.RUNNING])] == [runs[1]]
    assert {run.id for run in await api.runs(ids=[runs[0], other, uuid4()])} == {runs[0], other}
    assert await api.runs(ids=[]) == []
    named = (await api.runs(ids=[runs[2]]))[0]
    assert runs[2] in {run.id for run in await api.runs(names=[named.name])}
    assert await api.runs(pool=pool, names=["no such name"]) == []


async def test_all_pages_are_read_under_a_lowered_page_limit(session_directory: Path) -> None:
    with prefect_server("3", session_directory, env={"PREFECT_SERVER_API_DEFAULT_LIMIT": "3"}) as server:
        async with Admin(server) as admin, PrefectClient(PrefectSettings(api_url=server.url)) as api:
            pool = await admin.create_pool()
            runs = set(await admin.create_runs(await admin.create_deployment(pool), 7))
            assert {str(run.id) for run in await api.runs(pool=pool)} == runs
            assert {str(run.id) for run in await api.runs(ids=[UUID(run) for run in runs])} == runs
            assert len(await api.scheduled_runs(pool, limit=5)) == 3
            assert len(await api.scheduled_runs(pool, limit=2)) == 2


async def test_deployments_flows_and_their_variables(api: PrefectClient, admin: Admin) -> None:
    flow_name = f"flow-{uuid4().hex[:8]}"
    flow_id = await admin.create_flow(flow_name)
    pool = await admin.create_pool()
    deployment_id = await admin.create_deployment(
        pool, name="the deployment", flow_id=flow_id, job_variables={"cpu": 512, "env": {"A": "1"}}
    )
    deployment = await api.read_deployment(UUID(deployment_id))
    assert deployment is not None
    assert deployment.job_variables == {"cpu": 512, "env": {"A": "1"}}
    assert (deployment.name, str(deployment.flow_id), deployment.work_pool_name) == ("the deployment", flow_id, pool)
    assert datetime.fromisoformat(deployment.updated).tzinfo is not None
    assert await api.deployment_by_name(f"{flow_name}/the deployment") == deployment
    assert (await api.read_flow(UUID(flow_id))).name == flow_name

    await admin.call("DELETE", f"/deployments/{deployment_id}")
    assert await api.read_deployment(UUID(deployment_id)) is None
    assert await api.deployment_by_name(f"{flow_name}/the deployment") is None
    with pytest.raises(PrefectNotFound):
        await api.read_flow(uuid4())


async def test_the_deployments_of_a_pool(api: PrefectClient, admin: Admin, prefect: PrefectServer) -> None:
    pool, other = await admin.create_pool(), await admin.create_pool()
    variables = {"infra_overrides" if prefect.line == "2" else "job_variables": {"command": "c"}}
    await admin.create_deployment(pool, name="b")
    await admin.create_deployment(pool, name="a", **variables)  # type: ignore[arg-type] # fields of any kind
    await admin.create_deployment(other, name="c")
    found = await api.deployments(pool)
    assert [(each.name, each.job_variables, each.work_pool_name) for each in found] == [
        ("a", {"command": "c"}, pool),
        ("b", {}, pool),
    ]
    assert await api.deployments("no-such-pool") == []


async def test_blocks_come_with_their_secrets(api: PrefectClient, admin: Admin) -> None:
    name = f"block-{uuid4().hex[:8]}"
    block_id = await admin.create_block("aws-credentials", name, {"aws_secret_access_key": "s3cret"})
    data = await api.read_block_document(UUID(block_id))
    assert data["aws_secret_access_key"] == "s3cret"
    assert await api.read_block_document_by_name("aws-credentials", name) == data
    hidden = await api.read_block_document_by_name("aws-credentials", name, secrets=False)
    assert hidden == await api.read_block_document(UUID(block_id), secrets=False)
    assert "s3cret" not in str(hidden)
    with pytest.raises(PrefectNotFound):
        await api.read_block_document(uuid4())


async def test_variables(api: PrefectClient, admin: Admin, prefect: PrefectServer) -> None:
    name = f"v{uuid4().hex[:8]}"
    value = {"3": {"a": [1, None]}, "2": "text"}[prefect.line]
    await admin.create_variable(name, value)
    assert await api.read_variable(name) == value
    with pytest.raises(PrefectNotFound):
        await api.read_variable("no_such_variable")


async def test_a_variable_may_be_null(api3: PrefectClient, admin3: Admin) -> None:
    name = f"v{uuid4().hex[:8]}"
    await admin3.create_variable(name, None)
    assert await api3.read_variable(name) is None


# -- telling


async def test_only_bad_log_entries_are_left_out(api: PrefectClient, admin: Admin) -> None:
    run_id = await new_run(admin)
    now = datetime.now(UTC)
    entries = [LogEntry(run_id, 20, f"line {n}", now + timedelta(milliseconds=n)) for n in range(9)]
    entries[1] = LogEntry(run_id, 20, "nul\x00 and half a pair \ud83d and é", now + timedelta(milliseconds=1))
    # The server's own reasons to refuse an entry differ between versions; no version takes this one.
    entries[5] = LogEntry(run_id, "loud", "poison", now)  # type: ignore[arg-type]
    assert await api.write_logs(entries) == 1
    stored = [entry["message"] for entry in await admin.logs(run_id)]
    wanted = [f"line {n}" for n in range(9) if n != 5]
    wanted[1] = "nul and half a pair ? and é"
    assert stored == wanted
    assert await api.write_logs([]) == 0


async def test_events_are_stored_where_the_server_has_them(
    api: PrefectClient, admin: Admin, prefect: PrefectServer
) -> None:
    event = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.ecs.task.running",
        "resource": {"prefect.resource.id": f"prefect.ecs.task.{uuid4().hex}"},
        "related": [],
        "payload": {},
    }
    await api.write_events([event])
    await api.write_events([event])  # the same id again is the same event
    if prefect.line == "2":
        with pytest.raises(AssertionError, match="404"):
            await admin.post("/events/filter", {})
        return
    found: list[object] = []
    async with asyncio.timeout(30):
        while not found:
            answer = await admin.post("/events/filter", {"filter": {"event": {"name": [event["event"]]}}})
            found = [stored for stored in answer["events"] if stored["id"] == event["id"]]
    assert len(found) == 1


async def test_a_lease_that_is_gone(api: PrefectClient) -> None:
    assert not await api.renew_lease(uuid4(), 300)


async def test_a_claim_takes_and_keeps_a_concurrency_slot(api3: PrefectClient, admin3: Admin) -> None:
    deployment = await admin3.create_deployment(await admin3.create_pool(), concurrency_limit=1)
    first, second = [UUID(run) for run in await admin3.create_runs(deployment, 2)]
    accepted = await api3.propose_state(first, claim())
    assert accepted.state is not None
    assert accepted.state.lease_id is not None
    assert await api3.renew_lease(accepted.state.lease_id, 300)
    refused = await api3.propose_state(second, claim())
    assert refused.status is SetStateStatus.REJECT
    assert refused.state is not None
    assert (refused.state.type, refused.state.name) == (StateType.SCHEDULED, "AwaitingConcurrencySlot")


async def test_runs_are_listed_by_queue_and_state_name_and_counted(api: PrefectClient, admin: Admin) -> None:
    pool = await admin.create_pool()
    run = UUID(await admin.create_run(await admin.create_deployment(pool)))
    states = [StateType.SCHEDULED]
    assert await api.run_ids(pool=pool, states=states) == [run]
    assert await api.run_ids(pool=pool, states=states, queues=["default"], named="Scheduled") == [run]
    assert await api.run_ids(pool=pool, states=states, queues=["another"]) == []
    assert await api.run_ids(pool=pool, states=states, named="AwaitingRetry") == []
    assert await api.count_runs([run, uuid4()]) == 1
    (read,) = await api.runs(ids=[run])
    assert read.work_queue_name == "default"
