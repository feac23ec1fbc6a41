from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from support.simulator.faults import What, fault
from support.simulator.helpers import DEFINITION, NETWORK, code_of, error_of, run_task
from support.simulator.tasks import (
    START_FAILURES,
    ContainerScript,
    ScriptRule,
    TaskScript,
    fails_to_start,
    out_of_memory,
    spot_interruption,
)
from support.waiting import until

if TYPE_CHECKING:
    from support.clients import Clients
    from support.simulator.aws import AwsSimulator

pytestmark = pytest.mark.anyio
LONG = 10_000.0  # simulated seconds beyond anything a script plans


@pytest.fixture
async def flows(aws: AwsSimulator, ecs: Any) -> Any:
    """The ECS client, with the definition registered, the clock standing and its log group there."""
    aws.clock.set_speed(0)
    aws.logs.create_group("flows")
    await ecs.register_task_definition(**DEFINITION)
    return ecs


async def described(ecs: Any, arn: str, **more: Any) -> dict[str, Any]:
    answer = await ecs.describe_tasks(tasks=[arn], **more)
    assert answer["failures"] == []
    task: dict[str, Any] = answer["tasks"][0]
    return task


async def launched(ecs: Any, **changes: Any) -> str:
    answer = await ecs.run_task(**run_task(**changes))
    return str(answer["tasks"][0]["taskArn"])


async def test_a_task_passes_every_status_at_its_time(aws: AwsSimulator, flows: Any) -> None:
    aws.ecs.scripts.default = TaskScript(
        provisioning=10, pending=10, activating=10, running=100, stopping=30, exit_code=3
    )
    arn = await launched(flows)
    seen = []
    for seconds in (1, 10, 10, 10, 100, 10, 10, 10):
        aws.advance(seconds)
        seen.append((await described(flows, arn))["lastStatus"])
    expected = "PROVISIONING PENDING ACTIVATING RUNNING DEACTIVATING STOPPING DEPROVISIONING STOPPED"
    assert seen == expected.split()
    task = await described(flows, arn)
    assert (task["stopCode"], task["desiredStatus"]) == ("EssentialContainerExited", "STOPPED")
    assert task["containers"][0]["exitCode"] == 3
    assert task["version"] == 8
    assert (task["stoppedAt"] - task["startedAt"]).total_seconds() == pytest.approx(130, abs=0.01)


async def test_a_late_jump_keeps_the_times_that_were_planned(aws: AwsSimulator, flows: Any) -> None:
    aws.ecs.scripts.default = TaskScript(provisioning=10, pending=0, activating=0, running=100)
    arn = await launched(flows)
    aws.advance(500)
    task = await described(flows, arn)
    assert (task["stoppedAt"] - task["createdAt"]).total_seconds() == pytest.approx(110, abs=0.01)


async def test_the_clock_can_run_fast(aws: AwsSimulator, flows: Any) -> None:
    aws.clock.set_speed(600)
    aws.ecs.scripts.default = TaskScript(provisioning=30, pending=30, activating=30, running=60)
    arn = await launched(flows)

    async def stopped() -> bool:
        return bool((await described(flows, arn))["lastStatus"] == "STOPPED")

    await until(stopped, 5)
    task = await described(flows, arn)
    assert (task["stoppedAt"] - task["createdAt"]).total_seconds() == pytest.approx(150, abs=0.01)


async def test_a_stopped_task_is_forgotten_after_an_hour(aws: AwsSimulator, flows: Any) -> None:
    arn = await launched(flows)
    aws.advance(3600)
    assert (await described(flows, arn))["lastStatus"] == "STOPPED"
    aws.advance(10)
    answer = await flows.describe_tasks(tasks=[arn])
    assert answer["failures"] == [{"arn": arn, "reason": "MISSING"}]
    assert (await flows.list_tasks(startedBy="", desiredStatus="STOPPED"))["taskArns"] == []


