"""The network that the template makes when asked: what tasks in it reach, and that nothing of it stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support import stacks
from support.command_line import Ended, ecs_worker
from support.embedded import REGION, Aws, connected, fresh
from support.servers.shared import shared_aws
from support.servers.worker import environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.servers.prefect import Admin

# They look at all that there is, one after the other, in an embedded AWS of their own.
pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("network")]
LEAST = {
    "PoolName": "my-pool",
    "Image": stacks.IMAGE,
    "PrefectApiUrl": "http://127.0.0.1:9/api",
    "ClusterArn": "arn:aws:ecs:us-east-1:123456789012:cluster/default",
    "DesiredCount": "0",
}
ENDPOINTS = {"s3": "Gateway"} | dict.fromkeys(("ecr.api", "ecr.dkr", "ecs", "logs", "secretsmanager"), "Interface")


@pytest.fixture(scope="session")
async def aws(anyio_backend: str, session_directory: Path) -> AsyncIterator[Aws]:
    """Clients of it."""
    assert anyio_backend == "asyncio"
    async with connected(shared_aws(session_directory, "network_aws", step_seconds=0.05)) as aws:
        yield aws


async def way_out(aws: Aws, subnet: str) -> dict[str, Any]:
    """Where a subnet's route table sends what is for the internet."""
    asked = [{"Name": "association.subnet-id", "Values": [subnet]}]
    (table,) = (await aws.ec2.describe_route_tables(Filters=asked))["RouteTables"]
    (route,) = [each for each in table["Routes"] if each.get("DestinationCidrBlock") == "0.0.0.0/0"]
    return dict(route)


async def made_in(aws: Aws) -> dict[str, set[str]]:
    """All of EC2 that a network is made of, but what AWS shows as deleted for a while."""
    endpoints = (await aws.ec2.describe_vpc_endpoints())["VpcEndpoints"]
    gateways = (await aws.ec2.describe_nat_gateways())["NatGateways"]
    return {
        "vpcs": {each["VpcId"] for each in (await aws.ec2.describe_vpcs())["Vpcs"]},
        "subnets": {each["SubnetId"] for each in (await aws.ec2.describe_subnets())["Subnets"]},
        "tables": {each["RouteTableId"] for each in (await aws.ec2.describe_route_tables())["RouteTables"]},
        "gateways": {
            each["InternetGatewayId"] for each in (await aws.ec2.describe_internet_gateways())["InternetGateways"]
        },
        "nat": {each["NatGatewayId"] for each in gateways if each["State"] != "deleted"},
        "addresses": {each["PublicIp"] for each in (await aws.ec2.describe_addresses())["Addresses"]},
        "endpoints": {each["VpcEndpointId"] for each in endpoints if each["State"] != "deleted"},
        "groups": {each["GroupId"] for each in (await aws.ec2.describe_security_groups())["SecurityGroups"]},
        "interfaces": {
            each["NetworkInterfaceId"] for each in (await aws.ec2.describe_network_interfaces())["NetworkInterfaces"]
        },
    }


