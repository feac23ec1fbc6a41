"""`ecs-worker deploy import`: from a stack as prefect-aws's `deploy-service` makes it to one of ours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from support import stacks
from support.command_line import Ended, ecs_worker
from support.embedded import Aws, fresh
from support.paths import STORED_TEMPLATES
from support.servers.worker import environment

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers.prefect import Admin

pytestmark = pytest.mark.anyio
KEY = "pnu_of-the-old-worker"
# The parameters, outputs and resources of prefect-aws 0.7.12's service.json that say something of the worker. Its own
# secret stands in for the one that the stack makes: `SecretOfTheStack` is no parameter of theirs.
TEXTS = ("WorkPoolName", "PrefectApiUrl", "DockerImage", "ExistingClusterIdentifier", "ExistingVpcId")
EMPTY = ("ExistingLogGroupName", "SecretOfTheStack")
HIDDEN = ("PrefectApiKeySecretArn", "PrefectApiKey", "PrefectAuthStringSecretArn", "PrefectAuthString")
NUMBERS = {
    "DesiredCount": 1,
    "MinCapacity": 1,
    "MaxCapacity": 10,
    "TaskCpu": 1024,
    "TaskMemory": 2048,
    "LogRetentionDays": 30,
}


def ref(name: str) -> dict[str, str]:
    return {"Ref": name}


OURS = {"Fn::Not": [{"Fn::Equals": [ref("SecretOfTheStack"), ""]}]}
TEMPLATE: dict[str, Any] = {
    "Parameters": {
        **{name: {"Type": "String"} for name in TEXTS},
        **{name: {"Type": "String", "Default": ""} for name in EMPTY},
        **{name: {"Type": "String", "Default": "", "NoEcho": True} for name in HIDDEN},
        **{name: {"Type": "Number", "Default": value} for name, value in NUMBERS.items()},
        "WorkQueues": {"Type": "CommaDelimitedList", "Default": ""},
        "ExistingSubnetIds": {"Type": "CommaDelimitedList"},
    },
    "Conditions": {
        "CreateNewApiKeySecret": OURS,
        "UseAuthString": {"Fn::Not": [{"Fn::Equals": [ref("PrefectAuthStringSecretArn"), ""]}]},
    },
    "Resources": {
        "EcsTaskExecutionRoleC0B6A84D": {
            "Type": "AWS::IAM::Role",
            "Properties": {"AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": []}},
        },
        "WorkerTaskDefinition8AD2CCFF": {
            "Type": "AWS::ECS::TaskDefinition",
            "Properties": {
                "Family": {"Fn::Join": ["", [ref("WorkPoolName"), "-worker"]]},
                "Cpu": ref("TaskCpu"),
                "Memory": ref("TaskMemory"),
                "NetworkMode": "awsvpc",
                "RequiresCompatibilities": ["FARGATE"],
                "ExecutionRoleArn": {"Fn::GetAtt": ["EcsTaskExecutionRoleC0B6A84D", "Arn"]},
                "ContainerDefinitions": [
                    {
                        "Name": "prefect-worker",
                        "Image": ref("DockerImage"),
                        "Secrets": {
                            "Fn::If": [
                                "CreateNewApiKeySecret",
                                [{"Name": "PREFECT_API_KEY", "ValueFrom": ref("SecretOfTheStack")}],
                                {
                                    "Fn::If": [
                                        "UseAuthString",
                                        [
                                            {
                                                "Name": "PREFECT_AUTH_STRING",
                                                "ValueFrom": ref("PrefectAuthStringSecretArn"),
                                            }
                                        ],
                                        ref("AWS::NoValue"),
                                    ]
                                },
                            ]
                        },
                    }
                ],
            },
        },
    },
    "Outputs": {
        "ClusterArn": {
            "Value": {"Fn::Sub": "arn:aws:ecs:${AWS::Region}:${AWS::AccountId}:cluster/${ExistingClusterIdentifier}"}
        },
        "TaskExecutionRoleArn": {"Value": {"Fn::GetAtt": ["EcsTaskExecutionRoleC0B6A84D", "Arn"]}},
        "TaskDefinitionArn": {"Value": ref("WorkerTaskDefinition8AD2CCFF")},
        "PrefectApiKeySecretArnOutput": {"Value": ref("SecretOfTheStack"), "Condition": "CreateNewApiKeySecret"},
        "VpcId": {"Value": ref("ExistingVpcId")},
        "SubnetIds": {"Value": {"Fn::Join": [",", ref("ExistingSubnetIds")]}},
    },
}


async def their_stack(aws: Aws, pool: str, api_url: str, **more: str) -> dict[str, str]:
    """Its outputs."""
    least = await stacks.least_parameters(aws, pool, api_url)
    values = {
        "WorkPoolName": pool,
        "PrefectApiUrl": api_url,
        "DockerImage": "prefecthq/prefect-aws:latest",
        "ExistingClusterIdentifier": "default",
        "ExistingVpcId": least["VpcId"],
        "ExistingSubnetIds": least["Subnets"],
    }
    await aws.cloudformation.create_stack(
        StackName=f"{pool}-old",
        TemplateBody=json.dumps(TEMPLATE),
        Parameters=stacks.parameters(values | more),
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    return stacks.outputs(await stacks.settles(aws, f"{pool}-old", "CREATE_COMPLETE"))


async def take_over(home: Path, aws: Aws, admin: Admin, stack: str, *options: str) -> Ended:
    env = environment(home, aws_url=aws.url)
    return await ecs_worker(home, "deploy", "import", stack, *options, api_url=admin.server.url, env=env, whole=True)


def defaults(pool: dict[str, Any]) -> dict[str, Any]:
    return {name: each.get("default") for name, each in pool["base_job_template"]["variables"]["properties"].items()}


async def test_its_values_its_key_and_the_pools_defaults_become_the_new_stacks(
    aws: Aws, admin3: Admin, tmp_path: Path
) -> None:
    pool = fresh("imported")
    secret = (await aws.secretsmanager.create_secret(Name=f"{pool}-key", SecretString=KEY))["ARN"]
    url = admin3.server.url
    old = await their_stack(aws, pool, url, SecretOfTheStack=secret, WorkQueues="one,two", DesiredCount="0")
    # The pool as their command leaves it: with what goes with their stack.
    template = json.loads((STORED_TEMPLATES / "prefect_aws_0_7_template.json").read_text(encoding="utf-8"))
    for variable, value in (
        ("cluster", old["ClusterArn"]),
        ("vpc_id", old["VpcId"]),
        ("execution_role_arn", old["TaskExecutionRoleArn"]),
        ("prefect_api_key_secret_arn", secret),
    ):
        template["variables"]["properties"][variable]["default"] = value
    await admin3.post("/work_pools/", {"name": pool, "type": "ecs", "base_job_template": template})

    shown = await take_over(tmp_path, aws, admin3, f"{pool}-old", "--image", stacks.IMAGE, "--cpu", "512", "--dry-run")
    assert shown.code == 0, shown
    command = " ".join(shown.out.replace("\\\n", " ").split())
    assert command.startswith(f"The stack {pool}-old amounts to: ecs-worker deploy --pool {pool} ")
    for words in (
        f"--image {stacks.IMAGE}",
        f"--prefect-api-url {url}",
        f"--cluster default --vpc-id {old['VpcId']} --subnets {old['SubnetIds']}",
        "--work-queues one,two --desired-count 0 --cpu 512 --memory 2048",
        "--log-retention-days 30",
        '--prefect-api-key "$(aws secretsmanager get-secret-value --region us-east-1 --query SecretString ',
        f'--output text --secret-id {secret})"',
    ):
        assert words in command
    assert "doesn't scale" in shown.err
    assert KEY not in shown.out + shown.err
    with pytest.raises(aws.cloudformation.exceptions.ClientError, match="does not exist"):
        await aws.cloudformation.describe_stacks(StackName=f"ecs-worker-{pool}")

    ended = await take_over(tmp_path, aws, admin3, f"{pool}-old", "--image", stacks.IMAGE, "--cpu", "512", "--yes")
    assert ended.code == 0, ended
    assert KEY not in ended.out + ended.err
    assert f"delete-stack --region us-east-1 --stack-name {pool}-old" in ended.out
    (stack,) = (await aws.cloudformation.describe_stacks(StackName=f"ecs-worker-{pool}"))["Stacks"]
    values = {each["ParameterKey"]: each["ParameterValue"] for each in stack["Parameters"]}
    made = stacks.outputs(stack)
    assert (values["WorkQueues"], values["Cpu"], values["Memory"]) == ("one,two", "512", "2048")
    assert values["AssignPublicIp"] == "ENABLED", "its subnets' routes lead to an internet gateway"
    own = made["PrefectApiKeySecretArn"]
    assert own != secret, "that one goes with the old stack"
    assert (await aws.secretsmanager.get_secret_value(SecretId=own))["SecretString"] == KEY
    now = defaults(await admin3.get(f"/work_pools/{pool}"))
    assert now["execution_role_arn"] == made["ExecutionRoleArn"]
    assert now["prefect_api_key_secret_arn"] == own
    assert now["network_configuration"]["subnets"] == made["SubnetIds"].split(",")
    (still,) = (await aws.cloudformation.describe_stacks(StackName=f"{pool}-old"))["Stacks"]
    assert still["StackStatus"] == "CREATE_COMPLETE"
    for name in (stack["StackName"], f"{pool}-old"):
        await aws.cloudformation.delete_stack(StackName=name)
    await aws.logs.delete_log_group(logGroupName=made["LogGroupName"])


async def test_a_secret_of_ones_own_is_named_as_the_worker_is_given_it(aws: Aws, admin3: Admin, tmp_path: Path) -> None:
    """By the task definition: AWS doesn't show the parameter. What theirs has under a wrong name is the auth string."""
    pool = fresh("imported")
    secret = (await aws.secretsmanager.create_secret(Name=f"{pool}-auth", SecretString="user:word"))["ARN"]
    await their_stack(aws, pool, admin3.server.url, PrefectAuthStringSecretArn=secret)
    shown = await take_over(tmp_path, aws, admin3, f"{pool}-old", "--image", stacks.IMAGE, "--dry-run")
    assert shown.code == 0, shown
    assert f"--prefect-auth-string-secret-arn {secret}" in shown.out
    await aws.cloudformation.delete_stack(StackName=f"{pool}-old")


async def test_what_can_not_be_taken_over_is_told_in_a_sentence(aws: Aws, admin3: Admin, tmp_path: Path) -> None:
    pool = fresh("imported")
    await their_stack(aws, pool, admin3.server.url)
    nameless = await take_over(tmp_path, aws, admin3, f"{pool}-old")
    assert (nameless.code, "--image is missing, which a new stack needs" in nameless.err) == (2, True), nameless
    missing = await take_over(tmp_path, aws, admin3, "no-such-stack")
    assert (missing.code, missing.out) == (2, "")
    assert "There is no stack 'no-such-stack' in us-east-1" in missing.err
    other = fresh("other")
    await aws.cloudformation.create_stack(
        StackName=other, TemplateBody=json.dumps({"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}})
    )
    strange = await take_over(tmp_path, aws, admin3, other)
    assert (strange.code, strange.out) == (2, "")
    assert "is none that `prefect-aws ecs-worker deploy-service` has made" in strange.err
    for name in (other, f"{pool}-old"):
        await aws.cloudformation.delete_stack(StackName=name)
