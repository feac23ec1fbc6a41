"""ECS services run their tasks; CloudFormation keeps all that a template says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from support.embedded import LOG_GROUP, ROLE, awslogs, container, fresh
from support.waiting import until

if TYPE_CHECKING:
    from support.embedded import Aws

pytestmark = pytest.mark.anyio

FOREVER = ["sleep", "600"]


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
    (told,) = (await aws.ecs.describe_services(services=[name]))["services"]
    assert (told["runningCount"], told["pendingCount"]) == (2, 0)

    await aws.ecs.stop_task(task=tasks[0]["taskArn"], reason="test")
    ended = tasks[0]["taskArn"]
    await aws.reaches(tasks[0], "STOPPED")
    replaced = await tasks_of(aws, name, 2, lastStatus="RUNNING")
    assert ended not in {task["taskArn"] for task in replaced}

    newer = await aws.define(container(command=FOREVER))
    await aws.ecs.update_service(service=name, taskDefinition=newer, desiredCount=1)
    await tasks_of(aws, name, 1, lastStatus="RUNNING", taskDefinitionArn=newer)
    (told,) = (await aws.ecs.describe_services(services=[name]))["services"]
    assert (told["desiredCount"], told["taskDefinition"]) == (1, newer)

    await aws.ecs.delete_service(service=name, force=True)
    await tasks_of(aws, name, 0)


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
    (made,) = (await aws.cloudformation.describe_stacks(StackName=stack))["Stacks"]
    assert made["StackStatus"] == "CREATE_COMPLETE"
    told = (await aws.ecs.describe_task_definition(taskDefinition=family))["taskDefinition"]
    assert (told["networkMode"], told["cpu"], told["memory"]) == ("awsvpc", "512", "1024")
    assert (told["executionRoleArn"], told["taskRoleArn"]) == (ROLE, ROLE)
    assert told["containerDefinitions"][0]["dockerLabels"] == {"Kept": "as it is"}
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
    definition = (await aws.ecs.describe_task_definition(taskDefinition=told["taskDefinitionArn"]))["taskDefinition"]
    assert definition["status"] == "INACTIVE"
