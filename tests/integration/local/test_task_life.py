"""A task's life: its statuses, its containers, how it ends and what is told of that."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from support.embedded import awslogs, container, fresh, python, the
from support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from support.embedded import Aws

pytestmark = pytest.mark.anyio

WAY = ["PROVISIONING", "PENDING", "ACTIVATING", "RUNNING", "DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED"]
FOREVER = python("import time; print('up'); time.sleep(600)")
# Ends by itself on SIGTERM, telling so.
POLITE = python(
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: (print('told to end'), sys.exit(7)))\n"
    "print('up'); time.sleep(600)"
)
STUBBORN = python("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(600)")


async def test_every_status_is_passed_in_order_and_versions_rise(slow_aws: Aws) -> None:
    task = await slow_aws.run_containers(container(command=["sleep", "0.5"]))
    assert (task["lastStatus"], task["desiredStatus"], task["version"]) == ("PROVISIONING", "RUNNING", 1)
    seen: list[dict[str, Any]] = [task]

    async def stopped() -> bool:
        seen.append(await slow_aws.describe(task))
        return bool(seen[-1]["lastStatus"] == "STOPPED")

    await until(stopped, every=0.005)
    statuses = list(dict.fromkeys(each["lastStatus"] for each in seen))
    assert statuses == WAY
    versions = [each["version"] for each in seen]
    assert versions == sorted(versions)
    assert len(set(versions)) >= len(WAY)


async def test_a_task_that_exits_tells_exit_code_reason_and_times(aws: Aws) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    task = await aws.run_containers(container(command=python("raise SystemExit(3)")), startedBy="me/1", group="batch")
    end = await aws.reaches(task, "STOPPED")
    assert end["stopCode"] == "EssentialContainerExited"
    assert end["stoppedReason"] == "Essential container in task exited"
    assert end["desiredStatus"] == "STOPPED"
    assert (end["startedBy"], end["group"], end["launchType"]) == ("me/1", "batch", "FARGATE")
    assert (end["cpu"], end["memory"], end["connectivity"]) == ("256", "512", "CONNECTED")
    assert the(end)["exitCode"] == 3
    assert the(end)["lastStatus"] == "STOPPED"
    assert the(end)["taskArn"] == task["taskArn"]
    assert the(end)["image"] == "an-image"
    assert the(end)["runtimeId"].startswith(task["taskArn"].split("/")[-1])
    order = [
        "createdAt",
        "pullStartedAt",
        "pullStoppedAt",
        "startedAt",
        "stoppingAt",
        "executionStoppedAt",
        "stoppedAt",
    ]
    times = [end[name] for name in order]
    assert times == sorted(times)
    assert before < times[0]


async def test_task_ids_are_32_characters_and_arns_name_the_cluster(aws: Aws) -> None:
    task = await aws.run_containers(container(command=["true"]))
    head, name = task["taskArn"].rsplit("/", 1)
    assert head == "arn:aws:ecs:us-east-1:123456789012:task/default"
    assert len(name) == 32
    assert name.isalnum()


async def test_a_running_task_has_no_end_yet(aws: Aws) -> None:
    task = await aws.reaches(await aws.run_containers(container(command=FOREVER)), "RUNNING")
    assert the(task)["lastStatus"] == "RUNNING"
    assert not {"stopCode", "stoppedReason", "stoppedAt", "stoppingAt"} & task.keys()
    assert "exitCode" not in the(task)
    await aws.ecs.stop_task(task=task["taskArn"])


@pytest.mark.parametrize(("number", "code"), [(9, 137), (11, 139), (15, 143)])
async def test_a_signal_that_ends_a_container_is_its_exit_code(aws: Aws, number: int, code: int) -> None:
    task = await aws.run_containers(container(command=python(f"import os; os.kill(os.getpid(), {number})")))
    assert the(await aws.reaches(task, "STOPPED"))["exitCode"] == code


async def test_stop_task_lets_the_container_end_itself(aws: Aws) -> None:
    task = await aws.run_containers(container(command=POLITE, logConfiguration=awslogs()))
    await until(lambda: said(aws, task, "up"))
    answer = (await aws.ecs.stop_task(task=task["taskArn"], reason="enough"))["task"]
    assert (answer["desiredStatus"], answer["lastStatus"]) == ("STOPPED", "RUNNING")
    end = await aws.reaches(task, "STOPPED")
    assert (end["stopCode"], end["stoppedReason"]) == ("UserInitiated", "enough")
    assert the(end)["exitCode"] == 7
    assert await aws.lines(task) == ["up", "told to end"]


async def test_stop_task_kills_what_ignores_sigterm_after_stop_timeout(aws: Aws) -> None:
    task = await aws.run_containers(container(command=STUBBORN, logConfiguration=awslogs(), stopTimeout=2))
    await until(lambda: said(aws, task, "up"))
    await aws.ecs.stop_task(task=task["taskArn"])
    end = await aws.reaches(task, "STOPPED")
    assert the(end)["exitCode"] == 137
    assert timedelta(seconds=1.9) < end["executionStoppedAt"] - end["stoppingAt"] < timedelta(seconds=4)


async def test_stop_task_again_changes_nothing(aws: Aws) -> None:
    task = await aws.reaches(await aws.run_containers(container(command=FOREVER)), "RUNNING")
    await aws.ecs.stop_task(task=task["taskArn"], reason="first")
    await aws.ecs.stop_task(task=task["taskArn"], reason="second")
    end = await aws.reaches(task, "STOPPED")
    again = (await aws.ecs.stop_task(task=task["taskArn"], reason="third"))["task"]
    assert (again["stoppedReason"], again["version"]) == ("first", end["version"])


async def test_a_task_stopped_before_it_runs_never_starts_its_containers(aws: Aws, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    task = await aws.run_containers(container(command=["touch", str(mark)]))
    await aws.ecs.stop_task(task=task["taskArn"], reason="changed my mind")
    end = await aws.reaches(task, "STOPPED")
    assert (end["stopCode"], end["stoppedReason"]) == ("UserInitiated", "changed my mind")
    assert "startedAt" not in end
    assert "exitCode" not in the(end)
    assert not mark.exists()


async def test_children_end_with_their_container(aws: Aws) -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid)"
    task = await aws.run_containers(container(command=python(code), logConfiguration=awslogs()))
    await aws.reaches(task, "STOPPED")
    (pid,) = await aws.lines(task)

    async def gone() -> bool:
        try:
            return "(sleep) Z" in await anyio.Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            return True

    await until(gone)


async def test_an_essential_containers_end_ends_the_others(aws: Aws) -> None:
    task = await aws.run_containers(
        container("main", python("raise SystemExit(4)")), container("side", POLITE, logConfiguration=awslogs())
    )
    end = await aws.reaches(task, "STOPPED")
    assert (the(end)["exitCode"], the(end, "side")["exitCode"] in {7, 143}) == (4, True)
    assert end["stopCode"] == "EssentialContainerExited"


async def test_a_non_essential_containers_end_changes_nothing(aws: Aws) -> None:
    task = await aws.run_containers(
        container("main", FOREVER), container("side", python("raise SystemExit(5)"), essential=False)
    )

    async def side_ended() -> dict[str, Any] | None:
        seen = await aws.describe(task)
        return seen if the(seen, "side")["lastStatus"] == "STOPPED" else None

    seen = await until(side_ended)
    assert the(seen, "side")["exitCode"] == 5
    seen = await aws.reaches(task, "RUNNING")
    assert seen["desiredStatus"] == "RUNNING"
    assert the(seen)["lastStatus"] == "RUNNING"
    await aws.ecs.stop_task(task=task["taskArn"])
    end = await aws.reaches(task, "STOPPED")
    assert (the(end)["exitCode"], the(end, "side")["exitCode"]) == (143, 5)


async def test_dependencies_order_the_containers(aws: Aws, tmp_path: Path) -> None:
    mark = tmp_path / "prepared"
    task = await aws.run_containers(
        container("main", ["cat", str(mark)], dependsOn=[{"containerName": "init", "condition": "SUCCESS"}]),
        container("init", ["sh", "-c", f"sleep 0.5; echo yes > {mark}"], essential=False),
    )
    end = await aws.reaches(task, "STOPPED")
    assert (the(end)["exitCode"], the(end, "init")["exitCode"]) == (0, 0)


async def test_a_failed_dependency_fails_the_task(aws: Aws) -> None:
    task = await aws.run_containers(
        container("main", ["true"], dependsOn=[{"containerName": "init", "condition": "SUCCESS"}]),
        container("init", ["false"], essential=False),
    )
    end = await aws.reaches(task, "STOPPED")
    assert end["stopCode"] == "TaskFailedToStart"
    assert the(end, "init")["exitCode"] == 1
    assert "exitCode" not in the(end)
    assert "dependency" in end["stoppedReason"]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["no-such-program"], 'exec: "no-such-program": executable file not found in $PATH'),
        (["/no/such/program"], 'exec: "/no/such/program": no such file or directory'),
        (["/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
        (None, "no command specified"),
    ],
)
async def test_a_command_that_cant_be_started(aws: Aws, command: list[str] | None, reason: str) -> None:
    task = await aws.run_containers(container(command=command), container("side", FOREVER))
    end = await aws.reaches(task, "STOPPED")
    assert end["stopCode"] == "TaskFailedToStart"
    assert end["stoppedReason"].startswith("CannotStartContainerError: ")
    assert reason in end["stoppedReason"]
    assert "startedAt" not in end
    assert the(end)["reason"] == end["stoppedReason"]
    assert "exitCode" not in the(end)
    assert the(end)["lastStatus"] == the(end, "side")["lastStatus"] == "STOPPED"


async def test_tags(aws: Aws) -> None:
    definition = await aws.define(container(command=FOREVER), tags=[{"key": "of", "value": "definition"}])
    task = await aws.run(
        definition,
        tags=[{"key": "run", "value": "1"}],
        propagateTags="TASK_DEFINITION",
        enableECSManagedTags=True,
        cluster="default",
    )
    told = {tag["key"]: tag["value"] for tag in (await aws.describe(task))["tags"]}
    assert told == {"of": "definition", "run": "1", "aws:ecs:clusterName": "default"}
    bare = (await aws.ecs.describe_tasks(tasks=[task["taskArn"]]))["tasks"][0]
    assert bare["tags"] == []
    await aws.ecs.stop_task(task=task["taskArn"])
    assert (await aws.describe(task))["tags"] == []


async def test_the_network_interface_lives_as_long_as_the_task(aws: Aws) -> None:
    task = await aws.reaches(await aws.run_containers(container(command=FOREVER)), "RUNNING")
    details = {item["name"]: item["value"] for item in task["attachments"][0]["details"]}
    assert task["attachments"][0]["status"] == "ATTACHED"
    assert details["subnetId"] == aws.subnets[0]
    ids = [details["networkInterfaceId"]]
    found = (await aws.ec2.describe_network_interfaces(NetworkInterfaceIds=ids))["NetworkInterfaces"]
    assert found[0]["PrivateIpAddress"] == the(task)["networkInterfaces"][0]["privateIpv4Address"]
    await aws.ecs.stop_task(task=task["taskArn"])
    end = await aws.reaches(task, "STOPPED")
    assert end["attachments"][0]["status"] == "DELETED"
    with pytest.raises(aws.ec2.exceptions.ClientError, match="NotFound"):
        await aws.ec2.describe_network_interfaces(NetworkInterfaceIds=ids)


async def test_clusters_count_their_tasks(aws: Aws) -> None:
    name = fresh("cluster")
    await aws.ecs.create_cluster(clusterName=name)

    async def counts() -> tuple[int, int]:
        cluster = (await aws.ecs.describe_clusters(clusters=[name]))["clusters"][0]
        return cluster["runningTasksCount"], cluster["pendingTasksCount"]

    task = await aws.run_containers(container(command=FOREVER), cluster=name)
    assert await counts() == (0, 1)
    await aws.reaches(task, "RUNNING")
    assert await counts() == (1, 0)
    await aws.ecs.stop_task(cluster=name, task=task["taskArn"])
    await aws.reaches(task, "STOPPED")
    assert await counts() == (0, 0)


async def test_a_hundred_containers_at_once(aws: Aws) -> None:
    definition = await aws.define(container(command=["sleep", "600"]))
    answers = [
        await aws.ecs.run_task(
            taskDefinition=definition, launchType="FARGATE", networkConfiguration=aws.network, count=10
        )
        for _ in range(10)
    ]
    arns = [task["taskArn"] for answer in answers for task in answer["tasks"]]

    async def all_are(status: str) -> bool:
        told = (await aws.ecs.describe_tasks(tasks=arns))["tasks"]
        return len(told) == 100 and {task["lastStatus"] for task in told} == {status}

    await until(lambda: all_are("RUNNING"), 40)
    for arn in arns:
        await aws.ecs.stop_task(task=arn)
    await until(lambda: all_are("STOPPED"), 40)


async def said(aws: Aws, task: dict[str, Any], line: str) -> bool:
    try:
        return line in await aws.lines(task)
    except aws.logs.exceptions.ResourceNotFoundException:
        return False
