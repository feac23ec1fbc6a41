"""The template of a deployed worker: clean for cfn-lint, and what it makes in the embedded AWS."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ecs_worker.iam import rights
from ecs_worker.iam.rights import ExecutionNeeds, Scope, WorkerNeeds
from ecs_worker.settings import WorkerSettings
from support import stacks
from support.embedded import fresh
from support.paths import TOP

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from support.embedded import Aws

FILE = TOP / "src" / "ecs_worker" / "deploy" / "template.yaml"
ACCOUNT = "123456789012"
API_URL = "http://127.0.0.1:9/api"
KEY = f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret:prefect-api-key-AbCdEf"
AUTH = f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret:prefect-auth-string-AbCdEf"
OWN_KEY = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
CLUSTER = f"arn:aws:ecs:us-east-1:{ACCOUNT}:cluster/default"
TOPIC = f"arn:aws:sns:us-east-1:{ACCOUNT}:alarms"

# The parameters that decide a condition, each with a value for either outcome.
CHOICES: Mapping[str, tuple[str, str]] = {
    "WorkQueues": ("", "one,two"),
    "ExtraOptions": ("", "--limit\n5\n--env\nGREETING=hello world"),
    "PrefectApiKeySecretArn": ("", KEY),
    "PrefectAuthStringSecretArn": ("", AUTH),
    "SecretsKeyArn": ("", OWN_KEY),
    "ClusterArn": ("", CLUSTER),
    "SecurityGroup": ("", "default"),
    "Capacity": ("fargate", "spot"),
    "Architecture": ("x86_64", "arm64"),
    "EventsQueue": ("false", "true"),
    "AlarmsTopicArn": ("", TOPIC),
    "DesiredCount": ("0", "1"),
}


def pairwise(choices: Mapping[str, tuple[str, str]]) -> list[dict[str, str]]:
    """Few combinations in which every two values of two parameters meet: greedily, from all of them."""
    names = list(choices)
    missing = {
        ((a, x), (b, y)) for a, b in combinations(names, 2) for x, y in product(choices[a], choices[b], repeat=1)
    }
    everything = [dict(zip(names, values, strict=True)) for values in product(*choices.values())]

    def met(chosen: dict[str, str]) -> set[tuple[tuple[str, str], tuple[str, str]]]:
        return {((a, chosen[a]), (b, chosen[b])) for a, b in combinations(names, 2)}

    found: list[dict[str, str]] = []
    while missing:
        best = max(everything, key=lambda chosen: len(met(chosen) & missing))
        found.append(best)
        missing -= met(best)
    return found


COMBINATIONS = pairwise(CHOICES)


def lint(template: Path) -> str:
    """What cfn-lint finds, remarks included; it follows every combination of the conditions, in three partitions."""
    regions = ["--regions", "us-east-1", "us-gov-west-1", "cn-north-1"]
    command = [str(Path(sys.executable).parent / "cfn-lint"), "--include-checks", "I", *regions, "--", str(template)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120).stdout


def test_the_template_is_what_cloudformation_knows() -> None:
    assert lint(FILE) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("MinimumHealthyPercent", "MinimumHealthPercent", "MinimumHealthPercent"),
        ("Condition: WatchesWorker", "Condition: WatchWorker", "WatchWorker"),
        ("    Condition: Listens\n    Value: !Ref Queue", "    Value: !Ref Queue", "Queue"),
    ],
    ids=["a name", "a condition", "an output without its condition"],
)
def test_a_slip_in_one_combination_would_be_noticed(tmp_path: Path, right: str, wrong: str, told: str) -> None:
    text = stacks.TEMPLATE
    assert right in text
    broken = tmp_path / "broken.yaml"
    broken.write_text(text.replace(right, wrong), encoding="utf-8")
    assert told in lint(broken)


def test_nothing_is_tied_to_a_partition_or_to_fixed_names() -> None:
    statements = re.sub(r"^\s*(#|AllowedPattern:).*", "", stacks.TEMPLATE, flags=re.MULTILINE)
    assert "arn:aws" not in statements
    for name in ("RoleName", "PolicyArn", "ManagedPolicyArns", "ServiceName:", "QueueName", "AlarmName", "GroupName:"):
        assert not re.search(rf"^\s+{name}\b(?!.*!Ref LogGroup)", statements, flags=re.MULTILINE), name
    assert "ApplicationAutoScaling" not in statements


def test_the_worker_has_time_to_stop() -> None:
    (seconds,) = re.findall(r"StopTimeout: (\d+)", stacks.TEMPLATE)
    assert WorkerSettings.model_fields["stop_seconds"].default < int(seconds) <= 120


async def deployed(aws: Aws, chosen: Mapping[str, str]) -> tuple[str, dict[str, str], dict[str, Any]]:
    """A stack's name, its outputs, and its worker's task definition."""
    name = fresh("stack")
    values = await stacks.least_parameters(aws, "my-pool", API_URL) | dict(chosen)
    await stacks.create(aws, name, values)
    (stack,) = (await aws.cloudformation.describe_stacks(StackName=name))["Stacks"]
    assert stack["StackStatus"] in {"CREATE_COMPLETE", "CREATE_IN_PROGRESS"}, await stacks.story(aws, name)
    made = stacks.outputs(stack)
    definition = await aws.ecs.describe_task_definition(taskDefinition=made["TaskDefinitionArn"])
    return name, made, definition["taskDefinition"]


async def policies(aws: Aws, role_arn: str) -> dict[str, dict[str, Any]]:
    """The statements of all policies of a role, by Sid."""
    role = role_arn.rpartition("/")[2]
    found: list[dict[str, Any]] = []
    for name in (await aws.iam.list_role_policies(RoleName=role))["PolicyNames"]:
        found += (await aws.iam.get_role_policy(RoleName=role, PolicyName=name))["PolicyDocument"]["Statement"]
    return by_sid(found)


def by_sid(statements: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Statements as they are compared: IAM doesn't tell one value from a list of it, nor one order from another."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return sorted(value) if isinstance(value, list) else [value]

    return {statement["Sid"]: plain(statement) for statement in statements}


HERE = Scope("aws", "us-east-1", ACCOUNT)
RUN_LOGS = HERE.arn("logs", "log-group:prefect")


def wanted_of_worker(made: Mapping[str, str], families: str = "prefect_*") -> dict[str, dict[str, Any]]:
    """What `ecs_worker.iam` gives a worker that runs those families in the stack's cluster."""
    runs = frozenset({HERE.definition(families)})
    queue = made.get("EventsQueueUrl", "").rpartition("/")[2]
    needs = WorkerNeeds(
        clusters=frozenset({made["ClusterArn"]}),
        runs=runs,
        registers=runs,
        task_roles=frozenset({made["ExecutionRoleArn"], made["RunTaskRoleArn"]}),
        logs=frozenset({RUN_LOGS}),
        queues=frozenset({HERE.arn("sqs", queue)} if queue else ()),
        finds_network=True,
    )
    return by_sid(statement.to_json() for statement in rights.worker(needs))


