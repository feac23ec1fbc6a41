"""ECS services run their tasks; CloudFormation keeps all that a template says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ecs_worker import __version__
from support.embedded import LOG_GROUP, ROLE, awslogs, container, fresh, the
from support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from support.embedded import Aws

pytestmark = pytest.mark.anyio

FOREVER = ["sleep", "600"]
BREAKER = {"deploymentCircuitBreaker": {"enable": True, "rollback": True}}


async def tasks_of(aws: Aws, service: str, count: int, **wanted: str) -> list[dict[str, Any]]:
    async def look() -> list[dict[str, Any]] | None:
        arns = (await aws.ecs.list_tasks(serviceName=service))["taskArns"]
        tasks = (await aws.ecs.describe_tasks(tasks=arns))["tasks"] if arns else []
        wanted_ones = [task for task in tasks if all(task[name] == value for name, value in wanted.items())]
        return tasks or [{}] if len(tasks) == len(wanted_ones) == count else None

    return list(await until(look))


async def test_a_service_keeps_its_tasks_running(aws: Aws) -> None:
    name = fresh("service")
    definition = await aws.define(container(command=FOREVER))
    made = await aws.ecs.create_service(
        serviceName=name,
        taskDefinition=definition,
        desiredCount=2,
        launchType="FARGATE",
        networkConfiguration=aws.network,
    )
    assert (made["service"]["launchType"], made["service"]["desiredCount"]) == ("FARGATE", 2)
    tasks = await tasks_of(aws, name, 2, lastStatus="RUNNING")
    assert {task["group"] for task in tasks} == {f"service:{name}"}
    assert all(task["startedBy"].startswith("ecs-svc/") for task in tasks)
    seen = await told(aws, name)
    assert (seen["runningCount"], seen["pendingCount"]) == (2, 0)

    await aws.ecs.stop_task(task=tasks[0]["taskArn"], reason="test")
    ended = tasks[0]["taskArn"]
    await aws.reaches(tasks[0], "STOPPED")
    replaced = await tasks_of(aws, name, 2, lastStatus="RUNNING")
    assert ended not in {task["taskArn"] for task in replaced}

    newer = await aws.define(container(command=FOREVER))
    await aws.ecs.update_service(service=name, taskDefinition=newer, desiredCount=1)
    await tasks_of(aws, name, 1, lastStatus="RUNNING", taskDefinitionArn=newer)
    seen = await told(aws, name)
    assert (seen["desiredCount"], seen["taskDefinition"]) == (1, newer)

    await aws.ecs.delete_service(service=name, force=True)
    await tasks_of(aws, name, 0)


async def open_service(aws: Aws, definition: str, count: int = 1, **more: Any) -> str:
    name = fresh("service")
    asked = {"desiredCount": count, "launchType": "FARGATE", "networkConfiguration": aws.network} | more
    await aws.ecs.create_service(serviceName=name, taskDefinition=definition, **asked)
    return name


async def told(aws: Aws, name: str) -> dict[str, Any]:
    return dict((await aws.ecs.describe_services(services=[name]))["services"][0])


async def steady(aws: Aws, name: str) -> list[str]:
    """The service's events, the newest first, once it is steady."""

    async def look() -> list[str] | None:
        service = await told(aws, name)
        messages = [event["message"] for event in service["events"]]
        rolled = [each["rolloutState"] for each in service["deployments"]] == ["COMPLETED"]
        return messages if rolled and messages[0].endswith("steady state.") else None

    return list(await until(look))


async def test_a_service_tells_its_events_as_ecs_does(aws: Aws) -> None:
    name = await open_service(aws, await aws.define(container(command=FOREVER)))
    messages = await steady(aws, name)
    (task,) = (await aws.ecs.list_tasks(serviceName=name))["taskArns"]
    (deployment,) = (await told(aws, name))["deployments"]
    assert messages == [
        f"(service {name}) has reached a steady state.",
        f"(service {name}) (deployment {deployment['id']}) deployment completed.",
        f"(service {name}) has started 1 tasks: (task {task.split('/')[-1]}).",
    ]
    assert (deployment["status"], deployment["failedTasks"]) == ("PRIMARY", 0)
    await aws.ecs.update_service(service=name, desiredCount=0)
    messages = await steady(aws, name)
    assert messages[:2] == [
        f"(service {name}) has reached a steady state.",
        f"(service {name}) has stopped 1 running tasks: (task {task.split('/')[-1]}).",
    ]
    times = [event["createdAt"] for event in (await told(aws, name))["events"]]
    assert times == sorted(times, reverse=True)
    for _ in range(60):
        await aws.ecs.update_service(service=name, desiredCount=1)
        await aws.ecs.update_service(service=name, desiredCount=0)
    assert len((await told(aws, name))["events"]) == 100
    await aws.ecs.delete_service(service=name)
    assert not [arn for arn in (await aws.ecs.list_services())["serviceArns"] if arn.endswith(name)]


