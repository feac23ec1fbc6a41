"""The rights of whoever deploys: all that the commands ask of AWS, all that CloudFormation makes, and no more."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ecs_worker.deploy.template import document
from support import stacks
from support.command_line import Ended, ecs_worker
from support.embedded import Aws, fresh
from support.paths import TOP
from support.policies import ACCOUNT, Asked, Request, allowed, arn
from support.servers.worker import environment
from support.simulator.chaos_proxy import ChaosProxy

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers.prefect import Admin

pytestmark = pytest.mark.anyio
VIA = {"aws:CalledViaFirst": "cloudformation.amazonaws.com"}
KEY = {"PREFECT_API_KEY": "pnu_of-the-deployer"}
RESOURCES = document(stacks.TEMPLATE)["Resources"]


def role(name: str) -> str:
    return f"arn:aws:iam::{ACCOUNT}:role/{name}"


def made_by(stack: str, logical_id: str, kind: str) -> list[Request]:
    """What CloudFormation asks for when it makes, changes and deletes a resource: of each what is special to it."""
    name = f"{stack}-{logical_id}-A1B2C3D4E5F6"
    group = arn("logs", f"log-group:{stack}-LogGroup-A1B2C3D4E5F6")
    network = {
        "VPC": ("vpc/vpc-1", "CreateVpc", "ModifyVpcAttribute", "DeleteVpc"),
        "Subnet": ("subnet/subnet-1", "CreateSubnet", "DeleteSubnet"),
        "SubnetRouteTableAssociation": ("route-table/rtb-1", "AssociateRouteTable", "DisassociateRouteTable"),
        "InternetGateway": ("internet-gateway/igw-1", "CreateInternetGateway", "DeleteInternetGateway"),
        "VPCGatewayAttachment": ("internet-gateway/igw-1", "AttachInternetGateway", "DetachInternetGateway"),
        "RouteTable": ("route-table/rtb-1", "CreateRouteTable", "DeleteRouteTable"),
        "Route": ("route-table/rtb-1", "CreateRoute", "ReplaceRoute", "DeleteRoute"),
        "EIP": ("elastic-ip/eipalloc-1", "AllocateAddress", "ReleaseAddress"),
        "NatGateway": ("natgateway/nat-1", "CreateNatGateway", "DeleteNatGateway"),
        "VPCEndpoint": ("vpc-endpoint/vpce-1", "CreateVpcEndpoint", "ModifyVpcEndpoint", "DeleteVpcEndpoints"),
        "SecurityGroup": (
            "security-group/sg-1",
            "CreateSecurityGroup",
            "AuthorizeSecurityGroupEgress",
            "DeleteSecurityGroup",
        ),
    }
    service, _, what = kind.removeprefix("AWS::").partition("::")
    if service == "EC2":
        resource, *actions = network[what]
        return [Request(f"ec2:{action}", arn("ec2", resource), VIA) for action in (*actions, "CreateTags")]
    definition = arn("ecs", f"task-definition/{stack}:*")
    in_cluster = arn("ecs", f"service/default/{name}")
    of_kind: dict[str, list[Request]] = {
        "ECS::Cluster": [
            Request("ecs:CreateCluster", "*", VIA),
            *(
                Request(f"ecs:{action}", arn("ecs", f"cluster/{name}"), VIA)
                for action in ("DescribeClusters", "PutClusterCapacityProviders", "DeleteCluster", "TagResource")
            ),
        ],
        "ECS::TaskDefinition": [
            *(Request(f"ecs:{action}", definition, VIA) for action in ("RegisterTaskDefinition", "TagResource")),
            *(Request(f"ecs:{action}", "*", VIA) for action in ("DescribeTaskDefinition", "DeregisterTaskDefinition")),
            Request(
                "iam:PassRole",
                role(f"{stack}-WorkerRole-A1B2C3D4E5F6"),
                VIA | {"iam:PassedToService": "ecs-tasks.amazonaws.com"},
            ),
        ],
        "ECS::Service": [
            Request(f"ecs:{action}", in_cluster, VIA)
            for action in ("CreateService", "DescribeServices", "UpdateService", "DeleteService", "TagResource")
        ],
        "IAM::Role": [
            Request(f"iam:{action}", role(name), VIA)
            for action in ("CreateRole", "GetRole", "PutRolePolicy", "DeleteRolePolicy", "DeleteRole", "TagRole")
        ],
        "Logs::LogGroup": [
            Request(f"logs:{action}", group, VIA)
            for action in ("CreateLogGroup", "PutRetentionPolicy", "DescribeLogGroups", "DeleteLogGroup")
        ],
        "Logs::MetricFilter": [
            Request(f"logs:{action}", group, VIA)
            for action in ("PutMetricFilter", "DescribeMetricFilters", "DeleteMetricFilter")
        ],
        "CloudWatch::Alarm": [
            Request(f"cloudwatch:{action}", arn("cloudwatch", f"alarm:{name}"), VIA)
            for action in ("PutMetricAlarm", "DescribeAlarms", "DeleteAlarms")
        ],
        "SQS::Queue": [
            Request(f"sqs:{action}", arn("sqs", name), VIA)
            for action in ("CreateQueue", "GetQueueAttributes", "SetQueueAttributes", "DeleteQueue")
        ],
        "SQS::QueuePolicy": [Request("sqs:SetQueueAttributes", arn("sqs", name), VIA)],
        "Events::Rule": [
            Request(f"events:{action}", arn("events", f"rule/{name}"), VIA)
            for action in ("PutRule", "DescribeRule", "PutTargets", "RemoveTargets", "DeleteRule")
        ],
        "CloudFormation::WaitConditionHandle": [],
    }
    return of_kind[f"{service}::{what}"]


async def policy(home: Path, aws: Aws, *options: str) -> dict[str, Any]:
    ended = await ecs_worker(home, "iam", "policy", "deployer", *options, env=environment(home, aws_url=aws.url))
    assert ended.code == 0, ended
    printed: dict[str, Any] = json.loads(ended.out)
    return printed


def general() -> list[dict[str, Any]]:
    names = ("deployer-policy.json", "deployer-options-policy.json")
    return [json.loads((TOP / "iam" / name).read_text(encoding="utf-8")) for name in names]


async def test_the_policy_allows_what_the_commands_ask_and_no_more(aws: Aws, admin3: Admin, tmp_path: Path) -> None:
    pool, heard = fresh("rights"), Asked()
    stack = f"ecs-worker-{pool}"
    async with ChaosProxy(aws.url, api_path="", heard=heard.hear) as proxy:

        async def give(*words: str, **more: str) -> Ended:
            env = environment(tmp_path, aws_url=proxy.url, extra=KEY | more)
            ended = await ecs_worker(tmp_path, "deploy", *words, api_url=admin3.server.url, env=env, whole=True)
            assert ended.code in {0, 1}, ended
            return ended

        least = ("--pool", pool, "--image", stacks.IMAGE, "--desired-count", "0", "--cluster", "default")
        await give(*least, "--dry-run")
        await give(*least, "--yes")
        await give("--pool", pool, "--yes", PREFECT_API_KEY="pnu_another-one")
        await give("upgrade", stack, "--image", stacks.IMAGE.replace(":1", ":2"), "--yes")
        await give("diff", stack, "--memory", "1024")
        await give("rollback", stack, "--yes")
        await give("status", stack)
        await give("list")
        await give("events", "--pool", pool, "--cluster", "default", "--yes")
        await give("delete", stack, "--all", "--yes")
    await aws.cloudformation.delete_stack(StackName=f"ecs-worker-events-{pool}")
    own = await policy(tmp_path, aws, "--pool", pool)
    assert {request.action for request in heard.requests} >= {
        "cloudformation:ExecuteChangeSet",
        "cloudformation:DeleteStack",
        "secretsmanager:CreateSecret",
        "secretsmanager:PutSecretValue",
        "secretsmanager:DeleteSecret",
        "ec2:DescribeRouteTables",
        "ecs:DescribeServices",
        "ecs:UpdateService",
        "logs:DeleteLogGroup",
    }
    for request in heard.requests:
        assert allowed([own], request), f"{request} by the pool's policy"
        assert allowed(general(), request), f"{request} by the general ones"
    _assert_others_are_denied(heard.requests, stack, [[own], general()])


def _assert_others_are_denied(asked: list[Request], stack: str, policies: list[list[dict[str, Any]]]) -> None:
    def like(action: str, **changes: Any) -> Request:
        return replace(next(request for request in asked if request.action == action), **changes)

    made = [request for name, each in RESOURCES.items() for request in made_by(stack, name, each["Type"])]
    by_hand = [replace(request, context={}) for request in made if request.action.split(":")[1].startswith("Create")]
    strangers = [
        like("cloudformation:CreateChangeSet", resource=arn("cloudformation", "stack/production/0123")),
        like("cloudformation:DeleteStack", resource=arn("cloudformation", "stack/production/0123")),
        like("secretsmanager:GetSecretValue", resource=arn("secretsmanager", "secret:payroll-a1B2c3")),
        like("secretsmanager:DeleteSecret", resource=arn("secretsmanager", "secret:payroll-a1B2c3")),
        like("ecs:UpdateService", resource=arn("ecs", "service/default/payroll")),
        like("logs:DeleteLogGroup", resource=arn("logs", "log-group:audit")),
        Request("iam:CreateRole", role("administrator"), VIA),
        Request("iam:PutRolePolicy", role("administrator"), VIA),
        Request("iam:PassRole", role("administrator"), VIA | {"iam:PassedToService": "ecs-tasks.amazonaws.com"}),
        Request("iam:PassRole", role(f"{stack}-WorkerRole-A1B2C3"), VIA | {"iam:PassedToService": "ec2.amazonaws.com"}),
        Request("iam:AttachRolePolicy", role(f"{stack}-WorkerRole-A1B2C3"), VIA),
        Request("sqs:DeleteQueue", arn("sqs", "orders"), VIA),
        Request("ecs:DeleteCluster", arn("ecs", "cluster/production"), VIA),
        Request("ec2:TerminateInstances", arn("ec2", "instance/i-1"), VIA),
        Request("ecs:RunTask", arn("ecs", f"task-definition/{stack}:1")),
        *by_hand,
    ]
    assert len(by_hand) > 10
    for documents in policies:
        for request in strangers:
            assert not allowed(documents, request), request


@pytest.mark.parametrize("logical_id", RESOURCES)
async def test_cloudformation_may_make_each_resource_of_the_template(logical_id: str) -> None:
    for request in made_by("ecs-worker-my-pool", logical_id, RESOURCES[logical_id]["Type"]):
        assert allowed(general(), request), request


async def test_a_pools_deployer_has_the_stacks_of_that_pool_only(aws: Aws, tmp_path: Path) -> None:
    own = await policy(tmp_path, aws, "--pool", "my_pool")
    everything = [each for name in RESOURCES for each in made_by("ecs-worker-my-pool", name, RESOURCES[name]["Type"])]
    for request in everything:
        assert allowed([own], request), request
    long = await policy(tmp_path, aws, "--pool", "a-pool-with-a-long-name-of-its-own")
    shortened = role("ecs-worker-a-pool-with-a-WorkerRole-A1B2C3D4E5F6")
    assert allowed([long], Request("iam:CreateRole", shortened, VIA))
    other = arn("cloudformation", "stack/ecs-worker-other/0123")
    assert not allowed([own], Request("cloudformation:DeleteStack", other))
    assert allowed(general(), Request("cloudformation:DeleteStack", other))


async def test_a_role_is_compared_with_what_a_deployer_needs(aws: Aws, tmp_path: Path) -> None:
    own, name = await policy(tmp_path, aws, "--pool", "mine"), fresh("deployer")
    await aws.iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")
    env = environment(tmp_path, aws_url=aws.url)
    words = ("iam", "diff", name, "--as", "deployer", "--pool", "mine")
    lacking = await ecs_worker(tmp_path, *words, env=env)
    assert lacking.code == 1
    assert "missing: cloudformation:CreateChangeSet on " in lacking.out
    await aws.iam.put_role_policy(RoleName=name, PolicyName="deploy", PolicyDocument=json.dumps(own))
    same = await ecs_worker(tmp_path, *words, env=env)
    assert (same.code, same.out) == (0, ""), same
    await aws.iam.delete_role_policy(RoleName=name, PolicyName="deploy")
    await aws.iam.delete_role(RoleName=name)


async def test_options_of_other_policies_are_refused(aws: Aws, tmp_path: Path) -> None:
    env = environment(tmp_path, aws_url=aws.url)
    ended = await ecs_worker(tmp_path, "iam", "policy", "deployer", "--pool", "p", "--events-queue", "q", env=env)
    assert (ended.code, ended.out) == (2, "")
    assert "say nothing about a deployer's rights" in ended.err
