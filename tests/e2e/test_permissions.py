"""The worker's IAM policy: everything it asks of AWS, and nothing else.

A few runs provoke every kind of call. What AWS checks beside the calls themselves (tags, roles) is read from what the
calls made.
"""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import pytest

from ecs_worker.local.server import EmbeddedAws, LocalSettings
from support.paths import TOP
from support.simulator.chaos_proxy import ChaosProxy
from support.simulator.faults import What, fault
from support.waiting import until
from support.world import World, ecs_client

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers.prefect import Admin

pytestmark = pytest.mark.anyio
POLICIES = TOP / "iam"
NEED_NO_PERMISSION = {"sts:GetCallerIdentity"}  # STS API: no policy can deny it
ACCOUNT = "arn:aws:iam::123456789012:role/"
ROLES = {"task_role_arn": ACCOUNT + "my-task-role", "execution_role_arn": ACCOUNT + "my-task-execution-role"}
# What each action is checked against, by the Service Authorization Reference; {…} is filled in below.
RESOURCES = {
    "ecs:RunTask": ["{definition}", "{family}"],  # a job may name a family alone
    "ecs:StopTask": ["{task}"],
    "ecs:DescribeTasks": ["{task}"],
    "ecs:ListTasks": ["arn:aws:ecs:us-east-1:123456789012:container-instance/{cluster}/*"],
    "ecs:TagResource": ["{task}", "{definition}"],
    "iam:PassRole": ["{roles}"],
    "logs:FilterLogEvents": ["arn:aws:logs:us-east-1:123456789012:log-group:prefect"],
    "logs:GetLogEvents": ["arn:aws:logs:us-east-1:123456789012:log-group:prefect:log-stream:a/b/c"],
}


async def test_policy_allows_what_the_worker_does_and_no_more(admin3: Admin, tmp_path: Path) -> None:
    calls = tmp_path / "calls.jsonl"
    async with (
        EmbeddedAws(LocalSettings(calls_file=calls)) as aws,
        ecs_client(aws.url) as ecs,
        ChaosProxy(aws.url, api_path="") as proxy,
    ):
        world = World(admin3, aws.url, ecs, tmp_path)
        await world.open()
        await _provoke_every_call(world, proxy, calls)
        (task, *_) = await world.tasks()
        asked = _asked(calls) | await _implied(world, task)
        await _provoke_optional_calls(world)
        optional = _asked(calls) - asked
    allowed = _allowed("worker-policy.json")
    assert {action for action, _ in allowed} == asked
    assert optional == {"ecs:DeregisterTaskDefinition"}
    assert optional < {action for action, _ in _allowed("worker-options-policy.json")}
    known = {
        "task": task["taskArn"],
        "definition": task["taskDefinitionArn"],
        "family": task["taskDefinitionArn"].rpartition(":")[0],
        "cluster": world.pool,
    }
    for action in asked:
        patterns = [pattern for name, pattern in allowed if name == action]
        for resource in RESOURCES.get(action, ["*"]):
            for wanted in ROLES.values() if resource == "{roles}" else [resource.format(**known)]:
                assert any(fnmatchcase(wanted, pattern) for pattern in patterns), f"{action} on {wanted}"


async def _provoke_every_call(world: World, proxy: ChaosProxy, calls: Path) -> None:
    job = {"configure_cloudwatch_logs": True, "stream_output": True, **ROLES}
    async with world.worker(name="first") as process:
        gate = world.gate()
        deployment = await world.deploy("RUNNING", "print=1", f"wait={gate}", "COMPLETED", job_variables=job)
        runs = await world.admin.create_runs(deployment, 4)
        await until(lambda: "logs:FilterLogEvents" in _asked(calls))  # the output of several is read together
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


async def _provoke_optional_calls(world: World) -> None:
    """Those that only jobs need which ask for them."""
    await world.run("RUNNING", "COMPLETED", auto_deregister_task_definition=True)
    async with world.worker("--run-once", name="third", whole=True) as process:
        assert await process.wait() == 0


def _asked(calls: Path) -> set[str]:
    """The actions that workers have called."""
    written, _, _ = calls.read_text().rpartition("\n")  # the last line may be in the making
    lines = [json.loads(line) for line in written.splitlines()]
    return {call["action"] for call in lines if "ecs-worker/" in call["user_agent"]} - NEED_NO_PERMISSION


async def _implied(world: World, task: dict[str, Any]) -> set[str]:
    """Permissions that requests need beside their own."""
    answer = await world.ecs.describe_task_definition(taskDefinition=task["taskDefinitionArn"], include=["TAGS"])
    implied = set()
    if task["tags"] and answer["tags"]:
        implied.add("ecs:TagResource")
    if {task["overrides"].get("taskRoleArn"), answer["taskDefinition"].get("executionRoleArn")} == set(ROLES.values()):
        implied.add("iam:PassRole")
    return implied


def _allowed(policy: str) -> list[tuple[str, str]]:
    """(action, resource pattern) of every statement."""
    statements = json.loads((POLICIES / policy).read_text())["Statement"]
    assert {statement["Effect"] for statement in statements} == {"Allow"}
    return [
        (action, resource)
        for statement in statements
        for action in _listed(statement["Action"])
        for resource in _listed(statement["Resource"])
    ]


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