async def test_a_service_that_cannot_place_its_task_says_why(aws: Aws) -> None:
    definition = await aws.define(container(command=FOREVER))
    name = await open_service(aws, definition)
    await steady(aws, name)
    await aws.ecs.deregister_task_definition(taskDefinition=definition)
    (task,) = await tasks_of(aws, name, 1)
    await aws.ecs.stop_task(task=task["taskArn"])

    async def said() -> bool:
        text = f"(service {name}) was unable to place a task. Reason: TaskDefinition is inactive"
        return bool((await told(aws, name))["events"][0]["message"] == text)

    await until(said)
    await aws.ecs.delete_service(service=name, force=True)


async def test_an_update_starts_the_new_tasks_before_it_stops_the_old_ones(aws: Aws) -> None:
    """At no moment fewer than two tasks run: the least is 100 %, the most 200 %."""
    name = await open_service(aws, await aws.define(container(command=FOREVER)), 2)
    await steady(aws, name)
    old = {task["taskArn"] for task in await tasks_of(aws, name, 2)}
    newer = await aws.define(container(command=FOREVER))
    answer = await aws.ecs.update_service(service=name, taskDefinition=newer)
    assert [each["status"] for each in answer["service"]["deployments"]] == ["PRIMARY", "ACTIVE"]
    assert [each["rolloutState"] for each in answer["service"]["deployments"]] == ["IN_PROGRESS", "COMPLETED"]
    counts = []

    async def rolled() -> bool:
        service = await told(aws, name)
        counts.append(sum(each["runningCount"] for each in service["deployments"]))
        return len(service["deployments"]) == 1

    await until(rolled, every=0.01)
    assert min(counts) >= 2
    assert max(counts) <= 4
    new = {task["taskArn"] for task in await tasks_of(aws, name, 2, taskDefinitionArn=newer)}
    assert not old & new
    messages = await steady(aws, name)
    stopped = next(place for place, text in enumerate(messages) if "has stopped" in text)
    started = next(place for place, text in enumerate(messages) if "has started 2 tasks" in text)
    assert stopped < started
    await aws.ecs.delete_service(service=name, force=True)


async def test_the_circuit_breaker_goes_back_to_what_was_complete(aws: Aws) -> None:
    good = await aws.define(container(command=FOREVER))
    name = await open_service(aws, good, deploymentConfiguration=BREAKER)
    await steady(aws, name)
    (before,) = (await told(aws, name))["deployments"]
    broken = await aws.define(container(command=["no-such-program"]))
    answer = await aws.ecs.update_service(service=name, taskDefinition=broken)
    failing = answer["service"]["deployments"][0]["id"]

    async def back() -> list[str] | None:
        service = await told(aws, name)
        messages = [event["message"] for event in service["events"]]
        return messages if any("rolling back" in text for text in messages) else None

    messages = list(await until(back))
    assert f"(service {name}) (deployment {failing}) deployment failed: tasks failed to start." in messages
    assert f"(service {name}) rolling back to deployment {before['id']}." in messages
    assert f"(service {name}) is unable to consistently start tasks successfully." in messages
    await steady(aws, name)
    service = await told(aws, name)
    assert service["taskDefinition"] == good
    assert [each["id"] for each in service["deployments"]] == [before["id"]]
    assert service["deploymentConfiguration"]["deploymentCircuitBreaker"] == {"enable": True, "rollback": True}
    await tasks_of(aws, name, 1, taskDefinitionArn=good, lastStatus="RUNNING")
    await aws.ecs.delete_service(service=name, force=True)


