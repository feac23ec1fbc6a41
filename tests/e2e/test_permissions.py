"""The worker's IAM policy: everything it asks of AWS, and nothing else.

A few runs provoke every kind of call. What IAM would be asked for each follows from what the calls say.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ecs_worker.local.server import EmbeddedAws
from support.command_line import ecs_worker
from support.paths import TOP
from support.policies import Asked, Request, allowed, arn
from support.simulator.chaos_proxy import ChaosProxy
from support.simulator.faults import What, fault
from support.waiting import until
from support.world import World, ecs_client

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers.prefect import Admin

pytestmark = pytest.mark.anyio
ACCOUNT = "arn:aws:iam::123456789012:role/"
ROLES = {"task_role_arn": ACCOUNT + "my-task-role", "execution_role_arn": ACCOUNT + "my-task-execution-role"}
OPTIONAL = {"ecs:DeregisterTaskDefinition"}


async def test_policy_allows_what_the_worker_does_and_no_more(admin3: Admin, tmp_path: Path) -> None:
    heard = Asked()
    async with (
        EmbeddedAws() as aws,
        ecs_client(aws.url) as ecs,
        ChaosProxy(aws.url, api_path="", heard=heard.hear) as proxy,
    ):
        world = World(admin3, aws.url, ecs, tmp_path)
        await world.open()
        await _provoke_every_call(world, proxy, heard)
        asked = [*heard.requests]
        general = _general(world.pool)
        assert {request.action for request in asked} == _actions(general)
        policy = await _policy_of(world)
        assert _actions(policy) == _actions(general)
        await _provoke_optional_calls(world, proxy)
        optional = [request for request in heard.requests if request not in asked]
        more = await _policy_of(world)
    assert {request.action for request in optional} - {request.action for request in asked} == OPTIONAL
    assert _actions(more) == _actions(policy) | OPTIONAL
    assert _actions(_read("worker-options-policy.json")) >= OPTIONAL
    for request in asked:
        assert allowed([policy], request), f"{request} by the pool's policy"
        assert allowed([general], request), f"{request} by the general one"
    for request in optional:
        assert allowed([more], request), f"{request} by the pool's policy"
    _assert_others_are_denied(asked, [policy, general])


def _assert_others_are_denied(asked: list[Request], policies: list[dict[str, Any]]) -> None:
    """Requests that differ in one thing from those that the worker makes, and some that it never makes."""

    def like(action: str, **changes: Any) -> Request:
        return replace(next(request for request in asked if request.action == action), **changes)

    elsewhere = {"ecs:cluster": arn("ecs", "cluster/production")}
    strangers = [
        like("ecs:RunTask", context=elsewhere),
        like("ecs:RunTask", resource=arn("ecs", "task-definition/payroll:1")),
        like("ecs:RunTask", context={}),
        like("ecs:RegisterTaskDefinition", resource=arn("ecs", "task-definition/payroll:*")),
        like("ecs:StopTask", context=elsewhere),
        like("ecs:StopTask", resource=arn("ecs", "task/production/0123")),
        like("ecs:DescribeTasks", resource=arn("ecs", "task/production/0123"), context=elsewhere),
        like("ecs:ListTasks", context=elsewhere),
        like("ecs:TagResource", context={}),  # of a task that is there already
        like("ecs:TagResource", resource=arn("ecs", "cluster/production")),
        like("iam:PassRole", resource=ACCOUNT + "administrator"),
        like("iam:PassRole", context={"iam:PassedToService": "ec2.amazonaws.com"}),
        like("logs:FilterLogEvents", resource=arn("logs", "log-group:audit")),
        like("logs:GetLogEvents", resource=arn("logs", "log-group:prefect-audit:log-stream:a")),
        Request("logs:DeleteLogGroup", arn("logs", "log-group:prefect")),
        Request("ecs:DeleteCluster", elsewhere["ecs:cluster"]),
        Request("ecs:DeregisterTaskDefinition"),
        Request("ecs:ExecuteCommand", like("ecs:StopTask").resource, like("ecs:StopTask").context),
        Request("sts:AssumeRole", ACCOUNT + "administrator"),
        Request("secretsmanager:GetSecretValue", arn("secretsmanager", "secret:prefect-api-key-a1B2c3")),
    ]
    for policy in policies:
        for request in strangers:
            assert not allowed([policy], request), request


async def _provoke_every_call(world: World, proxy: ChaosProxy, heard: Asked) -> None:
    job = {"configure_cloudwatch_logs": True, "stream_output": True, **ROLES}
    async with world.worker(name="first", aws_url=proxy.url) as process:
        gate = world.gate()
        deployment = await world.deploy("RUNNING", "print=1", f"wait={gate}", "COMPLETED", job_variables=job)
        runs = await world.admin.create_runs(deployment, 4)
        await until(lambda: "logs:FilterLogEvents" in heard.actions)  # the output of several is read together
        gate.touch()
        await world.all_are(runs, "COMPLETED")
        await process.wait_for_output("line 0000")
        long = await world.run("RUNNING", "sleep=120")
        await world.admin.wait_for_state(long, "RUNNING")
        await world.admin.cancel(long)
        await world.admin.wait_for_state(long, "CANCELLED")
        assert await process.stop() == 0
    # After a restart it finds its task definition again; and a launch that AWS never answered, it looks up.
    proxy.fault(fault(What.SERVER_ERROR_AFTER, containing="clientToken"))
    async with world.worker(name="second", aws_url=proxy.url) as process:
        unanswered = await world.admin.create_run(deployment)
        await process.wait_for_output("The launch waits")
        assert await process.stop() == 0
    await world.task_of(unanswered)


async def _provoke_optional_calls(world: World, proxy: ChaosProxy) -> None:
    """Those that only jobs need which ask for them."""
    await world.run("RUNNING", "COMPLETED", auto_deregister_task_definition=True)
    async with world.worker("--run-once", name="third", aws_url=proxy.url, whole=True) as process:
        assert await process.wait() == 0


async def _policy_of(world: World) -> dict[str, Any]:
    """What `ecs-worker iam policy` says of the pool."""
    options = ("worker", "--pool", world.pool, "--cluster", world.pool)
    ended = await ecs_worker(
        world.directory, "iam", "policy", *options, api_url=world.server.url, env={"AWS_REGION": "us-east-1"}
    )
    assert (ended.code, ended.err) == (0, ""), ended
    policy: dict[str, Any] = json.loads(ended.out)
    return policy


def _general(pool: str) -> dict[str, Any]:
    """The policy that everybody may start from, filled in."""
    text = json.dumps(_read("worker-policy.json"))
    for name in ("my-cluster", "my-ecs-pool"):
        assert name in text
        text = text.replace(name, pool)
    filled: dict[str, Any] = json.loads(text)
    return filled


def _read(name: str) -> dict[str, Any]:
    policy: dict[str, Any] = json.loads((TOP / "iam" / name).read_text(encoding="utf-8"))
    return policy


def _actions(policy: dict[str, Any]) -> set[str]:
    listed = [statement["Action"] for statement in policy["Statement"]]
    return {action for each in listed for action in ([each] if isinstance(each, str) else each)}