@pytest.mark.parametrize(
    ("kind", "endpoints"), [("public", False), ("public", True), ("private", False), ("private", True)]
)
async def test_a_new_network_has_a_way_out_and_goes_with_its_stack(aws: Aws, kind: str, endpoints: bool) -> None:
    before = await made_in(aws)
    name = fresh("stack")
    await stacks.create(aws, name, LEAST | {"NewVpc": kind, "VpcEndpoints": str(endpoints).lower()})
    made = stacks.outputs(await stacks.settles(aws, name, "CREATE_COMPLETE"))
    found = (await aws.ec2.describe_subnets(SubnetIds=made["SubnetIds"].split(",")))["Subnets"]
    assert {subnet["VpcId"] for subnet in found} == {made["VpcId"]}
    assert {subnet["AvailabilityZone"] for subnet in found} == {f"{REGION}a", f"{REGION}b"}
    for subnet in found:
        route = await way_out(aws, subnet["SubnetId"])
        if kind == "public":
            assert route["GatewayId"].startswith("igw-")
        else:
            (gateway,) = (await aws.ec2.describe_nat_gateways(NatGatewayIds=[route["NatGatewayId"]]))["NatGateways"]
            assert gateway["SubnetId"] not in {each["SubnetId"] for each in found}
            assert (await way_out(aws, gateway["SubnetId"]))["GatewayId"].startswith("igw-")
    (service,) = (await aws.ecs.describe_services(cluster=LEAST["ClusterArn"], services=[made["ServiceArn"]]))[
        "services"
    ]
    network = service["networkConfiguration"]["awsvpcConfiguration"]
    assert network["assignPublicIp"] == ("ENABLED" if kind == "public" else "DISABLED")
    assert network["subnets"] == made["SubnetIds"].split(",")
    (group,) = (await aws.ec2.describe_security_groups(GroupIds=[made["SecurityGroupId"]]))["SecurityGroups"]
    assert (group["VpcId"], group["IpPermissions"]) == (made["VpcId"], [])

    asked = [{"Name": "vpc-id", "Values": [made["VpcId"]]}]
    there = (await aws.ec2.describe_vpc_endpoints(Filters=asked))["VpcEndpoints"]
    services = {each["ServiceName"].removeprefix(f"com.amazonaws.{REGION}."): each["VpcEndpointType"] for each in there}
    assert services == (ENDPOINTS if endpoints else {})
    for each in there:
        if each["VpcEndpointType"] == "Interface":
            assert each["PrivateDnsEnabled"]
            assert sorted(each["SubnetIds"]) == sorted(made["SubnetIds"].split(","))

    await aws.cloudformation.delete_stack(StackName=name)
    await aws.logs.delete_log_group(logGroupName=made["LogGroupName"])
    assert await made_in(aws) == before


async def test_the_service_waits_for_the_whole_network(aws: Aws) -> None:
    name = fresh("stack")
    await stacks.create(aws, name, LEAST | {"NewVpc": "private", "VpcEndpoints": "true"})
    made = stacks.outputs(await stacks.settles(aws, name, "CREATE_COMPLETE"))
    told = await stacks.story(aws, name)
    begun = told.index("Service CREATE_IN_PROGRESS")
    for part in ("PrivateWayOut", "RoutesOfSubnetA", "RoutesOfSubnetB", "S3Endpoint", "EcrDkrEndpoint"):
        assert told.index(f"{part} CREATE_COMPLETE") < begun
    await aws.cloudformation.delete_stack(StackName=name)
    await aws.logs.delete_log_group(logGroupName=made["LogGroupName"])


async def test_public_subnets_become_private_ones(aws: Aws) -> None:
    before, name = await made_in(aws), fresh("stack")
    await stacks.create(aws, name, LEAST | {"NewVpc": "public"})
    made = stacks.outputs(await stacks.settles(aws, name, "CREATE_COMPLETE"))
    await stacks.update(aws, name, LEAST | {"NewVpc": "private"})
    changed = stacks.outputs(await stacks.settles(aws, name, "UPDATE_COMPLETE"))
    assert changed["SubnetIds"] == made["SubnetIds"]
    for subnet in changed["SubnetIds"].split(","):
        assert (await way_out(aws, subnet))["NatGatewayId"]
    (service,) = (await aws.ecs.describe_services(cluster=LEAST["ClusterArn"], services=[made["ServiceArn"]]))[
        "services"
    ]
    assert service["networkConfiguration"]["awsvpcConfiguration"]["assignPublicIp"] == "DISABLED"
    await aws.cloudformation.delete_stack(StackName=name)
    await aws.logs.delete_log_group(logGroupName=made["LogGroupName"])
    assert await made_in(aws) == before


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({}, "Give VpcId and Subnets, or NewVpc"),
        ({"VpcId": "vpc-0123456789abcdef0"}, "Give VpcId and Subnets, or NewVpc"),
        ({"NewVpc": "public", "VpcId": "vpc-0123456789abcdef0"}, "a new network takes no VpcId"),
        ({"NewVpc": "public", "SecurityGroup": "sg-0123456789abcdef0"}, "a new network takes no VpcId"),
        (
            {"VpcId": "vpc-0123456789abcdef0", "Subnets": "subnet-01234567", "VpcEndpoints": "true"},
            "VpcEndpoints are made in a new network only",
        ),
    ],
    ids=["neither", "no subnets", "both", "a group of another network", "endpoints alone"],
)
async def test_a_network_is_either_given_or_made(aws: Aws, chosen: dict[str, str], told: str) -> None:
    name = fresh("stack")
    with pytest.raises(aws.cloudformation.exceptions.ClientError, match=told):
        await stacks.create(aws, name, LEAST | chosen)
    with pytest.raises(aws.cloudformation.exceptions.ClientError, match="does not exist"):
        await aws.cloudformation.describe_stacks(StackName=name)