async def test_a_first_deployment_that_fails_starts_no_more_tasks(aws: Aws) -> None:
    broken = await aws.define(container(command=["no-such-program"]))
    name = await open_service(aws, broken, deploymentConfiguration=BREAKER)

    async def failed() -> bool:
        return bool((await told(aws, name))["deployments"][0]["rolloutState"] == "FAILED")

    await until(failed)
    service = await told(aws, name)
    (deployment,) = service["deployments"]
    assert deployment["rolloutStateReason"] == "ECS deployment circuit breaker: tasks failed to start."
    assert (deployment["failedTasks"], deployment["desiredCount"]) == (3, 0)
    started = [event["message"] for event in service["events"] if "has started" in event["message"]]
    assert len(started) == 3
    await aws.ecs.delete_service(service=name, force=True)


async def test_a_task_counts_once_its_container_is_healthy(aws: Aws, tmp_path: Path) -> None:
    """Also for a container that waits for another's health."""
    mark = tmp_path / "well"
    check = {"command": ["CMD-SHELL", f"test -e {mark}"], "interval": 5, "startPeriod": 60}
    later = container("later", FOREVER, dependsOn=[{"containerName": "main", "condition": "HEALTHY"}], essential=False)
    name = await open_service(aws, await aws.define(container(command=FOREVER, healthCheck=check), later))
    (task,) = await tasks_of(aws, name, 1)

    async def main_runs() -> bool:
        return bool(the(await aws.describe(task))["lastStatus"] == "RUNNING")

    await until(main_runs)
    seen = await aws.describe(task)
    assert (seen["healthStatus"], the(seen)["healthStatus"], the(seen, "later")["lastStatus"]) == (
        "UNKNOWN",
        "UNKNOWN",
        "PENDING",
    )
    assert (await told(aws, name))["deployments"][0]["rolloutState"] == "IN_PROGRESS"
    mark.touch()
    await steady(aws, name)
    seen = await aws.describe(task)
    assert (seen["healthStatus"], the(seen)["healthStatus"]) == ("HEALTHY", "HEALTHY")
    assert the(seen, "later")["lastStatus"] == "RUNNING"
    await aws.ecs.delete_service(service=name, force=True)


async def test_an_unhealthy_task_is_replaced(aws: Aws, tmp_path: Path) -> None:
    mark = tmp_path / "well"
    mark.touch()
    check = {"command": ["CMD", "test", "-e", str(mark)], "interval": 1, "retries": 1}
    # ECS takes no interval below 5 s; this one knows no such limit.
    name = await open_service(aws, await aws.define(container(command=FOREVER, healthCheck=check)))
    await steady(aws, name)
    (task,) = await tasks_of(aws, name, 1)
    mark.unlink()
    ended = await aws.reaches(task, "STOPPED")
    assert (ended["stopCode"], ended["stoppedReason"]) == (
        "ServiceSchedulerInitiated",
        "Task failed container health checks",
    )
    mark.touch()
    await steady(aws, name)
    assert (await tasks_of(aws, name, 1))[0]["taskArn"] != task["taskArn"]
    await aws.ecs.delete_service(service=name, force=True)


async def test_the_workers_own_image_brings_its_entry_point(aws: Aws) -> None:
    """Any other image brings nothing: its definition must name the whole command."""
    registry = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
    for image in ("ecs-worker", f"{registry}/ecs-worker:0.1.0", f"{registry}/tools/ecs-worker@sha256:{'0' * 64}"):
        asked = container(command=["--version"], logConfiguration=awslogs()) | {"image": image}
        task = await aws.run_containers(asked)
        ended = await aws.reaches(task, "STOPPED")
        assert the(ended)["exitCode"] == 0
        assert await aws.lines(task) == [__version__]
    other = container(command=["--version"]) | {"image": f"{registry}/my-ecs-worker:1"}
    ended = await aws.reaches(await aws.run_containers(other), "STOPPED")
    assert 'exec: "--version"' in ended["stoppedReason"]
    own = container(command=["print", "$ECS_WORKER_WITH_HEALTHCHECK"], entryPoint=["echo"], logConfiguration=awslogs())
    task = await aws.run_containers(own | {"image": "ecs-worker"})
    await aws.reaches(task, "STOPPED")
    assert await aws.lines(task) == ["print $ECS_WORKER_WITH_HEALTHCHECK"]