async def test_a_new_task_may_be_missing_for_a_while(aws: AwsSimulator, flows: Any) -> None:
    aws.script(ScriptRule(script=TaskScript(missing=5, running=None)))
    arn = await launched(flows, startedBy="me")
    assert (await flows.describe_tasks(tasks=[arn]))["failures"] == [{"arn": arn, "reason": "MISSING"}]
    assert (await flows.list_tasks(startedBy="me"))["taskArns"] == []
    aws.advance(5)
    assert (await described(flows, arn))["lastStatus"] == "RUNNING"
    assert (await flows.list_tasks(startedBy="me"))["taskArns"] == [arn]


async def test_provisioning_may_never_end(aws: AwsSimulator, flows: Any) -> None:
    aws.ecs.scripts.default = TaskScript(provisioning=None)
    arn = await launched(flows)
    aws.advance(LONG)
    assert (await described(flows, arn))["lastStatus"] == "PROVISIONING"


@pytest.mark.parametrize("name", sorted(START_FAILURES))
async def test_start_failures(aws: AwsSimulator, flows: Any, name: str) -> None:
    aws.ecs.scripts.default = fails_to_start(name)
    arn = await launched(flows)
    aws.advance(LONG / 10)
    task = await described(flows, arn)
    assert task["stopCode"] == ("SpotInterruption" if name == "spot_before_start" else "TaskFailedToStart")
    assert task["stoppedReason"] == START_FAILURES[name][1]
    assert "startedAt" not in task
    assert "exitCode" not in task["containers"][0]


async def test_spot_memory_and_lost_exit_codes(aws: AwsSimulator, flows: Any) -> None:
    aws.script(
        ScriptRule(script=spot_interruption(5), containing="FARGATE_SPOT"),
        ScriptRule(script=out_of_memory(5), containing="eats-memory"),
        ScriptRule(script=TaskScript(exit_code=None), containing="is-lost"),
    )
    spot = run_task(capacityProviderStrategy=[{"capacityProvider": "FARGATE_SPOT", "weight": 1}])
    del spot["launchType"]
    spot_arn = (await flows.run_task(**spot))["tasks"][0]["taskArn"]
    memory_arn = await launched(flows, startedBy="eats-memory")
    lost_arn = await launched(flows, startedBy="is-lost")
    aws.advance(60)
    task = await described(flows, spot_arn)
    assert (task["stopCode"], task["launchType"]) == ("SpotInterruption", "FARGATE")
    assert task["capacityProviderName"] == "FARGATE_SPOT"
    container = (await described(flows, memory_arn))["containers"][0]
    assert container["exitCode"] == 137
    assert container["reason"].startswith("OutOfMemoryError")
    assert "exitCode" not in (await described(flows, lost_arn))["containers"][0]


async def test_containers_have_facts_of_their_own(aws: AwsSimulator, flows: Any) -> None:
    await flows.register_task_definition(
        **DEFINITION
        | {"containerDefinitions": [*DEFINITION["containerDefinitions"], {"name": "proxy", "image": "envoy:1"}]}
    )
    aws.ecs.scripts.default = TaskScript(
        containers={"proxy": ContainerScript(exit_code=9, reason="gone", health="UNHEALTHY")},
        injected_containers=("aws-guardduty-agent-x1",),
    )
    arn = await launched(flows)
    aws.advance(60)
    task = await described(flows, arn)
    facts = {c["name"]: (c.get("exitCode"), c.get("reason"), c["healthStatus"]) for c in task["containers"]}
    assert facts == {
        "prefect": (0, None, "UNKNOWN"),
        "proxy": (9, "gone", "UNHEALTHY"),
        "aws-guardduty-agent-x1": (143, None, "UNKNOWN"),
    }


