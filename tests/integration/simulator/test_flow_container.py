"""Simulated containers that run flows on a real Prefect server, through the chaos proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession

from support.simulator.chaos_proxy import ChaosProxy
from support.simulator.faults import What, fault
from support.simulator.helpers import DEFINITION, run_task
from support.simulator.tasks import FlowScript, TaskScript
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.servers.prefect import Admin, PrefectServer
    from support.simulator.aws import AwsSimulator

pytestmark = pytest.mark.anyio


@pytest.fixture
async def proxy(prefect3: PrefectServer) -> AsyncIterator[ChaosProxy]:
    async with ChaosProxy(prefect3.url.removesuffix("/api"), seed=1) as chaos:
        yield chaos


@pytest.fixture
async def flows(aws: AwsSimulator, ecs: Any) -> Any:
    aws.logs.create_group("flows")
    await ecs.register_task_definition(**DEFINITION)
    return ecs


async def pending_run(admin: Admin) -> str:
    run = await admin.create_run(await admin.create_deployment(await admin.create_pool()))
    assert (await admin.set_state(run, "PENDING"))["status"] == "ACCEPT"
    return run


async def start(ecs: Any, run: str, api_url: str) -> str:
    environment = [
        {"name": "PREFECT_API_URL", "value": api_url},
        {"name": "PREFECT__FLOW_RUN_ID", "value": run},
    ]
    overrides = {"containerOverrides": [{"name": "prefect", "environment": environment}]}
    return str((await ecs.run_task(**run_task(overrides=overrides)))["tasks"][0]["taskArn"])


async def stopped(aws: AwsSimulator, arn: str) -> dict[str, Any]:
    """The task's document, once it has stopped."""
    task = next(task for task in aws.launched if task.arn == arn)

    async def ended() -> bool:
        return task.status == "STOPPED"

    await until(ended)
    return task.document


async def test_runs_complete_in_spite_of_faults(
    aws: AwsSimulator, flows: Any, proxy: ChaosProxy, admin3: Admin
) -> None:
    proxy.fault(fault(What.SERVER_ERROR, What.LOST_BEFORE, What.LOST_AFTER, What.SERVER_ERROR_AFTER, probability=0.3))
    aws.ecs.scripts.default = TaskScript(flow=FlowScript())
    runs = [await pending_run(admin3) for _ in range(8)]
    arns = [await start(flows, run, proxy.api_url) for run in runs]
    for run, arn in zip(runs, arns, strict=True):
        task = await stopped(aws, arn)
        assert task["containers"][0]["exitCode"] == 0
        assert (await admin3.read_run(run))["state_type"] == "COMPLETED"
    assert aws.ecs.fleet.flow_runs == {run: [arn] for run, arn in zip(runs, arns, strict=True)}
    assert proxy.director.struck().total() > 3
    assert {call.caller for call in proxy.calls} == {"simulated-container/1"}


async def test_a_cancelled_run_is_not_begun(aws: AwsSimulator, flows: Any, proxy: ChaosProxy, admin3: Admin) -> None:
    aws.ecs.scripts.default = TaskScript(flow=FlowScript())
    run = await pending_run(admin3)
    await admin3.cancel(run)
    task = await stopped(aws, await start(flows, run, proxy.api_url))
    assert task["containers"][0]["exitCode"] == 0
    assert (await admin3.read_run(run))["state_type"] == "CANCELLED"
    assert aws.ecs.fleet.flow_runs == {}


async def test_a_running_flow_heeds_its_cancelling(
    aws: AwsSimulator, flows: Any, proxy: ChaosProxy, admin3: Admin
) -> None:
    aws.ecs.scripts.default = TaskScript(flow=FlowScript(seconds=60))
    run = await pending_run(admin3)
    arn = await start(flows, run, proxy.api_url)
    await admin3.wait_for_state(run, "RUNNING")
    await admin3.cancel(run)
    await stopped(aws, arn)
    assert (await admin3.read_run(run))["state_type"] == "CANCELLED"


async def test_a_flow_can_die_untold_or_be_stopped(
    aws: AwsSimulator, flows: Any, proxy: ChaosProxy, admin3: Admin
) -> None:
    aws.ecs.scripts.default = TaskScript(flow=FlowScript(ends_as=None), exit_code=137)
    dying = await pending_run(admin3)
    task = await stopped(aws, await start(flows, dying, proxy.api_url))
    assert task["containers"][0]["exitCode"] == 137
    aws.ecs.scripts.default = TaskScript(flow=FlowScript(seconds=60))
    ended = await pending_run(admin3)
    arn = await start(flows, ended, proxy.api_url)
    await admin3.wait_for_state(ended, "RUNNING")
    await flows.stop_task(task=arn, reason="enough")
    assert (await stopped(aws, arn))["containers"][0]["exitCode"] == 143
    for run in (dying, ended):
        assert (await admin3.read_run(run))["state_type"] == "RUNNING"


async def test_a_container_without_a_server_gives_up(aws: AwsSimulator, flows: Any) -> None:
    aws.ecs.scripts.default = TaskScript(flow=FlowScript(attempts=2))
    task = await stopped(aws, await start(flows, "none", "http://127.0.0.1:1/api"))
    assert task["containers"][0]["exitCode"] == 1


async def test_the_servers_event_stream_passes_the_proxy(proxy: ChaosProxy) -> None:
    async with (
        ClientSession() as http,
        http.ws_connect(f"{proxy.api_url}/events/out", protocols=["prefect"]) as socket,
    ):
        await socket.send_json({"type": "auth", "token": None})
        assert (await socket.receive_json(timeout=10))["type"] == "auth_success"
