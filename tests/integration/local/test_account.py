"""What of AWS's other services is not moto's: rights, images, quotas and routes, as our own clients read them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ecs_worker.aws.ec2 import Route
from ecs_worker.aws.ecr import Platform
from ecs_worker.aws.quotas import FARGATE, ON_DEMAND_VCPUS
from ecs_worker.aws.session import Aws
from ecs_worker.errors import AwsError
from support.embedded import fresh
from support.images import push, push_index

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.embedded import Aws as Clients

pytestmark = pytest.mark.anyio
ACCOUNT = "123456789012"
ECS = f"arn:aws:ecs:us-east-1:{ACCOUNT}:"
CLUSTER, TASK = ECS + "cluster/a", ECS + "task/a/3"


@pytest.fixture
async def ours(aws: Clients, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Aws]:
    """The worker's own clients of the embedded AWS."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    async with Aws() as session:
        yield session


def policy(action: str, resource: str, **more: Any) -> str:
    statement = {"Effect": "Allow", "Action": action, "Resource": resource, **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


async def test_rights_are_simulated_by_a_roles_own_policies(aws: Clients, ours: Aws) -> None:
    name = fresh("role")
    trust = {"Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "ecs"}}]}
    made = await aws.iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
    role = made["Role"]["Arn"]
    condition = {"ArnEquals": {"ecs:cluster": CLUSTER}}
    await aws.iam.put_role_policy(
        RoleName=name,
        PolicyName="one",
        PolicyDocument=policy("ecs:RunTask", ECS + "task-definition/a:*", Condition=condition),
    )
    attached = await aws.iam.create_policy(PolicyName=name, PolicyDocument=policy("ecs:StopTask", TASK, Effect="Deny"))
    await aws.iam.attach_role_policy(RoleName=name, PolicyArn=attached["Policy"]["Arn"])
    iam = await ours.iam()
    assert (await iam.role(name)).trust == trust

    async def decisions(action: str, *resources: str, **context: str) -> dict[str, str]:
        entries = {key.replace("_", ":"): [value] for key, value in context.items()}
        return {each.resource: each.decision for each in await iam.simulate(role, [action], resources, entries)}

    families = (ECS + "task-definition/a:1", ECS + "task-definition/b:1")
    assert await decisions("ecs:RunTask", *families, ecs_cluster=CLUSTER) == {
        families[0]: "allowed",
        families[1]: "implicitDeny",
    }
    assert await decisions("ecs:RunTask", families[0]) == {families[0]: "implicitDeny"}
    assert await decisions("ecs:StopTask", TASK) == {TASK: "explicitDeny"}
    limit = await aws.iam.create_policy(PolicyName=f"{name}-limit", PolicyDocument=policy("ecs:StopTask", "*"))
    await aws.iam.put_role_permissions_boundary(RoleName=name, PermissionsBoundary=limit["Policy"]["Arn"])
    (denied,) = await iam.simulate(role, ["ecs:RunTask"], [families[0]], {"ecs:cluster": [CLUSTER]})
    assert (denied.decision, denied.by) == ("implicitDeny", "its permissions boundary")
    for nobody, code in ((role + "x", "NoSuchEntity"), (f"arn:aws:sts::{ACCOUNT}:assumed-role/a/b", "InvalidInput")):
        with pytest.raises(AwsError) as raised:
            await iam.simulate(nobody, ["ecs:RunTask"], ["*"], {})
        assert raised.value.code == code


async def test_an_images_platforms_are_read_from_its_registry(aws: Clients, ours: Aws) -> None:
    repository = fresh("team/flows")
    await aws.ecr.create_repository(repositoryName=repository)
    digest = await push(aws.ecr, repository, "small", "arm64", 1234)
    await push_index(aws.ecr, repository, "both", "amd64", "arm64")
    ecr = await ours.ecr()
    for reference in ("small", digest):
        assert await ecr.platforms(ACCOUNT, repository, reference) == [Platform("linux", "arm64", 1234)]
    assert await ecr.platforms(ACCOUNT, repository, "both") == [
        Platform("linux", "amd64", 50_000_000),
        Platform("linux", "arm64", 50_000_000),
    ]
    assert await ecr.platforms(ACCOUNT, repository, "nothing") is None
    with pytest.raises(AwsError) as raised:
        await ecr.platforms(ACCOUNT, fresh("nowhere"), "latest")
    assert raised.value.code == "RepositoryNotFoundException"


async def test_what_fargate_gives_a_new_account_is_told(ours: Aws) -> None:
    quotas = await ours.quotas()
    assert await quotas.quota(FARGATE, ON_DEMAND_VCPUS) == 6
    with pytest.raises(AwsError) as raised:
        await quotas.quota(FARGATE, "L-00000000")
    assert raised.value.code == "NoSuchResourceException"


async def test_a_networks_ways_out_are_read_and_go_with_what_they_lead_to(aws: Clients, ours: Aws) -> None:
    vpc = (await aws.ec2.create_vpc(CidrBlock="10.9.0.0/16"))["Vpc"]["VpcId"]
    made = [
        (await aws.ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.9.{number}.0/24"))["Subnet"]["SubnetId"]
        for number in (1, 2)
    ]
    gateway = (await aws.ec2.create_internet_gateway())["InternetGateway"]["InternetGatewayId"]
    await aws.ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    table = (await aws.ec2.create_route_table(VpcId=vpc))["RouteTable"]["RouteTableId"]
    await aws.ec2.associate_route_table(RouteTableId=table, SubnetId=made[0])
    nat = await aws.ec2.create_nat_gateway(SubnetId=made[1], ConnectivityType="private")
    nat_id = nat["NatGateway"]["NatGatewayId"]
    (main,) = [each.id for each in await (await ours.ec2()).route_tables(vpc) if each.main]
    everywhere = "0.0.0.0/0"
    await aws.ec2.create_route(RouteTableId=main, DestinationCidrBlock=everywhere, GatewayId=gateway)
    await aws.ec2.create_route(RouteTableId=table, DestinationCidrBlock=everywhere, NatGatewayId=nat_id)
    service = "com.amazonaws.us-east-1.s3"
    await aws.ec2.create_vpc_endpoint(VpcId=vpc, ServiceName=service, RouteTableIds=[table])
    ec2 = await ours.ec2()

    async def ways() -> dict[str, list[Route]]:
        found = await ec2.route_tables(vpc)
        return {each.id: [route for route in each.routes if route.destination == everywhere] for each in found}

    assert {each.id: each.vpc_id for each in await ec2.subnets_named([*made, "subnet-0"])} == dict.fromkeys(made, vpc)
    assert await ways() == {main: [Route(everywhere, gateway)], table: [Route(everywhere, nat_id)]}
    (own,) = [each for each in await ec2.route_tables(vpc) if each.id == table]
    assert (own.main, set(own.subnets)) == (False, {made[0]})
    (seen,) = await ec2.nat_gateways(vpc)
    assert (seen.id, seen.subnet, seen.state, seen.public) == (nat_id, made[1], "available", False)
    (endpoint,) = await ec2.endpoints(vpc)
    assert (endpoint.service, endpoint.gateway, endpoint.state, *endpoint.route_tables) == (
        "s3",
        True,
        "available",
        table,
    )
    (group,) = await ec2.security_groups(vpc)
    (rule,) = group.egress
    assert (group.name, rule.protocol, rule.ports, rule.to) == ("default", "-1", (0, 65535), (everywhere,))
    await aws.ec2.delete_nat_gateway(NatGatewayId=nat_id)
    await aws.ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    assert await ways() == {
        main: [Route(everywhere, gateway, active=False)],
        table: [Route(everywhere, nat_id, active=False)],
    }
