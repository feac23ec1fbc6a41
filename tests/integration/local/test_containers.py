"""What containers get (environment, secrets, commands) and where their output goes."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from botocore.exceptions import ClientError

from support.embedded import LOG_GROUP, awslogs, container, fresh, python, the
from support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from support.embedded import Aws

pytestmark = pytest.mark.anyio

SHOW_ENVIRONMENT = python("import json, os; print(json.dumps(dict(os.environ)))")


def env(**variables: str) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in variables.items()]


async def environment_of(aws: Aws, *, overrides: list[dict[str, str]] | None = None, **more: Any) -> dict[str, str]:
    override = {"name": "main"} | ({"environment": overrides} if overrides else {})
    task = await aws.run_containers(
        container(command=SHOW_ENVIRONMENT, logConfiguration=awslogs(), **more),
        overrides={"containerOverrides": [override]},
    )
    await aws.reaches(task, "STOPPED")
    (line,) = await aws.lines(task)
    return dict(json.loads(line))


async def output_of(aws: Aws, command: list[str], **more: Any) -> list[str]:
    task = await aws.run_containers(container(command=command, logConfiguration=awslogs(), **more))
    end = await aws.reaches(task, "STOPPED", seconds=60)
    assert the(end)["exitCode"] == 0, await aws.lines(task)
    return await aws.lines(task)


async def test_prefect_is_the_serving_environments(aws: Aws) -> None:
    lines = await output_of(aws, ["prefect", "version"])
    assert any(version("prefect") in line for line in lines)


async def test_python_is_the_serving_environments(aws: Aws) -> None:
    (line,) = await output_of(aws, python("import sys; print(sys.prefix)"))
    assert line == sys.prefix


async def test_overrides_win_over_the_definition(aws: Aws) -> None:
    told = await environment_of(
        aws, environment=env(A="definition", B="definition"), overrides=env(B="override", C="override")
    )
    assert (told["A"], told["B"], told["C"]) == ("definition", "override", "override")


async def test_nothing_of_the_hosts_environment_passes(aws: Aws) -> None:
    told = await environment_of(aws)
    allowed = {
        "PATH", "HOME", "TMPDIR", "LANG", "LC_CTYPE", "HOSTNAME", "AWS_EXECUTION_ENV", "AWS_ENDPOINT_URL", "AWS_REGION",
        "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
    }  # fmt: skip
    assert told.keys() <= allowed
    assert told["AWS_ENDPOINT_URL"] == aws.url
    assert not await anyio.Path(told["HOME"]).exists()  # the container's own, gone with it


async def test_an_overriding_command_follows_the_entry_point(aws: Aws) -> None:
    task = await aws.run_containers(
        container(command=["one"], entryPoint=["echo", "said:"], logConfiguration=awslogs()),
        overrides={"containerOverrides": [{"name": "main", "command": ["two", "three"]}]},
    )
    await aws.reaches(task, "STOPPED")
    assert await aws.lines(task) == ["said: two three"]


async def test_the_working_directory(aws: Aws, tmp_path: Path) -> None:
    assert await output_of(aws, ["pwd"], workingDirectory=str(tmp_path)) == [str(tmp_path)]
    code = "import os; print(os.listdir())"
    assert await output_of(aws, python(code), workingDirectory="/no/such/directory") == ["['tmp']"]


async def test_a_container_can_use_the_embedded_aws(aws: Aws) -> None:
    code = "import boto3; print(boto3.client('sts').get_caller_identity()['Account'])"
    assert await output_of(aws, python(code)) == ["123456789012"]


async def test_secrets(aws: Aws) -> None:
    whole = (await aws.secretsmanager.create_secret(Name=fresh("s"), SecretString="open sesame"))["ARN"]
    parts = (await aws.secretsmanager.create_secret(Name=fresh("s"), SecretString='{"key": "of json"}'))["ARN"]
    name = fresh("/app/parameter")
    await aws.ssm.put_parameter(Name=name, Value="from ssm", Type="SecureString")
    secrets = {
        "WHOLE": whole,
        "KEY": f"{parts}:key::",
        "PARAMETER": name,
        "PARAMETER_ARN": f"arn:aws:ssm:us-east-1:123456789012:parameter{name}",
    }
    told = await environment_of(aws, secrets=[{"name": n, "valueFrom": v} for n, v in secrets.items()])
    assert {n: told[n] for n in secrets} == {
        "WHOLE": "open sesame",
        "KEY": "of json",
        "PARAMETER": "from ssm",
        "PARAMETER_ARN": "from ssm",
    }


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("arn:aws:secretsmanager:us-east-1:123456789012:secret:nothing-abcdef", "unable to retrieve secret from asm"),
        ("/no/such/parameter", "invalid ssm parameters: /no/such/parameter"),
    ],
)
async def test_a_missing_secret_fails_the_task(aws: Aws, place: str, why: str) -> None:
    task = await aws.run_containers(container(command=["true"], secrets=[{"name": "A", "valueFrom": place}]))
    end = await aws.reaches(task, "STOPPED")
    assert end["stopCode"] == "TaskFailedToStart"
    assert end["stoppedReason"].startswith("ResourceInitializationError: unable to pull secrets or registry auth")
    assert why in end["stoppedReason"]
    assert "exitCode" not in the(end)


async def test_environment_files(aws: Aws) -> None:
    bucket = fresh("bucket")
    await aws.s3.create_bucket(Bucket=bucket)
    await aws.s3.put_object(Bucket=bucket, Key="a/b.env", Body=b"# comment\nA=file\nB=file=1\n\n")
    files = [{"type": "s3", "value": f"arn:aws:s3:::{bucket}/a/b.env"}]
    told = await environment_of(aws, environmentFiles=files, environment=env(A="definition"))
    assert (told["A"], told["B"]) == ("definition", "file=1")
    missing = [{"type": "s3", "value": f"arn:aws:s3:::{bucket}/none.env"}]
    end = await aws.reaches(await aws.run_containers(container(command=["true"], environmentFiles=missing)), "STOPPED")
    assert end["stoppedReason"].startswith("ResourceInitializationError: failed to download env files")


# Logs


async def test_both_outputs_come_in_order_with_times(aws: Aws) -> None:
    code = (
        "import sys\n"
        "for n in range(50):\n"
        "    print('out', n, flush=True)\n"
        "    print('err', n, file=sys.stderr, flush=True)\n"
        "print(); sys.stdout.write('no line end')"
    )
    before = int(time.time() * 1000)
    task = await aws.run_containers(container(command=python(code), logConfiguration=awslogs()))
    await aws.reaches(task, "STOPPED")
    stream = f"flow/main/{task['taskArn'].split('/')[-1]}"
    events = (await aws.logs.get_log_events(logGroupName=LOG_GROUP, logStreamName=stream, startFromHead=True))["events"]
    expected = [f"{kind} {n}" for n in range(50) for kind in ("out", "err")] + ["no line end"]
    assert [event["message"] for event in events] == expected
    times = [event["timestamp"] for event in events]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= int(time.time() * 1000)


async def test_lines_come_while_the_container_runs(aws: Aws) -> None:
    code = "import time\nprint(time.time(), flush=True); time.sleep(600)"
    task = await aws.run_containers(container(command=python(code), logConfiguration=awslogs()))

    async def lines() -> list[str]:
        try:
            return await aws.lines(task)
        except ClientError:
            return []

    (line,) = await until(lines)
    assert time.time() - float(line) < 0.5
    assert (await aws.describe(task))["desiredStatus"] == "RUNNING"
    await aws.ecs.stop_task(task=task["taskArn"])


async def test_every_line_is_there_when_the_task_has_stopped(aws: Aws) -> None:
    lines = await output_of(aws, python("import sys; sys.stdout.writelines(f'{n}\\n' for n in range(20000))"))
    assert lines == [str(n) for n in range(10000)]  # the first page of 10,000 …
    # … and the rest, page by page, until the token repeats itself.
    task = await aws.run_containers(
        container(command=python("print('\\n'.join(map(str, range(25000))))"), logConfiguration=awslogs())
    )
    await aws.reaches(task, "STOPPED")
    stream = f"flow/main/{task['taskArn'].split('/')[-1]}"
    asked: dict[str, Any] = {"logGroupName": LOG_GROUP, "logStreamName": stream, "startFromHead": True}
    seen: list[str] = []
    token = None
    while True:
        page = await aws.logs.get_log_events(**asked, **({"nextToken": token} if token else {}))
        seen += [event["message"] for event in page["events"]]
        if page["nextForwardToken"] == token:
            break
        token = page["nextForwardToken"]
    assert seen == [str(n) for n in range(25000)]


async def test_a_forward_token_at_the_end_finds_later_lines(aws: Aws) -> None:
    code = "import sys\nprint('first', flush=True)\nimport time; time.sleep(1); print('second')"
    task = await aws.run_containers(container(command=python(code), logConfiguration=awslogs()))
    stream = {"logGroupName": LOG_GROUP, "logStreamName": f"flow/main/{task['taskArn'].split('/')[-1]}"}

    async def first() -> Any:
        try:
            page = await aws.logs.get_log_events(**stream, startFromHead=True)
        except ClientError:
            return None
        return page if page["events"] else None

    page = await until(first)
    assert [event["message"] for event in page["events"]] == ["first"]
    token = page["nextForwardToken"]
    empty = await aws.logs.get_log_events(**stream, startFromHead=True, nextToken=token)
    assert (empty["events"], empty["nextForwardToken"]) == ([], token)
    await aws.reaches(task, "STOPPED")
    rest = await aws.logs.get_log_events(**stream, startFromHead=True, nextToken=token)
    assert [event["message"] for event in rest["events"]] == ["second"]


async def test_filter_log_events_goes_over_streams_without_repeating(aws: Aws) -> None:
    prefix = fresh("prefix")
    definition = await aws.define(
        container(command=python("[print(n) for n in range(30)]"), logConfiguration=awslogs(prefix))
    )
    tasks = [await aws.run(definition) for _ in range(3)]
    for task in tasks:
        await aws.reaches(task, "STOPPED")
    names = [f"{prefix}/main/{task['taskArn'].split('/')[-1]}" for task in tasks]
    found = await aws.logs.describe_log_streams(logGroupName=LOG_GROUP, logStreamNamePrefix=prefix)
    assert sorted(stream["logStreamName"] for stream in found["logStreams"]) == sorted(names)
    pages = aws.logs.get_paginator("filter_log_events").paginate(
        logGroupName=LOG_GROUP, logStreamNames=names[:2], PaginationConfig={"PageSize": 25}
    )
    events = [event async for page in pages for event in page["events"]]
    assert len({event["eventId"] for event in events}) == len(events) == 60
    for name in names[:2]:
        assert [e["message"] for e in events if e["logStreamName"] == name] == [str(n) for n in range(30)]


async def test_a_missing_log_group_fails_the_task(aws: Aws) -> None:
    logs = awslogs() | {"options": awslogs()["options"] | {"awslogs-group": "/nowhere"}}
    end = await aws.reaches(await aws.run_containers(container(command=["true"], logConfiguration=logs)), "STOPPED")
    assert end["stopCode"] == "TaskFailedToStart"
    assert end["stoppedReason"].startswith("ResourceInitializationError: failed to validate logger args")
    assert "The specified log group does not exist." in end["stoppedReason"]


async def test_awslogs_can_create_the_group(aws: Aws) -> None:
    group = fresh("/made")
    logs = awslogs(awslogs_create_group="true")
    logs["options"]["awslogs-group"] = group
    task = await aws.run_containers(container(command=["echo", "hello"], logConfiguration=logs))
    await aws.reaches(task, "STOPPED")
    events = (await aws.logs.filter_log_events(logGroupName=group))["events"]
    assert [event["message"] for event in events] == ["hello"]


async def test_many_containers_log_at_once_while_clients_read(aws: Aws) -> None:
    prefix = fresh("many")
    definition = await aws.define(
        container(command=python("[print(n, flush=True) for n in range(200)]"), logConfiguration=awslogs(prefix))
    )
    tasks = [await aws.run(definition) for _ in range(20)]

    async def stopped() -> bool:
        await aws.logs.filter_log_events(logGroupName=LOG_GROUP, limit=10)
        await aws.logs.describe_log_streams(logGroupName=LOG_GROUP, orderBy="LastEventTime", descending=True)
        told = (await aws.ecs.describe_tasks(tasks=[task["taskArn"] for task in tasks]))["tasks"]
        return {task["lastStatus"] for task in told} == {"STOPPED"}

    await until(stopped, 60)
    for task in tasks:
        assert await aws.lines(task, prefix=prefix) == [str(n) for n in range(200)]


async def test_a_process_that_left_its_container_doesnt_hold_the_task(aws: Aws) -> None:
    code = "import subprocess, sys\nsubprocess.Popen(['sleep', '8'], start_new_session=True); print('bye')"
    started = time.monotonic()
    assert await output_of(aws, python(code)) == ["bye"]
    assert time.monotonic() - started < 6