def wanted_of_execution(chosen: Mapping[str, str], made: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The same of a role with which ECS starts the worker and its runs, whose images are not known here."""
    secrets = {chosen.get(name) or "" for name in ("PrefectApiKeySecretArn", "PrefectAuthStringSecretArn")} - {""}
    needs = ExecutionNeeds(
        repositories=frozenset({Scope("aws", "*", ACCOUNT).arn("ecr", "repository/*")}),
        logs=frozenset({RUN_LOGS, HERE.arn("logs", f"log-group:{made['LogGroupName']}")}),
        new_logs=frozenset({RUN_LOGS}),
        secrets=frozenset(each for secret in secrets for each in HERE.secrets(secret)),
        keys=frozenset({chosen["SecretsKeyArn"]} if secrets and chosen.get("SecretsKeyArn") else ()),
    )
    return by_sid(statement.to_json() for statement in rights.execution(needs))


@pytest.mark.anyio
@pytest.mark.parametrize("number", range(len(COMBINATIONS)))
async def test_every_two_choices_together_make_what_they_say(aws: Aws, number: int) -> None:
    chosen = dict(COMBINATIONS[number])
    if chosen["SecurityGroup"]:
        groups = (await aws.ec2.describe_security_groups(GroupNames=["default"]))["SecurityGroups"]
        chosen["SecurityGroup"] = groups[0]["GroupId"]
    name, made, definition = await deployed(aws, chosen)
    (container,) = definition["containerDefinitions"]
    environment = {each["name"]: each["value"] for each in container["environment"]}
    secrets = {each["name"]: each["valueFrom"] for each in container.get("secrets") or ()}
    wanted = {"PREFECT_API_KEY": chosen["PrefectApiKeySecretArn"]}
    wanted |= {"PREFECT_API_AUTH_STRING": chosen["PrefectAuthStringSecretArn"]}
    assert secrets == {variable: arn for variable, arn in wanted.items() if arn}
    assert environment.get("ECS_WORKER_WORK_QUEUES", "") == chosen["WorkQueues"]
    assert environment.get("ECS_WORKER_EVENTS_QUEUE") == made.get("EventsQueueUrl")
    assert ("EventsQueueUrl" in made) == (chosen["EventsQueue"] == "true")
    assert environment["ECS_WORKER_CLUSTER"] == made["ClusterArn"]
    assert not chosen["ClusterArn"] or made["ClusterArn"] == chosen["ClusterArn"]
    fixed = ["start", "--pool", "my-pool", "--with-healthcheck", "--log-format", "json"]
    assert container["command"] == fixed + [word for word in chosen["ExtraOptions"].split("\n") if word]
    assert definition["runtimePlatform"]["cpuArchitecture"] == chosen["Architecture"].upper()

    assert await policies(aws, made["ExecutionRoleArn"]) == wanted_of_execution(chosen, made)
    assert await policies(aws, made["WorkerRoleArn"]) == wanted_of_worker(made)

    (service,) = (await aws.ecs.describe_services(cluster=made["ClusterArn"], services=[made["ServiceArn"]]))[
        "services"
    ]
    assert service["desiredCount"] == int(chosen["DesiredCount"])
    spot = chosen["Capacity"] == "spot"
    assert service.get("capacityProviderStrategy", []) == (
        [{"capacityProvider": "FARGATE_SPOT", "weight": 1}] if spot else []
    )
    assert service.get("launchType") == (None if spot else "FARGATE")
    network = service["networkConfiguration"]["awsvpcConfiguration"]
    assert network["securityGroups"] == [made["SecurityGroupId"]]
    assert not chosen["SecurityGroup"] or made["SecurityGroupId"] == chosen["SecurityGroup"]

    alarms = (await aws.cloudwatch.describe_alarms(AlarmNamePrefix=name))["MetricAlarms"]
    expected = {"RunsLate", "CrashRate"} if chosen["AlarmsTopicArn"] else set()
    expected |= {"WorkerGone"} if chosen["AlarmsTopicArn"] and chosen["DesiredCount"] == "1" else set()
    assert {alarm["AlarmName"].split("-")[2] for alarm in alarms} == expected
    assert all(alarm["AlarmActions"] == [TOPIC] for alarm in alarms)

    await aws.cloudformation.delete_stack(StackName=name)
    assert not (await aws.cloudwatch.describe_alarms(AlarmNamePrefix=name))["MetricAlarms"]
    assert not (await aws.sqs.list_queues(QueueNamePrefix=name)).get("QueueUrls")
    assert not [role for role in (await aws.iam.list_roles())["Roles"] if role["RoleName"].startswith(name)]
    await aws.logs.delete_log_group(logGroupName=made["LogGroupName"])


@pytest.mark.anyio
async def test_a_stack_waits_for_its_worker_and_is_not_changed_meanwhile(aws: Aws) -> None:
    name, made, _ = await deployed(aws, {"ClusterArn": CLUSTER})
    (stack,) = (await aws.cloudformation.describe_stacks(StackName=name))["Stacks"]
    assert stack["StackStatus"] == "CREATE_IN_PROGRESS"
    values = await stacks.least_parameters(aws, "my-pool", API_URL) | {"ClusterArn": CLUSTER, "DesiredCount": "2"}
    with pytest.raises(aws.cloudformation.exceptions.ClientError, match="is in CREATE_IN_PROGRESS state and can not"):
        await stacks.update(aws, name, values)
    told = await stacks.story(aws, name)
    assert "Service CREATE_IN_PROGRESS" in told
    assert "Service CREATE_COMPLETE" not in told
    await aws.cloudformation.delete_stack(StackName=name)
    await aws.logs.delete_log_group(logGroupName=made["LogGroupName"])


@pytest.mark.anyio
async def test_two_stacks_of_one_pool_fit_into_one_account(aws: Aws) -> None:
    everything = {"DesiredCount": "0", "EventsQueue": "true", "AlarmsTopicArn": TOPIC, "ClusterArn": CLUSTER}
    made = [await deployed(aws, everything) for _ in range(2)]
    (_, one, _), (_, other, _) = made
    for output in ("ServiceArn", "TaskDefinitionArn", "LogGroupName", "WorkerRoleArn", "EventsQueueUrl"):
        assert one[output] != other[output]
    for name, outputs, _ in made:
        await aws.cloudformation.delete_stack(StackName=name)
        await aws.logs.delete_log_group(logGroupName=outputs["LogGroupName"])


@pytest.mark.anyio
async def test_the_network_lets_nothing_in_and_the_roles_may_do_no_more_than_they_need(aws: Aws) -> None:
    chosen = {
        "DesiredCount": "0",
        "ClusterArn": CLUSTER,
        "RunFamilies": "prefect_my-pool_*",
        "AssignPublicIp": "ENABLED",
    }
    name, made, definition = await deployed(aws, chosen)
    (group,) = (await aws.ec2.describe_security_groups(GroupIds=[made["SecurityGroupId"]]))["SecurityGroups"]
    assert group["IpPermissions"] == []
    (service,) = (await aws.ecs.describe_services(cluster=CLUSTER, services=[made["ServiceArn"]]))["services"]
    assert service["networkConfiguration"]["awsvpcConfiguration"]["assignPublicIp"] == "ENABLED"
    assert service["deploymentConfiguration"] == {
        "minimumHealthyPercent": 100,
        "maximumPercent": 200,
        "deploymentCircuitBreaker": {"enable": True, "rollback": True},
    }
    (container,) = definition["containerDefinitions"]
    assert container["healthCheck"]["command"] == ["CMD", "ecs-worker", "health"]
    assert "portMappings" not in container or container["portMappings"] == []
    groups = (await aws.logs.describe_log_groups(logGroupNamePrefix=made["LogGroupName"]))["logGroups"]
    assert groups[0]["retentionInDays"] == 30

    assert await policies(aws, made["WorkerRoleArn"]) == wanted_of_worker(made, "prefect_my-pool_*")
    assert await policies(aws, made["RunTaskRoleArn"]) == {}
    for output in ("WorkerRoleArn", "ExecutionRoleArn", "RunTaskRoleArn"):
        role = (await aws.iam.get_role(RoleName=made[output].rpartition("/")[2]))["Role"]
        assert role["AssumeRolePolicyDocument"] == rights.trust(rights.ECS_TASKS, ACCOUNT)
    await aws.cloudformation.delete_stack(StackName=name)
    await aws.logs.delete_log_group(logGroupName=made["LogGroupName"])


@pytest.mark.anyio
async def test_a_change_set_tells_what_one_parameter_changes_and_keeps_the_others(aws: Aws) -> None:
    chosen = {"DesiredCount": "0", "ClusterArn": CLUSTER, "WorkQueues": "one"}
    name, made, _ = await deployed(aws, chosen)
    await stacks.settles(aws, name, "CREATE_COMPLETE")
    (stack,) = (await aws.cloudformation.describe_stacks(StackName=name))["Stacks"]
    kept = [
        {"ParameterKey": each["ParameterKey"], "UsePreviousValue": True}
        for each in stack["Parameters"]
        if each["ParameterKey"] not in {"Image", "EventsQueue"}
    ]
    newer = [*kept, *stacks.parameters({"Image": "example.com/ecs-worker:2", "EventsQueue": "true"})]
    await aws.cloudformation.create_change_set(
        StackName=name, ChangeSetName="newer", ChangeSetType="UPDATE", UsePreviousTemplate=True, Parameters=newer
    )
    told = await aws.cloudformation.describe_change_set(StackName=name, ChangeSetName="newer")
    changes = {
        each["ResourceChange"]["LogicalResourceId"]: each["ResourceChange"]["Action"] for each in told["Changes"]
    }
    assert changes == {
        "Queue": "Add",
        "Rule": "Add",
        "QueuePolicy": "Add",
        "WorkerRole": "Modify",
        "TaskDefinition": "Modify",
        "Service": "Modify",
    }
    with pytest.raises(aws.cloudformation.exceptions.ClientError, match="PoolName"):
        await stacks.update(aws, name, {"EventsQueue": "true"})
    (stack,) = (await aws.cloudformation.describe_stacks(StackName=name))["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE", "what is refused changes nothing"
    await aws.cloudformation.execute_change_set(StackName=name, ChangeSetName="newer")
    changed = stacks.outputs(await stacks.settles(aws, name, "UPDATE_COMPLETE"))
    definition = await aws.ecs.describe_task_definition(taskDefinition=changed["TaskDefinitionArn"])
    (container,) = definition["taskDefinition"]["containerDefinitions"]
    environment = {each["name"]: each["value"] for each in container["environment"]}
    assert container["image"] == "example.com/ecs-worker:2"
    assert environment["ECS_WORKER_WORK_QUEUES"] == "one"
    assert environment["ECS_WORKER_EVENTS_QUEUE"] == changed["EventsQueueUrl"]
    assert "ReadTaskEvents" in await policies(aws, made["WorkerRoleArn"])
    (service,) = (await aws.ecs.describe_services(cluster=CLUSTER, services=[made["ServiceArn"]]))["services"]
    assert service["taskDefinition"] == changed["TaskDefinitionArn"]
    with pytest.raises(aws.cloudformation.exceptions.ClientError, match="No updates are to be performed"):
        await aws.cloudformation.update_stack(
            StackName=name,
            TemplateBody=stacks.TEMPLATE,
            Parameters=[{"ParameterKey": each["ParameterKey"], "UsePreviousValue": True} for each in newer],
        )
    await aws.cloudformation.delete_stack(StackName=name)
    await aws.logs.delete_log_group(logGroupName=made["LogGroupName"])


def test_the_filters_read_what_the_worker_writes() -> None:
    """Names in the patterns are facts of the JSON log (`ops.logging`)."""
    from ecs_worker.ops.logging import _FACTS  # noqa: PLC0415 - beside what it is compared with

    patterns = re.findall(r"FilterPattern: (?:\"|')(.*)(?:\"|')$", stacks.TEMPLATE, flags=re.MULTILINE)
    assert len(patterns) == 3
    assert {name for pattern in patterns for name in re.findall(r"\$\.(\w+)", pattern)} == set(_FACTS)


@pytest.mark.anyio
async def test_a_stack_whose_resources_are_refused_ends_with_the_reason_and_without_outputs(aws: Aws) -> None:
    name = fresh("stack")
    definition = {"Family": name, "ContainerDefinitions": [{"Name": "one", "Image": "an-image", "Memory": 0}]}
    template = {
        "Resources": {"Task": {"Type": "AWS::ECS::TaskDefinition", "Properties": definition}},
        "Outputs": {"TaskArn": {"Value": {"Ref": "Task"}}},
    }
    await aws.cloudformation.create_stack(StackName=name, TemplateBody=json.dumps(template))
    stack = await stacks.settles(aws, name, "ROLLBACK_COMPLETE")
    assert not stack.get("Outputs")
    assert "Task CREATE_FAILED" in await stacks.story(aws, name)
    await aws.cloudformation.delete_stack(StackName=name)
