"""`ecs-worker logs`, as people use it."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aioboto3
import pytest

from support.builders import quick_template
from support.command_line import Ended, ecs_worker
from support.servers.worker import command, environment
from support.simulator.helpers import DEFINITION, run_task
from support.simulator.tasks import LogScript, TaskScript

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.servers.prefect import Admin
    from support.simulator.aws import AwsSimulator
    from support.simulator.fleet import Task

pytestmark = pytest.mark.anyio
GOES_ON = 1e6


@pytest.fixture
async def ecs(cloud: AwsSimulator) -> AsyncIterator[Any]:
    cloud.clock.set_speed(1)
    session = aioboto3.Session(aws_access_key_id="any", aws_secret_access_key="any", region_name="us-east-1")
    async with session.client("ecs", endpoint_url=cloud.url) as client:
        yield client


class People:
    """They have a flow run on ECS, and ask for its lines."""

    def __init__(self, cloud: AwsSimulator, ecs: Any, admin: Admin, home: Path) -> None:
        self.cloud = cloud
        self.ecs = ecs
        self.admin = admin
        self.home = home
        self.env = environment(home, api_url=admin.server.url, aws_url=cloud.url, extra={"COLUMNS": "200"})
        self.name = ""

    async def run(self, log: LogScript, running: float | None = None, **definition: Any) -> Task:
        """A flow run whose task has begun to run; its task. `name` is the run's name."""
        self.cloud.ecs.scripts.default = TaskScript(running=running, log=log, provisioning=0, pending=0, activating=0)
        await self.ecs.register_task_definition(**DEFINITION | definition)
        (task,) = (await self.ecs.run_task(**run_task()))["tasks"]
        pool = await self.admin.create_pool(base_job_template=quick_template())
        variables = {"configure_cloudwatch_logs": True, "execution_role_arn": DEFINITION["executionRoleArn"]}
        options = {"cloudwatch_logs_options": {"awslogs-group": "flows"}, "cloudwatch_logs_prefix": "run"}
        deployment = await self.admin.create_deployment(pool, job_variables=variables | options)
        run_id = await self.admin.create_run(deployment)
        self.name = (await self.admin.read_run(run_id))["name"]
        await self.pid(run_id, f"default::{task['taskArn']}")
        return self.cloud.launched[-1]

    async def pid(self, run_id: str, identifier: str) -> None:
        await self.admin.call("PATCH", f"/flow_runs/{run_id}", json={"infrastructure_pid": identifier})

    async def ask(self, *arguments: str, whole: bool = False) -> Ended:
        url = self.admin.server.url
        return await ecs_worker(self.home, "logs", *arguments, api_url=url, env=self.env, whole=whole)


@pytest.fixture
def people(cloud: AwsSimulator, ecs: Any, admin3: Admin, tmp_path: Path) -> People:
    return People(cloud, ecs, admin3, tmp_path)


async def test_the_lines_so_far(people: People) -> None:
    await people.run(LogScript(lines=("hello", "world"), rate=1000.0, total=3000))
    people.cloud.advance(60)
    ended = await people.ask(people.name, whole=True)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[:2] == ["hello", "world"]
    assert [int(line.rpartition(" ")[2]) for line in lines[2:]] == list(range(2, 3000))


async def test_since_and_container(people: People) -> None:
    side_car = DEFINITION["containerDefinitions"][0] | {"name": "proxy", "image": "envoy"}
    silent = {"name": "silent", "image": "scratch"}
    containers = [*DEFINITION["containerDefinitions"], side_car, silent]
    task = await people.run(LogScript(), containerDefinitions=containers)
    people.cloud.logs.put("flows", f"run/proxy/{task.id}", "listening")
    people.cloud.logs.put("flows", f"run/prefect/{task.id}", "first")
    people.cloud.advance(600)
    people.cloud.logs.put("flows", f"run/prefect/{task.id}", "second")
    moment = datetime.fromtimestamp(people.cloud.clock.now(), UTC) - timedelta(seconds=60)
    asked = (
        people.ask(people.name, "--since", moment.isoformat()),
        people.ask(people.name, "--since", "2h"),
        people.ask(people.name, "--since", "yesterday"),
        people.ask(people.name, "--container", "proxy"),
        people.ask(people.name, "--container", "silent"),
        people.ask(people.name, "--container", "other"),
    )
    late, all_of_it, odd, proxy, quiet, other = await asyncio.gather(*asked)
    assert late.out == "second\n"
    assert all_of_it.out == "first\nsecond\n"
    assert "--since 'yesterday' is no time" in odd.err
    assert proxy.out == "listening\n"
    assert "Container silent does not log to CloudWatch" in quiet.err
    assert "no container 'other'; it has: prefect, proxy, silent" in other.err
    assert [ended.code for ended in (odd, quiet, other)] == [2, 2, 2]


async def test_follow_until_the_last_line(people: People) -> None:
    task = await people.run(LogScript(rate=20.0, delay=1.0, jitter=4.0))
    log = people.home / "followed"
    async with command(people.home, ["logs", "--follow", people.name], people.env, log=log) as process:
        await process.wait_for_output("line 100")
        people.cloud.ecs.fleet.stop(task, "UserInitiated", "enough", None)
        assert await process.wait() == 0
    stream = people.cloud.logs.groups["flows"].streams[f"run/prefect/{task.id}"]
    assert Counter(process.output.splitlines()) == Counter(event.message for event in stream.arrived)


async def test_a_task_that_ecs_has_forgotten(people: People) -> None:
    """Its job still says where it logged."""
    await people.run(LogScript(lines=("long ago",)), running=1)
    people.cloud.advance(3 * 3600)
    ended = await people.ask(people.name, "--follow")
    assert (ended.out, ended.err, ended.code) == ("long ago\n", "", 0)


async def test_what_can_not_be_shown_is_said_in_one_sentence(people: People) -> None:
    await people.run(LogScript(stream_delay=GOES_ON))
    deployment = await people.admin.create_deployment(await people.admin.create_pool())
    waiting, elsewhere = await people.admin.create_runs(deployment, 2)
    await people.pid(elsewhere, "host:1234")
    asked = [people.ask(run) for run in (people.name, waiting, elsewhere, "no-such-run")]
    texts = ["There is no log stream run/prefect/", "has no ECS task (yet): it is", "but as host:1234", "'no-such-run'"]
    for ended, text in zip(await asyncio.gather(*asked), texts, strict=True):
        assert text in ended.err
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