async def test_stop_task_ends_it_and_takes_its_tags(aws: AwsSimulator, flows: Any) -> None:
    aws.ecs.scripts.default = TaskScript(running=None, stopping=30)
    arn = await launched(flows, tags=[{"key": "a", "value": "b"}])
    aws.advance(60)
    assert (await described(flows, arn, include=["TAGS"]))["tags"] == [{"key": "a", "value": "b"}]
    assert "tags" not in await described(flows, arn)
    stopped = await flows.stop_task(task=arn, reason="enough")
    assert stopped["task"]["desiredStatus"] == "STOPPED"
    assert (await flows.list_tasks(desiredStatus="STOPPED"))["taskArns"] == [arn]
    aws.advance(30)
    task = await described(flows, arn, include=["TAGS"])
    assert (task["lastStatus"], task["stopCode"], task["stoppedReason"]) == ("STOPPED", "UserInitiated", "enough")
    assert task["tags"] == []
    assert task["containers"][0]["exitCode"] == 143
    await flows.stop_task(task=arn, reason="again")
    assert (await described(flows, arn))["stoppedReason"] == "enough"
    assert await code_of(flows.stop_task(task="0" * 32)) == "InvalidParameterException"


async def test_a_client_token_launches_once(aws: AwsSimulator, flows: Any) -> None:
    first = await launched(flows, clientToken="t-1")
    assert await launched(flows, clientToken="t-1") == first
    assert await launched(flows, clientToken="t-2") != first
    conflict = await error_of(flows.run_task(**run_task(clientToken="t-1", startedBy="other")))
    assert conflict["Error"]["Code"] == "ConflictException"
    assert conflict["resourceIds"] == [first]
    assert (len(aws.launched), aws.ecs.replays) == (2, 1)


async def test_a_token_tells_little_of_stopped_tasks_and_is_forgotten_with_them(aws: AwsSimulator, flows: Any) -> None:
    first = await launched(flows, clientToken="t-1")
    aws.advance(60)
    again = (await flows.run_task(**run_task(clientToken="t-1")))["tasks"][0]
    assert again == {"taskArn": first, "lastStatus": "STOPPED", "desiredStatus": "STOPPED"}
    aws.advance(3600)
    assert await launched(flows, clientToken="t-1") != first


async def test_a_recorded_failure_is_replayed(aws: AwsSimulator, flows: Any) -> None:
    aws.fault(fault(What.FAILURES, action="RunTask", nth=(1,), reason="RESOURCE:CPU"))
    for _ in range(2):
        answer = await flows.run_task(**run_task(clientToken="t-1"))
        assert (answer["tasks"], answer["failures"]) == ([], [{"reason": "RESOURCE:CPU"}])
    assert (await flows.run_task(**run_task(clientToken="t-2")))["failures"] == []


async def test_only_one_registration_of_a_family_at_a_time(aws: AwsSimulator, ecs: Any) -> None:
    aws.ecs.definitions.registration_seconds = 0.2
    other = DEFINITION | {"family": "others"}
    results = await asyncio.gather(
        *(ecs.register_task_definition(**d) for d in (DEFINITION, DEFINITION, other)), return_exceptions=True
    )
    errors = [result for result in results if isinstance(result, Exception)]
    assert len(errors) == 1
    assert "Too many concurrent attempts to create a new revision" in str(errors[0])
    assert len(aws.ecs.definitions.all()) == 2