async def reaches_status(aws: Aws, stack: str, status: str) -> dict[str, Any]:
    """The stack, once its status is no passing one any more, which must be this."""

    async def look() -> dict[str, Any] | None:
        (seen,) = (await aws.cloudformation.describe_stacks(StackName=stack))["Stacks"]
        return None if seen["StackStatus"].endswith("IN_PROGRESS") else dict(seen)

    seen: dict[str, Any] = await until(look)
    assert seen["StackStatus"] == status
    return seen


async def test_a_stacks_task_definition_and_service_are_whole(aws: Aws) -> None:
    stack, cluster, family = fresh("stack"), fresh("cluster"), fresh("family")
    logs = awslogs()
    template = {
        "Resources": {
            "Cluster": {"Type": "AWS::ECS::Cluster", "Properties": {"ClusterName": cluster}},
            "Definition": {
                "Type": "AWS::ECS::TaskDefinition",
                "Properties": {
                    "Family": family,
                    "RequiresCompatibilities": ["FARGATE"],
                    "NetworkMode": "awsvpc",
                    "Cpu": "512",
                    "Memory": "1024",
                    "ExecutionRoleArn": ROLE,
                    "TaskRoleArn": ROLE,
                    "ContainerDefinitions": [
                        {
                            "Name": "main",
                            "Image": "an-image",
                            "Command": ["sh", "-c", "echo $GREETING; sleep 600"],
                            "Environment": [{"Name": "GREETING", "Value": "hello"}],
                            "DockerLabels": {"Kept": "as it is"},
                            "LogConfiguration": {"LogDriver": "awslogs", "Options": logs["options"]},
                        }
                    ],
                },
            },
            "Service": {
                "Type": "AWS::ECS::Service",
                "Properties": {
                    "Cluster": {"Ref": "Cluster"},
                    "TaskDefinition": {"Ref": "Definition"},
                    "DesiredCount": 1,
                    "LaunchType": "FARGATE",
                    "NetworkConfiguration": {"AwsvpcConfiguration": {"Subnets": aws.subnets[:1]}},
                },
            },
        },
        "Outputs": {"Name": {"Value": {"Fn::GetAtt": ["Service", "Name"]}}},
    }
    await aws.cloudformation.create_stack(StackName=stack, TemplateBody=json.dumps(template))
    await reaches_status(aws, stack, "CREATE_COMPLETE")
    registered = (await aws.ecs.describe_task_definition(taskDefinition=family))["taskDefinition"]
    assert (registered["networkMode"], registered["cpu"], registered["memory"]) == ("awsvpc", "512", "1024")
    assert (registered["executionRoleArn"], registered["taskRoleArn"]) == (ROLE, ROLE)
    assert registered["containerDefinitions"][0]["dockerLabels"] == {"Kept": "as it is"}
    (service_arn,) = (await aws.ecs.list_services(cluster=cluster))["serviceArns"]
    (service,) = (await aws.ecs.describe_services(cluster=cluster, services=[service_arn]))["services"]
    assert service["launchType"] == "FARGATE"

    async def running(count: int) -> list[str]:
        arns = (await aws.ecs.list_tasks(cluster=cluster, serviceName=service["serviceName"]))["taskArns"]
        return (arns or ["none"]) if len(arns) == count else []

    (arn,) = await until(lambda: running(1))
    stream = f"flow/main/{arn.split('/')[-1]}"

    async def greeted() -> bool:
        found = await aws.logs.describe_log_streams(logGroupName=LOG_GROUP, logStreamNamePrefix=stream)
        if not found["logStreams"]:
            return False
        events = await aws.logs.get_log_events(logGroupName=LOG_GROUP, logStreamName=stream, startFromHead=True)
        return [event["message"] for event in events["events"]] == ["hello"]

    await until(greeted)
    template["Resources"]["Service"]["Properties"]["DesiredCount"] = 2  # type: ignore[index]
    await aws.cloudformation.update_stack(StackName=stack, TemplateBody=json.dumps(template))
    await until(lambda: running(2))
    await aws.cloudformation.delete_stack(StackName=stack)
    await until(lambda: running(0))
    definition = (await aws.ecs.describe_task_definition(taskDefinition=registered["taskDefinitionArn"]))[
        "taskDefinition"
    ]
    assert definition["status"] == "INACTIVE"
