"""`ecs-worker doctor --probe`: one real task, told step by step, that leaves nothing behind."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from ecs_worker.doctor.finding import Result
from ecs_worker.doctor.probe import STARTED_BY, TAG, Probe
from support.servers.prefect import free_port
from support.simulator.faults import What, fault
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ecs_worker.doctor.finding import Finding
    from support.clinic import Clinic

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("doctor")]  # one process, as the set-up is its own
STEPS = ["network", "image", "container", "Prefect from inside", "end", "task definition"]


async def tasks(clinic: Clinic) -> list[dict[str, Any]]:
    """The probes' tasks, running and stopped, oldest first."""
    ecs, arns = clinic.aws.ecs, list[str]()
    for status in ("RUNNING", "STOPPED"):
        found = await ecs.list_tasks(cluster=clinic.pool, desiredStatus=status, startedBy=STARTED_BY)
        arns += [arn for arn in found["taskArns"] if arn not in arns]
    if not arns:
        return []
    described = (await ecs.describe_tasks(cluster=clinic.pool, tasks=arns, include=["TAGS"]))["tasks"]
    return sorted(described, key=lambda task: task["createdAt"])


@asynccontextmanager
async def nothing_left(clinic: Clinic) -> AsyncIterator[None]:
    """Afterwards all its tasks have stopped, its definitions are deregistered, and Prefect has no run."""
    ecs = clinic.aws.ecs
    active = (await ecs.list_task_definitions(status="ACTIVE"))["taskDefinitionArns"]
    yield

    async def all_stopped() -> bool:
        return all(task["lastStatus"] == "STOPPED" for task in await tasks(clinic))

    await until(all_stopped)
    assert (await ecs.list_task_definitions(status="ACTIVE"))["taskDefinitionArns"] == active
    assert await clinic.admin.runs(clinic.pool) == []


async def probed(clinic: Clinic, name: str = "etl/nightly", **settings: Any) -> list[Finding]:
    told: list[Finding] = []
    await Probe(clinic.ours, told.append, **{"every": 0.05, **settings}).run(name, await clinic.job(name))
    return told


async def test_a_probe_tells_each_step_and_leaves_nothing(clinic: Clinic, tmp_path: Path) -> None:
    async with nothing_left(clinic):
        ended = await clinic.command(tmp_path, "-d", "etl/nightly", "--worker-role", clinic.worker, "--probe")
    assert (ended.code, ended.err) == (0, ""), ended
    lines = ended.out.partition("\nProbe\n")[2].splitlines()
    told = [line.removeprefix("  ✓ ok       ").partition(": ") for line in lines[:-1]]
    assert [check for check, _, _ in told] == ["launch of etl/nightly", *STEPS], lines
    host = clinic.admin.server.url.partition("//")[2].partition("/")[0]
    assert ("Prefect from inside", ": ", f"ecs-worker doctor: {host} answers") in told
    task = (await tasks(clinic))[-1]
    (override,) = task["overrides"]["containerOverrides"]
    assert override["command"][:2] == ["python", "-c"]
    assert task["launchType"] == "FARGATE"
    definition = await clinic.aws.ecs.describe_task_definition(
        taskDefinition=task["taskDefinitionArn"], include=["TAGS"]
    )
    assert {tag["key"]: tag["value"] for tag in definition["tags"]}.items() >= TAG.items()
    assert "ecs-worker:digest" not in {tag["key"] for tag in definition["tags"]}, "no worker is to find it"


@pytest.mark.parametrize(
    ("env", "told", "remedy"),
    [
        ({"PREFECT_API_URL": None}, "the container has no PREFECT_API_URL", "in the deployment's env"),
        ({"PREFECT_API_URL": "http://nowhere.invalid/api"}, "isn't known in the task's network", "VPC's DNS"),
        ({"PREFECT_API_URL": "{server}/elsewhere"}, "isn't Prefect's API", "it ends in /api"),
        ({"PREFECT_API_URL": "http://127.0.0.1:{port}/api"}, "nobody answers at PREFECT_API_URL", "security group"),
        ({"PREFECT_API_URL": "https://127.0.0.1:{listening}/api"}, "isn't trusted", "PREFECT_API_SSL_CERT_FILE"),
    ],
    ids=["no-url", "dns", "not-prefect", "refused", "tls"],
)
async def test_why_prefect_is_not_reached_from_inside(
    clinic: Clinic, env: dict[str, str | None], told: str, remedy: str
) -> None:
    server = clinic.admin.server
    filled = {
        name: value and value.format(server=server.url, port=free_port(), listening=server.port)
        for name, value in env.items()
    }
    async with nothing_left(clinic), clinic.deployed("etl/nightly", env=filled):
        steps = await probed(clinic)
    assert [step.check for step in steps][-3:] == STEPS[-3:]
    (failed,) = [step for step in steps if step.result is not Result.OK]
    assert failed.check == "Prefect from inside"
    assert told in failed.told
    assert remedy in failed.remedy