async def test_definitions_have_revisions_and_states(aws: AwsSimulator, flows: Any) -> None:
    second = await flows.register_task_definition(**DEFINITION, tags=[{"key": "hash", "value": "x"}])
    arn = second["taskDefinition"]["taskDefinitionArn"]
    assert second["taskDefinition"]["revision"] == 2
    assert "tags" not in await flows.describe_task_definition(taskDefinition="flows")
    read = await flows.describe_task_definition(taskDefinition="flows", include=["TAGS"])
    assert (read["tags"], read["taskDefinition"]["revision"]) == ([{"key": "hash", "value": "x"}], 2)
    newest = await flows.list_task_definitions(familyPrefix="flows", sort="DESC", maxResults=1)
    assert newest["taskDefinitionArns"] == [arn]
    assert newest["nextToken"]
    aws.ecs.definitions.deregistration_seconds = 600
    await flows.deregister_task_definition(taskDefinition=arn)
    await launched(flows, taskDefinition=arn)  # still possible for ten minutes
    aws.advance(600)
    refused = await error_of(flows.run_task(**run_task(taskDefinition=arn)))
    assert refused["Error"] == {"Code": "ClientException", "Message": "TaskDefinition is inactive"}
    assert (await flows.describe_task_definition(taskDefinition="flows"))["taskDefinition"]["revision"] == 1
    deleted = await flows.delete_task_definitions(taskDefinitions=[arn, "flows:1"])
    assert [d["status"] for d in deleted["taskDefinitions"]] == ["DELETE_IN_PROGRESS"]
    assert len(deleted["failures"]) == 1
    third = await flows.register_task_definition(**DEFINITION)
    assert third["taskDefinition"]["revision"] == 3
    assert (await flows.list_task_definition_families())["families"] == ["flows"]
    assert await code_of(flows.describe_task_definition(taskDefinition="nobody")) == "ClientException"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"memory": "300"}, "No Fargate configuration"),
        ({"networkMode": "bridge"}, "awsvpc"),
        ({"executionRoleArn": ""}, "execution role"),
        ({"family": "a b"}, "family"),
        ({"containerDefinitions": []}, "containers"),
        ({"containerDefinitions": [{"name": "a", "image": "i", "essential": False}]}, "essential"),
        ({"containerDefinitions": [{"name": "a", "image": "i"}] * 2}, "unique"),
        ({"containerDefinitions": [{"name": "a", "image": "i", "command": ["x" * 66_000]}]}, "65536"),
    ],
)
async def test_refused_definitions(ecs: Any, changes: dict[str, Any], text: str) -> None:
    error = (await error_of(ecs.register_task_definition(**DEFINITION | changes)))["Error"]
    assert error["Code"] == "ClientException"
    assert text in error["Message"]


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"cluster": "nowhere"}, "ClusterNotFoundException", "Cluster not found"),
        ({"taskDefinition": "nobody"}, "ClientException", "TaskDefinition not found"),
        ({"clientToken": "x" * 65}, "InvalidParameterException", "clientToken"),
        ({"startedBy": "a b"}, "InvalidParameterException", "startedBy"),
        ({"startedBy": "a" * 129}, "InvalidParameterException", "startedBy"),
        ({"count": 11}, "InvalidParameterException", "Count"),
        ({"tags": [{"key": "aws:x", "value": ""}]}, "InvalidParameterException", "aws:"),
        ({"tags": [{"key": "a", "value": "v" * 257}]}, "InvalidParameterException", "256"),
        ({"tags": [{"key": f"k{n}", "value": ""} for n in range(51)]}, "InvalidParameterException", "50"),
        (
            {"capacityProviderStrategy": [{"capacityProvider": "FARGATE", "weight": 1}]},
            "InvalidParameterException",
            "both a launch type and capacity provider strategy",
        ),
        ({"networkConfiguration": {}}, "InvalidParameterException", "Network Configuration must be provided"),
        (
            {"overrides": {"containerOverrides": [{"name": "nobody"}]}},
            "InvalidParameterException",
            "Override for container named nobody",
        ),
        (
            {"overrides": {"containerOverrides": [{"name": "prefect", "command": ["x" * 8200]}]}},
            "InvalidParameterException",
            "at most 8192",
        ),
        ({"overrides": {"cpu": "512", "memory": "512"}}, "InvalidParameterException", "No Fargate configuration"),
        ({"enableExecuteCommand": True}, "InvalidParameterException", "taskRoleArn"),
        ({"launchType": "MOON"}, "InvalidParameterException", "launchType"),
    ],
)
async def test_refused_launches(flows: Any, changes: dict[str, Any], code: str, text: str) -> None:
    error = (await error_of(flows.run_task(**run_task(**changes))))["Error"]
    assert error["Code"] == code
    assert text in error["Message"]


