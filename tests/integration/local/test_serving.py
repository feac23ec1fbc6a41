"""The served process: its address, its end, what it counts, and AWS's other services on it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import pytest

from ecs_worker.errors import UserError
from ecs_worker.local.server import EmbeddedAws, LocalSettings, serve
from support.embedded import LOG_GROUP, awslogs, connected, container, fresh, python
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.embedded import Aws

pytestmark = pytest.mark.anyio

TELL_PID_AND_IGNORE_SIGTERM = python(
    "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), flush=True);"
    "time.sleep(600)"
)

TELL_PID = python("import os, time; print(os.getpid(), flush=True); time.sleep(600)")


@asynccontextmanager
async def served(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ecs_worker.local",
        "--step-seconds=0.05",
        "--retention-seconds=3600",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    try:
        with anyio.fail_after(30):
            url = (await process.stdout.readline()).decode().strip()
        yield process, url
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def prepared(aws: Aws) -> None:
    aws.subnets = [subnet["SubnetId"] for subnet in (await aws.ec2.describe_subnets())["Subnets"]]
    await aws.logs.create_log_group(logGroupName=LOG_GROUP)


async def fetched(method: str, url: str, **headers: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http, http.request(method, url, headers=headers) as answer:
        body = await answer.read()
        return answer.status, json.loads(body) if answer.content_type == "application/json" else body


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, "stdin"])
async def test_it_ends_quickly_with_all_containers(how: signal.Signals | str) -> None:
    async with served() as (process, url), connected(url) as aws:
        await prepared(aws)
        task = await aws.run_containers(
            container(command=TELL_PID_AND_IGNORE_SIGTERM, logConfiguration=awslogs(), stopTimeout=100)
        )
        await aws.reaches(task, "RUNNING")
        pid = int((await until(lambda: aws.lines(task)))[0])
        assert alive(pid)
        assert process.stdin
        if isinstance(how, signal.Signals):
            process.send_signal(how)
        else:
            process.stdin.close()
        with anyio.fail_after(6):
            assert await process.wait() == 0
        assert not alive(pid)
        assert process.stderr
        assert await process.stderr.read() == b""


async def test_a_context_ends_its_server() -> None:
    async with EmbeddedAws() as aws:
        assert (await fetched("GET", f"{aws.url}/__ecs_worker/stats"))[0] == 200
    with pytest.raises(aiohttp.ClientConnectionError):
        await fetched("GET", aws.url)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_only_loopback_is_served_unless_told_otherwise(host: str) -> None:
    with pytest.raises(UserError, match="can run commands"):
        serve(host)


@pytest.mark.parametrize(("host", "allow_remote"), [("127.0.0.1", False), ("0.0.0.0", True)])
async def test_a_taken_port_is_told_in_one_sentence(aws: Aws, host: str, allow_remote: bool) -> None:
    """With `allow_remote` other addresses get as far as being bound; the port is taken, so that nothing is exposed."""
    port = int(aws.url.rsplit(":", 1)[1])
    code = (
        "import sys\nfrom ecs_worker.errors import UserError\nfrom ecs_worker.local.server import serve\n"
        f"try:\n    serve({host!r}, {port}, allow_remote={allow_remote})\n"
        "except UserError as error:\n    sys.exit(f'told: {error}')"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode() == f"told: {host}:{port} can't be served: address already in use.\n"


async def test_without_moto_the_remedy_is_told(tmp_path: Path) -> None:
    (tmp_path / "moto.py").write_text("raise ModuleNotFoundError(\"No module named 'moto'\", name='moto')")
    code = (
        "import sys\nfrom ecs_worker.errors import UserError\nfrom ecs_worker.local.server import serve\n"
        "try:\n    serve()\nexcept UserError as error:\n    sys.exit(str(error))"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode().strip() == ("The embedded AWS needs moto (moto is missing): install ecs-worker[demo].")


async def test_calls_are_counted_by_action_and_caller(tmp_path: Path) -> None:
    lines = tmp_path / "calls"
    async with EmbeddedAws(LocalSettings(calls_file=lines)) as served:
        async with connected(served.url) as aws:
            await aws.ecs.list_tasks()
            await aws.ecs.list_tasks()
            await aws.sts.get_caller_identity()
            await aws.ec2.describe_vpcs()
            await aws.s3.create_bucket(Bucket="bucket")
            await aws.s3.list_objects_v2(Bucket="bucket")
            await aws.sqs.list_queues()
        expected = {
            "ecs:ListTasks": 2,
            "sts:GetCallerIdentity": 1,
            "ec2:DescribeVpcs": 1,
            "s3:CreateBucket": 1,
            "s3:ListObjectsV2": 1,
            "sqs:ListQueues": 1,
        }
        _, stats = await fetched("GET", f"{served.url}/__ecs_worker/stats")
        assert stats["calls"] == expected
        ((agent, counts),) = stats["user_agents"].items()
        assert "aiobotocore" in agent
        assert counts == expected
        told = [json.loads(line) for line in lines.read_text().splitlines()]
        assert [call["action"] for call in told][:2] == ["ecs:ListTasks", "ecs:ListTasks"]
        assert {call["user_agent"] for call in told} == {agent}
        assert (await fetched("POST", f"{served.url}/__ecs_worker/reset"))[0] == 200
        _, stats = await fetched("GET", f"{served.url}/__ecs_worker/stats")
        assert stats == {"calls": {}, "user_agents": {}}


async def test_a_web_page_cant_use_it(aws: Aws) -> None:
    status, _ = await fetched("POST", aws.url, Origin="https://evil.example")
    assert status == 403


async def test_a_reset_stops_and_forgets_everything() -> None:
    async with served() as (_, url), connected(url) as aws:
        await prepared(aws)
        task = await aws.run_containers(container(command=TELL_PID, logConfiguration=awslogs()))
        await aws.reaches(task, "RUNNING")
        pid = int((await until(lambda: aws.lines(task)))[0])
        assert (await fetched("POST", f"{url}/moto-api/reset"))[0] == 200

        async def gone() -> bool:
            return not alive(pid)

        await until(gone)
        assert (await aws.ecs.describe_tasks(tasks=[task["taskArn"]]))["tasks"] == []
        assert len((await aws.ecs.describe_clusters())["clusters"]) == 1


async def test_stopped_tasks_are_forgotten_after_the_retention() -> None:
    settings = LocalSettings(step_seconds=0.01, retention_seconds=1)
    async with EmbeddedAws(settings) as served, connected(served.url) as aws:
        await prepared(aws)
        task = await aws.reaches(await aws.run_containers(container(command=["true"])), "STOPPED")

        async def missing() -> list[dict[str, Any]]:
            return list((await aws.ecs.describe_tasks(tasks=[task["taskArn"]]))["failures"])

        assert await missing() == []
        assert await until(missing) == [{"arn": task["taskArn"], "reason": "MISSING"}]
        assert (await aws.ecs.list_tasks(desiredStatus="STOPPED"))["taskArns"] == []


async def test_output_without_awslogs_goes_to_standard_error() -> None:
    async with served() as (process, url), connected(url) as aws:
        await prepared(aws)
        task = await aws.run_containers(container(command=["echo", "hello"]))
        await aws.reaches(task, "STOPPED")
        assert process.stderr
        with anyio.fail_after(5):
            line = (await process.stderr.readline()).decode()
        assert line == f"{task['taskArn'].split('/')[-1][:8]}/main | hello\n"


async def test_each_change_of_a_task_is_an_event_in_order(aws: Aws) -> None:
    queue = (await aws.sqs.create_queue(QueueName=fresh("events")))["QueueUrl"]
    arn = (await aws.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"]))["Attributes"]["QueueArn"]
    pattern = json.dumps({"source": ["aws.ecs"], "detail-type": ["ECS Task State Change"]})
    rule = fresh("rule")
    await aws.events.put_rule(Name=rule, EventPattern=pattern)
    await aws.events.put_targets(Rule=rule, Targets=[{"Id": "queue", "Arn": arn}])
    task = await aws.run_containers(container(command=["false"]), startedBy="me/9", tags=[{"key": "k", "value": "v"}])
    events: list[dict[str, Any]] = []

    async def complete() -> bool:
        answer = await aws.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        for message in answer.get("Messages", []):
            event = json.loads(message["Body"])
            if event["detail"]["taskArn"] == task["taskArn"]:
                events.append(event)
            await aws.sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        return any(event["detail"]["lastStatus"] == "STOPPED" for event in events)

    await until(complete)
    await aws.events.remove_targets(Rule=rule, Ids=["queue"])
    await aws.events.delete_rule(Name=rule)
    events.sort(key=lambda event: event["detail"]["version"])
    assert {event["source"] for event in events} == {"aws.ecs"}
    assert {event["detail-type"] for event in events} == {"ECS Task State Change"}
    statuses = list(dict.fromkeys(event["detail"]["lastStatus"] for event in events))
    assert statuses == [
        "PROVISIONING", "PENDING", "ACTIVATING", "RUNNING", "DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED",
    ]  # fmt: skip
    last = events[-1]["detail"]
    assert (last["startedBy"], last["stopCode"], last["containers"][0]["exitCode"]) == (
        "me/9", "EssentialContainerExited", 1,
    )  # fmt: skip
    assert last["stoppedAt"].endswith("Z")
    assert "tags" not in last


async def test_the_default_vpc_and_the_other_services_are_there(aws: Aws) -> None:
    (vpc,) = (await aws.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}]))["Vpcs"]
    filters = [{"Name": "vpc-id", "Values": [vpc["VpcId"]]}]
    assert len((await aws.ec2.describe_subnets(Filters=filters))["Subnets"]) == 6
    assert (await aws.sts.get_caller_identity())["Account"] == "123456789012"
    role = fresh("role")
    await aws.iam.create_role(RoleName=role, AssumeRolePolicyDocument="{}")
    assert (await aws.iam.get_role(RoleName=role))["Role"]["RoleName"] == role
