"""Amazon EC2: the network for tasks whose job names none, and the ways that lead out of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecs_worker.aws.errors import usable
from ecs_worker.aws.service import Service

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


@dataclass(frozen=True, slots=True)
class Interface:
    """Where a network interface is. `public`: it has a public address."""

    subnet: str
    security_groups: tuple[str, ...]
    public: bool


@dataclass(frozen=True, slots=True)
class Subnet:
    """A subnet. `free`: how many addresses it has left."""

    id: str
    vpc: str
    zone: str
    free: int
    gives_public_addresses: bool


@dataclass(frozen=True, slots=True)
class Route:
    """Where a route table sends what goes to `destination` (a range of addresses, or a prefix list).

    `target` is the id of a gateway, an interface …; `local` within the VPC. Not `active`: the target is gone.
    """

    destination: str
    target: str
    active: bool = True


@dataclass(frozen=True, slots=True)
class RouteTable:
    """A VPC's route table, for `subnets`; the `main` one also for those that no other names."""

    id: str
    vpc: str
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
    vpc: str
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

    async def subnets_named(self, ids: Collection[str]) -> list[Subnet]:
        """Those of the subnets that exist."""
        # By a filter: asked for by their ids, one that doesn't exist would hide the others.
        filters = [{"Name": "subnet-id", "Values": sorted(ids)}]
        found = await self._pages("DescribeSubnets", "Subnets", "NextToken", Filters=filters)
        with usable("DescribeSubnets"):
            return [_subnet(each) for each in found]

    async def route_tables(self, vpc_id: str) -> list[RouteTable]:
        """All the VPC's route tables."""
        found = await self._pages("DescribeRouteTables", "RouteTables", "NextToken", Filters=_in(vpc_id))
        with usable("DescribeRouteTables"):
            return [_route_table(each) for each in found]

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


def _in(vpc_id: str) -> list[dict[str, Any]]:
    return [{"Name": "vpc-id", "Values": [vpc_id]}]


def _subnet(found: Mapping[str, Any]) -> Subnet:
    return Subnet(
        str(found["SubnetId"]),
        str(found["VpcId"]),
        str(found.get("AvailabilityZone", "")),
        int(found.get("AvailableIpAddressCount", 0)),
        bool(found.get("MapPublicIpOnLaunch")),
    )


def _route_table(found: Mapping[str, Any]) -> RouteTable:
    associations = found.get("Associations", ())
    return RouteTable(
        str(found["RouteTableId"]),
        str(found["VpcId"]),
        any(each.get("Main") for each in associations),
        frozenset(str(each["SubnetId"]) for each in associations if each.get("SubnetId")),
        tuple(_route(each) for each in found.get("Routes", ())),
    )


_DESTINATIONS = ("DestinationCidrBlock", "DestinationIpv6CidrBlock", "DestinationPrefixListId")
_ANSWER_OF_A_ROUTE = {*_DESTINATIONS, "State", "Origin", "InstanceOwnerId"}


def _route(found: Mapping[str, Any]) -> Route:
    destination = next((str(found[key]) for key in _DESTINATIONS if found.get(key)), "")
    # GatewayId, NatGatewayId, TransitGatewayId …: one of a dozen names, and there may be more.
    target = next((str(value) for key, value in found.items() if value and key not in _ANSWER_OF_A_ROUTE), "")
    return Route(destination, target, found.get("State", "active") == "active")


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