async def test_credentials_that_are_refused_inside_are_told(clinic: Clinic) -> None:
    rule = fault(What.SERVER_ERROR, action="GET /work_pools/{name}", status=401, containing="")
    env = {"PREFECT_API_URL": clinic.proxy.api_url}
    async with nothing_left(clinic), clinic.deployed("etl/nightly", env=env):
        job = await clinic.job("etl/nightly")
        clinic.proxy.fault(rule)
        told: list[Finding] = []
        try:
            await Probe(clinic.ours, told.append, every=0.05).run("etl/nightly", job)
        finally:
            clinic.proxy.director.remove(rule)
    (failed,) = [step for step in told if step.result is not Result.OK]
    assert "refuses the container's credentials" in failed.told
    assert "prefect_api_key_secret_arn" in failed.remedy


async def test_a_container_that_never_starts_is_told_in_ecs_words(clinic: Clinic) -> None:
    missing = clinic.ids["secret"].replace("-key-", "-no-key-")
    async with nothing_left(clinic), clinic.deployed("etl/nightly", secrets={"TOKEN": missing}):
        steps = await probed(clinic)
    (failed,) = [step for step in steps if step.result is not Result.OK]
    assert failed.check == "Prefect from inside"
    assert "ResourceInitializationError" in failed.told
    assert failed.remedy
    assert [step.check for step in steps][-2:] == STEPS[-2:]


async def test_a_launch_that_ecs_refuses_leaves_no_definition(clinic: Clinic) -> None:
    rule = fault(What.ERROR, action="* RunTask", code="AccessDeniedException", message="You may not run tasks.")
    async with nothing_left(clinic):
        job = await clinic.job("etl/nightly")
        clinic.aws_proxy.fault(rule)
        told: list[Finding] = []
        try:
            await Probe(clinic.ours, told.append).run("etl/nightly", job)
        finally:
            clinic.aws_proxy.director.remove(rule)
    assert [(step.check, step.result) for step in told] == [
        ("launch of etl/nightly", Result.FAILED),
        ("task definition", Result.OK),
    ]
    assert "You may not run tasks" in told[0].told
    assert told[0].remedy


async def test_a_launch_that_aws_never_answers_ends_by_itself(clinic: Clinic) -> None:
    rule = fault(What.LOST_AFTER, action="* RunTask")
    async with nothing_left(clinic):
        job = await clinic.job("etl/nightly")
        clinic.aws_proxy.fault(rule)
        told: list[Finding] = []
        before = len(await tasks(clinic))
        try:
            await Probe(clinic.ours, told.append).run("etl/nightly", job)
        finally:
            clinic.aws_proxy.director.remove(rule)
        assert len(await tasks(clinic)) == before + 1, "the SDK asked thrice with one token"
    assert [step.result for step in told] == [Result.FAILED, Result.OK]
    assert "ends by itself" in told[0].told


async def test_a_task_that_does_not_end_is_stopped(clinic: Clinic) -> None:
    async with nothing_left(clinic):
        steps = await probed(clinic, longest=0.05)
    assert [(step.check, step.result) for step in steps] == [
        ("launch of etl/nightly", Result.OK),
        ("end", Result.FAILED),
        ("end", Result.OK),
        ("task definition", Result.OK),
    ]


async def test_a_probe_that_is_broken_off_cleans_up(clinic: Clinic) -> None:
    told: list[Finding] = []
    async with nothing_left(clinic):
        job = await clinic.job("etl/nightly")
        async with anyio.create_task_group() as group:

            def tell(step: Finding) -> None:
                told.append(step)
                if step.check.startswith("launch of"):
                    group.cancel_scope.cancel()

            group.start_soon(Probe(clinic.ours, tell, every=0.05).run, "etl/nightly", job)
    assert [step.check for step in told] == ["launch of etl/nightly", "end", "task definition"]
    assert all(step.result is Result.OK for step in told)


async def test_a_job_that_ecs_would_refuse_is_not_launched(clinic: Clinic, tmp_path: Path) -> None:
    async with nothing_left(clinic), clinic.deployed("etl/nightly", cpu=256, memory=8192):
        ended = await clinic.command(tmp_path, "-d", "etl/nightly", "--worker-role", clinic.worker, "--probe")
    assert ended.code == 1
    assert "- skipped  launch of a task: there is no job that ECS would take" in ended.out