async def test_many_tasks_are_described_and_listed_in_pages(aws: AwsSimulator, flows: Any) -> None:
    aws.ecs.scripts.default = TaskScript(running=None)
    arns = []
    for _ in range(12):
        answer = await flows.run_task(**run_task(count=10, startedBy="many"))
        arns += [task["taskArn"] for task in answer["tasks"]]
    first = await flows.list_tasks(startedBy="many")
    second = await flows.list_tasks(startedBy="many", nextToken=first["nextToken"])
    assert first["taskArns"] + second["taskArns"] == arns
    assert "nextToken" not in second
    assert (await flows.list_tasks(desiredStatus="PENDING"))["taskArns"] == []
    assert len((await flows.describe_tasks(tasks=arns[:100]))["tasks"]) == 100
    assert await code_of(flows.describe_tasks(tasks=arns[:101])) == "InvalidParameterException"
    assert await code_of(flows.describe_tasks(tasks=[])) == "InvalidParameterException"
    assert await code_of(flows.list_tasks(startedBy="many", family="flows")) == "InvalidParameterException"


async def test_clusters_keep_their_tasks_apart(aws: AwsSimulator, flows: Any) -> None:
    aws.ecs.create_cluster("other")
    arn = await launched(flows, cluster="other")
    assert arn.split("/")[1] == "other"
    assert (await flows.describe_tasks(tasks=[arn]))["failures"][0]["reason"] == "MISSING"
    assert (await described(flows, arn, cluster="arn:aws:ecs:us-east-1:123456789012:cluster/other"))["taskArn"] == arn
    clusters = await flows.describe_clusters(clusters=["other", "nowhere"])
    assert [c["clusterName"] for c in clusters["clusters"]] == ["other"]
    assert [f["reason"] for f in clusters["failures"]] == ["MISSING"]
    assert len((await flows.list_clusters())["clusterArns"]) == 2
    await flows.create_cluster(clusterName="third")
    assert "third" in aws.ecs.clusters


async def test_regions_and_accounts_know_nothing_of_each_other(aws: AwsSimulator, flows: Any, clients: Clients) -> None:
    arn = await launched(flows)
    aws.accounts["AKIAOTHER"] = "999999999999"
    china = await clients.make("ecs", region="cn-north-1")
    stranger = await clients.make("ecs", key="AKIAOTHER")
    for elsewhere in (china, stranger):
        assert (await elsewhere.describe_tasks(tasks=[arn]))["failures"][0]["reason"] == "MISSING"
    registered = await china.register_task_definition(**DEFINITION)
    assert registered["taskDefinition"]["taskDefinitionArn"].startswith("arn:aws-cn:ecs:cn-north-1:123456789012:")


async def test_tags_of_tasks_and_definitions(flows: Any) -> None:
    arn = await launched(flows, propagateTags="TASK_DEFINITION", enableECSManagedTags=True)
    await flows.tag_resource(resourceArn=arn, tags=[{"key": "a", "value": "1"}])
    await flows.tag_resource(resourceArn=arn, tags=[{"key": "a", "value": "2"}])
    tags = (await flows.list_tags_for_resource(resourceArn=arn))["tags"]
    assert tags == [{"key": "aws:ecs:clusterName", "value": "default"}, {"key": "a", "value": "2"}]
    await flows.untag_resource(resourceArn=arn, tagKeys=["a"])
    assert len((await flows.list_tags_for_resource(resourceArn=arn))["tags"]) == 1


async def test_a_missing_log_group_keeps_a_task_from_starting(aws: AwsSimulator, flows: Any) -> None:
    aws.logs.groups.clear()
    arn = await launched(flows)
    aws.advance(60)
    task = await described(flows, arn)
    assert task["stopCode"] == "TaskFailedToStart"
    assert "log group" in task["stoppedReason"]


async def test_fargate_network_rules(flows: Any) -> None:
    many = {"awsvpcConfiguration": NETWORK["awsvpcConfiguration"] | {"subnets": [f"subnet-{n}" for n in range(17)]}}
    assert await code_of(flows.run_task(**run_task(networkConfiguration=many))) == "InvalidParameterException"
