"""Amazon EC2: the network for tasks whose job names none, for a deployed worker, and the ways that lead out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecs_worker.aws.errors import usable
from ecs_worker.aws.service import Service
from ecs_worker.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

EVERYWHERE = "0.0.0.0/0"
"""All addresses: where a default route leads."""

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
    """A subnet. `outpost`: it is on hardware of the customer's own, where there is no Fargate.

    `free`: how many addresses it has left.
    """

    id: str
    vpc_id: str
    zone: str
    outpost: bool = False
    free: int = 0


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


@dataclass(frozen=True, slots=True)
class NatGateway:
    """A NAT gateway. `state` is `available` when it works; a private one leads to no internet."""

    id: str
    subnet: str
    state: str
    public: bool = True


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A VPC's way to an AWS service, whose name `service` is without the Region: `ecr.api`, say.

    A gateway is for `route_tables`. Without `private_dns` an interface isn't found by the service's own name.
    """

    id: str
    service: str
    state: str
    gateway: bool
    private_dns: bool
    route_tables: frozenset[str]


@dataclass(frozen=True, slots=True)
class Egress:
    """What a security group lets out: a protocol (`-1` is all), its ports (first and last), and where to."""

    protocol: str
    ports: tuple[int, int]
    to: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SecurityGroup:
    """A security group, as far as it lets out."""

    id: str
    vpc_id: str
    name: str
    egress: tuple[Egress, ...]


ALL_PORTS = (0, 65535)


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
        found = await self._pages("DescribeSubnets", "Subnets", "NextToken", Filters=_in(vpc_id))
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
        return bool(await self._pages("DescribeVpcs", "Vpcs", "NextToken", Filters=_in(vpc_id)))

    async def subnets_in(self, vpc_id: str) -> list[Subnet]:
        """All the VPC's subnets."""
        return await self._subnets(_in(vpc_id))

    async def subnets_named(self, ids: Sequence[str]) -> list[Subnet]:
        """Those of the subnets that exist."""
        return await self._subnets([{"Name": "subnet-id", "Values": list(ids)}])

    async def route_tables(self, vpc_id: str) -> list[RouteTable]:
        """All the VPC's route tables."""
        found = await self._pages("DescribeRouteTables", "RouteTables", "NextToken", Filters=_in(vpc_id))
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

    async def nat_gateways(self, vpc_id: str) -> list[NatGateway]:
        """All the VPC's NAT gateways, deleted ones also, for about an hour."""
        found = await self._pages("DescribeNatGateways", "NatGateways", "NextToken", Filter=_in(vpc_id))
        with usable("DescribeNatGateways"):
            return [
                NatGateway(
                    str(each["NatGatewayId"]),
                    str(each["SubnetId"]),
                    str(each.get("State", "")),
                    each.get("ConnectivityType", "public") == "public",
                )
                for each in found
            ]

    async def endpoints(self, vpc_id: str) -> list[Endpoint]:
        """All the VPC's endpoints."""
        found = await self._pages("DescribeVpcEndpoints", "VpcEndpoints", "NextToken", Filters=_in(vpc_id))
        with usable("DescribeVpcEndpoints"):
            return [_endpoint(each) for each in found]

    async def security_groups(self, vpc_id: str) -> list[SecurityGroup]:
        """All the VPC's security groups."""
        found = await self._pages("DescribeSecurityGroups", "SecurityGroups", "NextToken", Filters=_in(vpc_id))
        with usable("DescribeSecurityGroups"):
            return [
                SecurityGroup(
                    str(each["GroupId"]),
                    str(each.get("VpcId", "")),
                    str(each.get("GroupName", "")),
                    tuple(_egress(rule) for rule in each.get("IpPermissionsEgress", ())),
                )
                for each in found
            ]

    async def _subnets(self, filters: Iterable[Mapping[str, Any]]) -> list[Subnet]:
        found = await self._pages("DescribeSubnets", "Subnets", "NextToken", Filters=list(filters))
        with usable("DescribeSubnets"):
            return [
                Subnet(
                    str(each["SubnetId"]),
                    str(each["VpcId"]),
                    str(each.get("AvailabilityZone") or ""),
                    bool(each.get("OutpostArn")),
                    int(each.get("AvailableIpAddressCount") or 0),
                )
                for each in found
            ]


def table_of(subnet: str, vpc_id: str, tables: Iterable[RouteTable]) -> RouteTable | None:
    """The route table of a VPC's subnet: its own, else the VPC's main one (Amazon VPC user guide, "Route tables")."""
    known = tuple(tables)
    own = next((table for table in known if subnet in table.subnets), None)
    return own or next((table for table in known if table.main and table.vpc_id == vpc_id), None)


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


def _in(vpc_id: str) -> list[dict[str, Any]]:
    return [{"Name": "vpc-id", "Values": [vpc_id]}]


def _endpoint(found: Mapping[str, Any]) -> Endpoint:
    return Endpoint(
        str(found["VpcEndpointId"]),
        str(found["ServiceName"]).removeprefix("cn.").split(".", 3)[-1],  # com.amazonaws.eu-west-1.ecr.api
        str(found.get("State", "")).lower(),
        found.get("VpcEndpointType", "Gateway") == "Gateway",
        bool(found.get("PrivateDnsEnabled")),
        frozenset(str(each) for each in found.get("RouteTableIds") or ()),
    )


def _egress(rule: Mapping[str, Any]) -> Egress:
    protocol = str(rule.get("IpProtocol", "-1"))
    first, last = rule.get("FromPort"), rule.get("ToPort")
    ports = ALL_PORTS if protocol == "-1" or first is None or last is None else (int(first), int(last))
    to = [
        *(each["CidrIp"] for each in rule.get("IpRanges", ())),
        *(each["CidrIpv6"] for each in rule.get("Ipv6Ranges", ())),
        *(each["PrefixListId"] for each in rule.get("PrefixListIds", ())),
        *(each["GroupId"] for each in rule.get("UserIdGroupPairs", ())),
    ]
    return Egress(protocol, ports, tuple(map(str, to)))
