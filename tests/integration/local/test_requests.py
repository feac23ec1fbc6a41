"""What the ECS API answers and refuses: rows of what stock moto gets wrong, and what RunTask promises."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from botocore.exceptions import ClientError

from support.embedded import ROLE, awslogs, connected, container, fresh, python, the
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from support.embedded import Aws

pytestmark = pytest.mark.anyio

FOREVER = ["sleep", "600"]


async def refusal(call: Awaitable[Any]) -> tuple[str, str]:
    with pytest.raises(ClientError) as raised:
        await call
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    error = raised.value.response["Error"]
    return error["Code"], error["Message"]


# RunTask


async def test_the_default_cluster_exists_and_takes_fargate(aws: Aws) -> None:
    (cluster,) = (await aws.ecs.describe_clusters())["clusters"]
    assert cluster["clusterName"] == "default"
    assert set(cluster["capacityProviders"]) == {"FARGATE", "FARGATE_SPOT"}


async def test_fargate_needs_neither_security_groups_nor_container_memory(aws: Aws) -> None:
    task = await aws.run_containers(container(command=["true"]), networkConfiguration=aws.network)
    assert (await aws.reaches(task, "STOPPED"))["stopCode"] == "EssentialContainerExited"


async def test_a_client_token_makes_one_task(aws: Aws) -> None:
    definition = await aws.define(container(command=["true"]))
    token = fresh("token")
    first = await aws.run(definition, clientToken=token)
    again = await aws.run(definition, clientToken=token)
    assert again["taskArn"] == first["taskArn"]
    other = await aws.run(definition, clientToken=fresh("token"))
    assert other["taskArn"] != first["taskArn"]
    await aws.reaches(first, "STOPPED")
    replayed = await aws.run(definition, clientToken=token)
    assert replayed == {"taskArn": first["taskArn"], "lastStatus": "STOPPED", "desiredStatus": "STOPPED"}


async def test_a_client_token_with_other_parameters_is_a_conflict(aws: Aws) -> None:
    definition = await aws.define(container(command=["true"]))
    token = fresh("token")
    first = await aws.run(definition, clientToken=token)
    with pytest.raises(aws.ecs.exceptions.ConflictException) as raised:
        await aws.run(definition, clientToken=token, startedBy="another")
    assert raised.value.response["resourceIds"] == [first["taskArn"]]


async def test_a_client_token_belongs_to_its_cluster(aws: Aws) -> None:
    definition = await aws.define(container(command=["true"]))
    name = fresh("cluster")
    await aws.ecs.create_cluster(clusterName=name)
    token = fresh("token")
    first = await aws.run(definition, clientToken=token)
    other = await aws.run(definition, clientToken=token, cluster=name)
    assert first["taskArn"] != other["taskArn"]


@pytest.mark.parametrize(
    ("asked", "code", "message"),
    [
        ({"cluster": "nowhere"}, "ClusterNotFoundException", "Cluster not found."),
        ({"cluster": ""}, "InvalidParameterException", "Cluster name can not be empty."),
        ({"taskDefinition": "no-such-family"}, "ClientException", "TaskDefinition not found."),
        ({"taskDefinition": "no-such-family:3"}, "ClientException", "TaskDefinition not found."),
        ({"startedBy": "x" * 129}, "InvalidParameterException", "startedBy"),
        ({"startedBy": "a:b"}, "InvalidParameterException", "startedBy"),
        ({"clientToken": "x" * 65}, "InvalidParameterException", "clientToken"),
        ({"count": 11}, "InvalidParameterException", "Count"),
        ({"count": 0}, "InvalidParameterException", "Count"),
        (
            {"capacityProviderStrategy": [{"capacityProvider": "FARGATE", "weight": 1}]},
            "InvalidParameterException",
            "Specify either Launch Type or Capacity Provider Strategy, but not both.",
        ),
        (
            {"launchType": None, "capacityProviderStrategy": [{"capacityProvider": "unknown", "weight": 1}]},
            "InvalidParameterException",
            "not associated with the cluster",
        ),
        ({"launchType": "SPACE"}, "InvalidParameterException", "launch type should be one of"),
        (
            {"networkConfiguration": None},
            "InvalidParameterException",
            "Network Configuration must be provided when networkMode 'awsvpc' is specified.",
        ),
        (
            {"networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-0"]}}},
            "InvalidParameterException",
            "The subnet ID 'subnet-0' does not exist",
        ),
        (
            {"overrides": {"containerOverrides": [{"name": "nobody", "command": ["true"]}]}},
            "InvalidParameterException",
            "Override for container named nobody is not a container in the TaskDefinition.",
        ),
        (
            {"overrides": {"containerOverrides": [{"name": "main", "command": ["x" * 8192]}]}},
            "InvalidParameterException",
            "Container Overrides length must be at most 8192",
        ),
        ({"overrides": {"cpu": "256", "memory": "4096"}}, "ClientException", "No Fargate configuration exists"),
        ({"tags": [{"key": "aws:x", "value": ""}]}, "InvalidParameterException", "reserved"),
        ({"tags": [{"key": "x", "value": "<"}]}, "InvalidParameterException", "Invalid character"),
        ({"tags": [{"key": str(n), "value": ""} for n in range(51)]}, "InvalidParameterException", "at most 50"),
        ({"launchType": None}, "InvalidParameterException", "No Container Instances were found in your cluster."),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
async def test_run_task_refuses(aws: Aws, asked: dict[str, Any], code: str, message: str) -> None:
    definition = await aws.define(container(command=["true"]))
    told = await refusal(aws.run(asked.pop("taskDefinition", definition), **asked))
    assert told[0] == code
    assert message in told[1]


async def test_overrides_may_have_8192_characters(aws: Aws) -> None:
    definition = await aws.define(container(command=["true"]))
    overrides = {"containerOverrides": [{"name": "main", "command": ["true", ""]}]}
    room = 8192 - len('{"containerOverrides":[{"name":"main","command":["true",""]}]}')
    overrides["containerOverrides"][0]["command"] = ["true", "x" * room]
    await aws.run(definition, overrides=overrides)
    overrides["containerOverrides"][0]["command"] = ["true", "x" * (room + 1)]
    assert (await refusal(aws.run(definition, overrides=overrides)))[0] == "InvalidParameterException"


async def test_a_capacity_provider_strategy_chooses_the_provider(aws: Aws) -> None:
    task = await aws.run_containers(
        container(command=["true"]),
        launchType=None,
        capacityProviderStrategy=[{"capacityProvider": "FARGATE_SPOT", "weight": 1}],
    )
    assert (task["launchType"], task["capacityProviderName"]) == ("FARGATE", "FARGATE_SPOT")


async def test_managed_instances_run_what_fits_them_in_their_own_cluster(aws: Aws) -> None:
    cluster, name = fresh("cluster"), fresh("instances")
    await aws.ecs.create_cluster(clusterName=cluster)
    made = await aws.ecs.create_capacity_provider(
        name=name,
        cluster=cluster,
        managedInstancesProvider={
            "infrastructureRoleArn": ROLE,
            "instanceLaunchTemplate": {
                "ec2InstanceProfileArn": "arn:aws:iam::123456789012:instance-profile/p",
                "networkConfiguration": {"subnets": aws.subnets[:1]},
            },
        },
    )
    assert (made["capacityProvider"]["name"], made["capacityProvider"]["status"]) == (name, "ACTIVE")
    asked = {"launchType": None, "capacityProviderStrategy": [{"capacityProvider": name, "weight": 1}]}
    sizes = {"cpu": "3072", "memory": "10240", "requiresCompatibilities": ["MANAGED_INSTANCES"]}
    fits = await aws.define(container(command=["true"]), **sizes)
    task = await aws.run(fits, cluster=cluster, **asked)
    assert (task["launchType"], task["capacityProviderName"]) == ("MANAGED_INSTANCES", name)
    await aws.reaches(task, "STOPPED")
    told = await refusal(aws.run(fits, **asked))
    assert "not associated with the cluster" in told[1]
    bridge = {"requiresCompatibilities": None, "networkMode": "bridge"}
    told = await refusal(
        aws.run(await aws.define(container(), **bridge), cluster=cluster, networkConfiguration=None, **asked)
    )
    assert told == ("InvalidParameterException", "Task definition does not support launch_type MANAGED_INSTANCES.")
    told = await refusal(aws.define(container(), **(bridge | {"requiresCompatibilities": ["MANAGED_INSTANCES"]})))
    assert told == ("ClientException", "Managed Instances only support network modes awsvpc and host.")


async def test_a_clusters_own_strategy_is_the_default(aws: Aws) -> None:
    name = fresh("cluster")
    await aws.ecs.create_cluster(
        clusterName=name,
        capacityProviders=["FARGATE"],
        defaultCapacityProviderStrategy=[{"capacityProvider": "FARGATE", "weight": 1}],
    )
    task = await aws.run_containers(container(command=["true"]), cluster=name, launchType=None)
    assert task["capacityProviderName"] == "FARGATE"


async def test_a_count_makes_that_many_tasks(aws: Aws) -> None:
    definition = await aws.define(container(command=["true"]))
    answer = await aws.ecs.run_task(
        taskDefinition=definition, launchType="FARGATE", networkConfiguration=aws.network, count=3
    )
    assert len({task["taskArn"] for task in answer["tasks"]}) == 3


async def test_a_full_container_instance_is_a_failure_until_a_task_has_ended(aws: Aws) -> None:
    cluster = fresh("cluster")
    await aws.ecs.create_cluster(clusterName=cluster)
    await register_instance(aws, cluster)
    definition = await aws.define(
        container(command=FOREVER, memory=5000),
        requiresCompatibilities=["EC2"],
        networkMode=None,
        cpu=None,
        memory=None,
    )
    asked = {"cluster": cluster, "taskDefinition": definition, "launchType": "EC2"}
    (task,) = (await aws.ecs.run_task(**asked))["tasks"]
    assert task["containerInstanceArn"]
    answer = await aws.ecs.run_task(**asked, clientToken="same")
    assert answer["tasks"] == []
    assert [failure["reason"] for failure in answer["failures"]] == ["RESOURCE:MEMORY"]
    await aws.ecs.stop_task(cluster=cluster, task=task["taskArn"])
    await aws.reaches(task, "STOPPED")
    replayed = await aws.ecs.run_task(**asked, clientToken="same")
    assert replayed["failures"] == answer["failures"]
    (task,) = (await aws.ecs.run_task(**asked, clientToken="new"))["tasks"]
    await aws.ecs.stop_task(cluster=cluster, task=task["taskArn"])


async def register_instance(aws: Aws, cluster: str) -> None:
    image = (await aws.ec2.describe_images())["Images"][0]["ImageId"]
    made = await aws.ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)
    document = json.dumps({"instanceId": made["Instances"][0]["InstanceId"]})
    await aws.ecs.register_container_instance(cluster=cluster, instanceIdentityDocument=document)


async def test_on_ec2_only_the_container_tells_why_it_failed_to_start(aws: Aws) -> None:
    cluster = fresh("cluster")
    await aws.ecs.create_cluster(clusterName=cluster)
    await register_instance(aws, cluster)
    definition = await aws.define(
        container(command=["nope"], memory=100),
        requiresCompatibilities=["EC2"],
        networkMode=None,
        cpu=None,
        memory=None,
    )
    task = await aws.run(definition, cluster=cluster, launchType="EC2", networkConfiguration=None)
    end = await aws.reaches(task, "STOPPED")
    assert (end["stopCode"], end["stoppedReason"]) == ("TaskFailedToStart", "Task failed to start")
    assert the(end)["reason"].startswith("CannotStartContainerError: ")


# Task definitions


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cpu": "256", "memory": "4096"}, "No Fargate configuration exists for given values"),
        ({"cpu": "300", "memory": "512"}, "No Fargate configuration exists for given values"),
        ({"cpu": None}, "Fargate requires that 'cpu' be defined at the task level."),
        ({"memory": None, "containerDefinitions": [container(memory=512)]}, "'memory' be defined at the task level."),
        ({"networkMode": "bridge"}, "Fargate only supports network mode"),
        ({"containerDefinitions": [container(essential=False)]}, "essential"),
        ({"containerDefinitions": [container(), container()]}, "unique"),
        ({"containerDefinitions": []}, "Container list cannot be empty."),
        ({"family": "not/allowed"}, "Family contains invalid characters"),
        (
            {"containerDefinitions": [container(logConfiguration=awslogs())], "executionRoleArn": None},
            "Fargate requires task definition to have execution role ARN to support log driver awslogs.",
        ),
        (
            {"containerDefinitions": [container(secrets=[{"name": "A", "valueFrom": "a"}])], "executionRoleArn": None},
            "executionRoleArn",
        ),
        (
            {
                "containerDefinitions": [
                    container("a", dependsOn=[{"containerName": "b", "condition": "START"}]),
                    container("b", dependsOn=[{"containerName": "a", "condition": "START"}]),
                ]
            },
            "cycle",
        ),
    ],
)
async def test_register_task_definition_refuses(aws: Aws, given: dict[str, Any], message: str) -> None:
    told = await refusal(aws.define(*given.pop("containerDefinitions", [container()]), **given))
    assert told[0] == "ClientException"
    assert message in told[1]


async def test_sizes_in_words_are_sizes(aws: Aws) -> None:
    await aws.run(await aws.define(container(command=["true"]), cpu=".25 vCPU", memory="1 GB"))


async def test_a_definition_without_fargate_can_still_run_there_if_it_fits(aws: Aws) -> None:
    fits = await aws.define(container(), requiresCompatibilities=None)
    assert (await defined(aws, fits))["compatibilities"] == ["EC2", "FARGATE", "MANAGED_INSTANCES"]
    await aws.run(fits)
    bridge = await aws.define(container(), requiresCompatibilities=None, networkMode="bridge")
    assert (await defined(aws, bridge))["compatibilities"] == ["EC2"]
    told = await refusal(aws.run(bridge, networkConfiguration=None))
    assert told == ("InvalidParameterException", "Task definition does not support launch_type FARGATE.")
    told = await refusal(aws.run(bridge))
    assert "not valid for the given networkMode" in told[1]


async def defined(aws: Aws, definition: str) -> dict[str, Any]:
    return dict((await aws.ecs.describe_task_definition(taskDefinition=definition))["taskDefinition"])


async def test_inactive_definitions_cannot_run_and_a_family_is_its_newest_active_one(aws: Aws) -> None:
    family = fresh("family")
    first = await aws.define(container(command=["true"]), family=family)
    second = await aws.define(container(command=["true"]), family=family)
    assert (await defined(aws, family))["taskDefinitionArn"] == second
    await aws.ecs.deregister_task_definition(taskDefinition=second)
    assert (await defined(aws, family))["taskDefinitionArn"] == first
    assert (await aws.run(family))["taskDefinitionArn"] == first
    assert await refusal(aws.run(second)) == ("ClientException", "TaskDefinition is inactive")
    assert (await defined(aws, second))["status"] == "INACTIVE"
    await aws.ecs.deregister_task_definition(taskDefinition=first)
    assert await refusal(aws.run(family)) == ("ClientException", "TaskDefinition not found.")
    told = await refusal(aws.ecs.describe_task_definition(taskDefinition=family))
    assert told == ("ClientException", "Unable to describe task definition.")


async def test_definitions_are_listed_newest_first_and_in_pages(aws: Aws) -> None:
    family = fresh("family")
    arns = [await aws.define(container(), family=family) for _ in range(12)]
    first = await aws.ecs.list_task_definitions(familyPrefix=family, sort="DESC", maxResults=10)
    assert first["taskDefinitionArns"] == arns[:1:-1]
    rest = await aws.ecs.list_task_definitions(
        familyPrefix=family, sort="DESC", maxResults=10, nextToken=first["nextToken"]
    )
    assert rest["taskDefinitionArns"] == [arns[1], arns[0]]
    assert "nextToken" not in rest
    await aws.ecs.deregister_task_definition(taskDefinition=arns[3])
    assert arns[3] not in (await aws.ecs.list_task_definitions(familyPrefix=family))["taskDefinitionArns"]
    inactive = await aws.ecs.list_task_definitions(familyPrefix=family, status="INACTIVE")
    assert inactive["taskDefinitionArns"] == [arns[3]]
    families = await aws.ecs.list_task_definition_families(familyPrefix=family, status="ACTIVE")
    assert families["families"] == [family]


async def test_registering_one_family_at_once_makes_different_revisions(aws: Aws) -> None:
    family = fresh("family")
    arns: list[str] = []

    async def register() -> None:
        arns.append(await aws.define(container(), family=family))

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(register)
    assert sorted(int(arn.rsplit(":", 1)[1]) for arn in arns) == list(range(1, 11))


async def test_tags_of_a_definition_are_told_when_asked_for(aws: Aws) -> None:
    tags = [{"key": "hash", "value": "abc"}]
    definition = await aws.define(container(), tags=tags)
    told = await aws.ecs.describe_task_definition(taskDefinition=definition, include=["TAGS"])
    assert told["tags"] == tags


# Looking


async def test_list_tasks_shows_running_ones_unless_asked_otherwise(aws: Aws) -> None:
    cluster = fresh("cluster")
    await aws.ecs.create_cluster(clusterName=cluster)
    running = await aws.run_containers(container(command=FOREVER), cluster=cluster, startedBy="me/1")
    stopped = await aws.run_containers(container(command=["true"]), cluster=cluster, startedBy="me/2")
    await aws.reaches(stopped, "STOPPED")

    async def listed(**filters: Any) -> list[str]:
        return list((await aws.ecs.list_tasks(cluster=cluster, **filters))["taskArns"])

    assert await listed() == [running["taskArn"]]
    assert await listed(desiredStatus="STOPPED") == [stopped["taskArn"]]
    assert await listed(desiredStatus="PENDING") == []
    assert await listed(startedBy="me/1") == [running["taskArn"]]
    assert await listed(startedBy="me/2") == []
    assert await listed(startedBy="me/2", desiredStatus="STOPPED") == [stopped["taskArn"]]
    family = running["taskDefinitionArn"].split("/")[1].split(":")[0]
    assert await listed(family=family) == [running["taskArn"]]
    assert await listed(family="other") == []
    assert await listed(launchType="EC2") == []
    told = await refusal(aws.ecs.list_tasks(cluster=cluster, startedBy="me/1", family=family))
    assert told[0] == "InvalidParameterException"
    await aws.ecs.stop_task(cluster=cluster, task=running["taskArn"])


async def test_list_tasks_has_pages(aws: Aws) -> None:
    cluster = fresh("cluster")
    await aws.ecs.create_cluster(clusterName=cluster)
    definition = await aws.define(container(command=FOREVER))
    arns = {(await aws.run(definition, cluster=cluster))["taskArn"] for _ in range(5)}
    pages = [
        page["taskArns"]
        async for page in aws.ecs.get_paginator("list_tasks").paginate(
            cluster=cluster, PaginationConfig={"PageSize": 2}
        )
    ]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert {arn for page in pages for arn in page} == arns
    told = await refusal(aws.ecs.list_tasks(cluster=cluster, maxResults=101))
    assert told[0] == "InvalidParameterException"
    for arn in arns:
        await aws.ecs.stop_task(cluster=cluster, task=arn)


async def test_describe_tasks_tells_what_is_missing(aws: Aws) -> None:
    task = await aws.run_containers(container(command=["true"]))
    unknown = "0" * 32
    answer = await aws.ecs.describe_tasks(tasks=[unknown, task["taskArn"].split("/")[-1]])
    assert [each["taskArn"] for each in answer["tasks"]] == [task["taskArn"]]
    arn = f"arn:aws:ecs:us-east-1:123456789012:task/default/{unknown}"
    assert answer["failures"] == [{"arn": arn, "reason": "MISSING"}]


async def test_describe_tasks_takes_up_to_100(aws: Aws) -> None:
    ids = [f"{n:032}" for n in range(101)]
    assert len((await aws.ecs.describe_tasks(tasks=ids[:100]))["failures"]) == 100
    told = await refusal(aws.ecs.describe_tasks(tasks=ids))
    assert told == ("InvalidParameterException", "Tasks cannot have more than 100 elements.")
    told = await refusal(aws.ecs.describe_tasks(tasks=[]))
    assert told == ("InvalidParameterException", "Tasks cannot be empty.")
    told = await refusal(aws.ecs.describe_tasks(tasks=["short"]))
    assert told == ("InvalidParameterException", "taskId length should be one of [32,36]")


@pytest.mark.parametrize("action", ["list_tasks", "describe_tasks", "stop_task"])
async def test_an_unknown_cluster_is_not_found(aws: Aws, action: str) -> None:
    given: dict[str, dict[str, Any]] = {"describe_tasks": {"tasks": ["0" * 32]}, "stop_task": {"task": "0" * 32}}
    told = await refusal(getattr(aws.ecs, action)(cluster="nowhere", **given.get(action, {})))
    assert told == ("ClusterNotFoundException", "Cluster not found.")


async def test_a_task_of_another_cluster_is_refused(aws: Aws) -> None:
    cluster = fresh("cluster")
    await aws.ecs.create_cluster(clusterName=cluster)
    task = await aws.run_containers(container(command=["true"]))
    told = await refusal(aws.ecs.describe_tasks(cluster=cluster, tasks=[task["taskArn"]]))
    assert told[0] == "InvalidParameterException"
    assert "Your cluster is" in told[1]


async def test_stopping_an_unknown_task_is_refused(aws: Aws) -> None:
    told = await refusal(aws.ecs.stop_task(task="0" * 32))
    assert told == ("InvalidParameterException", "The referenced task was not found.")


async def test_a_deleted_cluster_takes_no_tasks(aws: Aws) -> None:
    cluster = fresh("cluster")
    await aws.ecs.create_cluster(clusterName=cluster)
    await aws.ecs.delete_cluster(cluster=cluster)
    definition = await aws.define(container(command=["true"]))
    told = await refusal(aws.run(definition, cluster=cluster))
    assert told[0] == "ClusterNotFoundException"


async def test_start_task_is_refused_plainly(aws: Aws) -> None:
    definition = await aws.define(container(command=["true"]))
    told = await refusal(aws.ecs.start_task(taskDefinition=definition, containerInstances=["i"]))
    assert told[0] == "UnsupportedFeatureException"


async def test_it_is_quick(aws: Aws) -> None:
    definition = await aws.define(container(command=python("pass")))
    started = time.perf_counter()
    tasks = [await aws.run(definition) for _ in range(100)]
    assert time.perf_counter() - started < 10  # a third of a second on a quiet machine
    arns = [task["taskArn"] for task in tasks]

    async def stopped() -> bool:
        told = (await aws.ecs.describe_tasks(tasks=arns))["tasks"]
        return {task["lastStatus"] for task in told} == {"STOPPED"}

    await until(stopped, 60)

    async def described_quickly() -> bool:
        started = time.perf_counter()
        await aws.ecs.describe_tasks(tasks=arns)
        return time.perf_counter() - started < 0.05  # 15 ms on a quiet machine

    await until(described_quickly, every=0.05)  # other load may slow some of them


async def test_regions_are_apart(aws: Aws) -> None:
    async with connected(aws.url, ("ecs",), region="eu-west-1") as other:
        (cluster,) = (await other.ecs.describe_clusters())["clusters"]
        assert cluster["clusterArn"] == "arn:aws:ecs:eu-west-1:123456789012:cluster/default"
        told = await refusal(
            other.ecs.register_task_definition(family="f", executionRoleArn=ROLE, containerDefinitions=[])
        )
        assert told[0] == "ClientException"