# By the command ----------------------------------------------------------------------------------------------


async def deploy(home: Path, aws: Aws, admin: Admin, *options: str) -> Ended:
    env = environment(home, aws_url=aws.url)
    return await ecs_worker(home, "deploy", *options, api_url=admin.server.url, env=env, whole=True)


async def test_a_worker_is_deployed_into_a_new_network_and_its_runs_go_there(
    aws: Aws, admin3: Admin, tmp_path: Path
) -> None:
    name = fresh("net")
    least = ("--pool", name, "--image", stacks.IMAGE, "--desired-count", "0", "--cluster", "default")
    new = ("--new-vpc", "public", "--vpc-endpoints")
    shown = await deploy(tmp_path, aws, admin3, *least, *new, "--dry-run")
    assert shown.code == 0, shown
    for line in ("+ AWS::EC2::VPC Network", "+ AWS::EC2::VPCEndpoint LogsEndpoint", "the stack's subnets"):
        assert line in shown.out
    assert "NatGateway" not in shown.out
    ended = await deploy(tmp_path, aws, admin3, *least, *new, "--yes")
    assert ended.code == 0, ended
    (stack,) = (await aws.cloudformation.describe_stacks(StackName=f"ecs-worker-{name}"))["Stacks"]
    made = stacks.outputs(stack)
    pool = await admin3.get(f"/work_pools/{name}")
    defaults = {key: each.get("default") for key, each in pool["base_job_template"]["variables"]["properties"].items()}
    assert (defaults["subnets"], defaults["assign_public_ip"]) == (made["SubnetIds"].split(","), True)
    # Given again, without a word of the network, it keeps it; and its way out follows from its kind.
    again = await deploy(tmp_path, aws, admin3, "--pool", name, "--yes")
    assert (again.code, "already up to date" in again.out) == (0, True), again
    refused = await deploy(tmp_path, aws, admin3, "--pool", name, "--no-assign-public-ip", "--yes")
    assert (refused.code, "follows from the stack's own network" in refused.err) == (2, True), refused
    await aws.cloudformation.delete_stack(StackName=stack["StackName"])
    await aws.logs.delete_log_group(logGroupName=made["LogGroupName"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--new-vpc", "secret"), "--new-vpc is 'secret', but must be one of none, public, private."),
        (("--new-vpc", "none"), "--new-vpc is 'none', but must be public or private."),
        (
            ("--new-vpc", "public", "--vpc-id", "vpc-1", "--security-group", "sg-1"),
            "--new-vpc makes a network of its own: leave out --vpc-id and --security-group.",
        ),
        (("--vpc-endpoints",), "--vpc-endpoints are made in a new network only: give --new-vpc private (or public)"),
    ],
    ids=["a wrong kind", "none", "another network", "endpoints alone"],
)
async def test_a_wish_for_a_network_that_can_not_be_is_told(
    aws: Aws, admin3: Admin, tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    ended = await deploy(tmp_path, aws, admin3, "--pool", fresh("net"), "--image", stacks.IMAGE, *options, "--yes")
    assert (ended.code, ended.out) == (2, "")
    assert told in ended.err
    assert len(ended.err.splitlines()) == 1
