"""Amazon EC2: the network for tasks whose job names none, and for a deployed worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecs_worker.aws.errors import usable
from ecs_worker.aws.service import Service
from ecs_worker.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# The members of a route of which one names where it leads; DescribeRouteTables, `Route`.
_TARGETS = (
    "GatewayId",
    "NatGatewayId",
    "TransitGatewayId",
    "VpcPeeringConnectionId",
    "NetworkInterfaceId",
    "InstanceId",
    "EgressOnlyInternetGatewayId",
    "LocalGatewayId",
    "CarrierGatewayId",
    "CoreNetworkArn",
)


@dataclass(frozen=True, slots=True)
class Interface:
    """Where a network interface is. `public`: it has a public address."""

    subnet: str
    security_groups: tuple[str, ...]
    public: bool


@dataclass(frozen=True, slots=True)
class Subnet:
    """A subnet. `outpost`: it is on hardware of the customer's own, where there is no Fargate."""

    id: str
    vpc_id: str
    zone: str
    outpost: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """A route of a route table. `destination` is a CIDR block or a prefix list; `target` is `local`, or an id."""

    destination: str
    target: str
    active: bool = True


@dataclass(frozen=True, slots=True)
class RouteTable:
    """A route table: `main` for all subnets of its VPC that no other one names among its `subnets`."""

    id: str
    vpc_id: str
    main: bool
    subnets: frozenset[str]
    routes: tuple[Route, ...]


class Ec2(Service):
    """EC2 in one account and Region."""

    name = "ec2"

    async def default_vpc(self) -> str | None:
        """The id of the Region's default VPC, if it has one."""
        answer = await self._call("DescribeVpcs", Filters=[{"Name": "is-default", "Values": ["true"]}])
        with usable("DescribeVpcs"):
            return next((str(vpc["VpcId"]) for vpc in answer.get("Vpcs", ())), None)

    async def subnets(self, vpc_id: str) -> list[str]:
        """The ids of all the VPC's subnets. `vpc_id` must exist."""
        filters = [{"Name": "vpc-id", "Values": [vpc_id]}]
        found = await self._pages("DescribeSubnets", "Subnets", "NextToken", Filters=filters)
        with usable("DescribeSubnets"):
            return [str(subnet["SubnetId"]) for subnet in found]

    async def interface(self, mac_address: str) -> Interface | None:
        """The network interface with that MAC address, if this account has it in this Region."""
        answer = await self._call(
            "DescribeNetworkInterfaces", Filters=[{"Name": "mac-address", "Values": [mac_address]}]
        )
        with usable("DescribeNetworkInterfaces"):
            for found in answer.get("NetworkInterfaces", ()):
                groups = tuple(str(group["GroupId"]) for group in found.get("Groups", ()))
                public = bool(found.get("Association", {}).get("PublicIp"))
                return Interface(str(found["SubnetId"]), groups, public)
        return None

    async def vpc_exists(self, vpc_id: str) -> bool:
        """Whether the account has that VPC in the Region."""
        filters = [{"Name": "vpc-id", "Values": [vpc_id]}]
        return bool(await self._pages("DescribeVpcs", "Vpcs", "NextToken", Filters=filters))

    async def subnets_in(self, vpc_id: str) -> list[Subnet]:
        """All the VPC's subnets."""
        return await self._subnets([{"Name": "vpc-id", "Values": [vpc_id]}])

    async def subnets_named(self, ids: Sequence[str]) -> list[Subnet]:
        """Those of the subnets that exist."""
        return await self._subnets([{"Name": "subnet-id", "Values": list(ids)}])

    async def route_tables(self, vpc_id: str) -> list[RouteTable]:
        """All the VPC's route tables."""
        filters = [{"Name": "vpc-id", "Values": [vpc_id]}]
        found = await self._pages("DescribeRouteTables", "RouteTables", "NextToken", Filters=filters)
        with usable("DescribeRouteTables"):
            return [_route_table(each) for each in found]

    async def security_group_vpc(self, group_id: str) -> str | None:
        """The VPC that the security group belongs to; None if there is no such group."""
        try:
            answer = await self._call("DescribeSecurityGroups", GroupIds=[group_id])
        except AwsError as error:
            if error.code.startswith("InvalidGroup"):
                return None
            raise
        with usable("DescribeSecurityGroups"):
            return next((str(group["VpcId"]) for group in answer["SecurityGroups"]), None)

    async def _subnets(self, filters: Iterable[Mapping[str, Any]]) -> list[Subnet]:
        found = await self._pages("DescribeSubnets", "Subnets", "NextToken", Filters=list(filters))
        with usable("DescribeSubnets"):
            return [
                Subnet(
                    str(each["SubnetId"]),
                    str(each["VpcId"]),
                    str(each.get("AvailabilityZone") or ""),
                    bool(each.get("OutpostArn")),
                )
                for each in found
            ]


def _route_table(raw: Mapping[str, Any]) -> RouteTable:
    associations = raw.get("Associations") or ()
    return RouteTable(
        id=str(raw["RouteTableId"]),
        vpc_id=str(raw["VpcId"]),
        main=any(each.get("Main") for each in associations),
        subnets=frozenset(str(each["SubnetId"]) for each in associations if each.get("SubnetId")),
        routes=tuple(_route(each) for each in raw.get("Routes") or ()),
    )


def _route(raw: Mapping[str, Any]) -> Route:
    destination = next(
        (
            str(raw[name])
            for name in ("DestinationCidrBlock", "DestinationIpv6CidrBlock", "DestinationPrefixListId")
            if raw.get(name)
        ),
        "",
    )
    target = next((str(raw[name]) for name in _TARGETS if raw.get(name)), "")
    return Route(destination, target, raw.get("State", "active") == "active")
