"""The networks that tasks are put into: whether there is a way out, to the image, the log, the secrets and Prefect."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ecs_worker.aws.ec2 import EVERYWHERE, table_of
from ecs_worker.doctor.finding import Finding, Group, Line, Result, Untold

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ecs_worker.aws.ec2 import Endpoint, NatGateway, RouteTable, SecurityGroup, Subnet

HTTPS = 443
_FEW = 5  # addresses
CLOUD = "prefect.cloud"


@dataclass(frozen=True)
class NetworkWanted:
    """A network as jobs name it, and what their tasks need there.

    `groups` empty: the VPC's default one. `public`: tasks get a public address. `services`: those of AWS that tasks (or
    ECS for them) ask through it. `registries`: those of other images. `api_url`: Prefect's, as containers are given it.
    """

    region: str
    subnets: frozenset[str]
    groups: frozenset[str] = frozenset()
    public: bool = False
    services: frozenset[str] = frozenset()
    registries: frozenset[str] = frozenset()
    api_url: str = ""

    @property
    def ports(self) -> frozenset[int]:
        """TCP ports that tasks ask others at."""
        return frozenset({HTTPS, *([self.api_port] if self.api_port else [])})

    @property
    def api_port(self) -> int | None:
        """Prefect's."""
        parts = urlsplit(self.api_url)
        return (parts.port or (HTTPS if parts.scheme == "https" else 80)) if self.api_url else None


@dataclass(frozen=True)
class NetworkFacts:
    """What EC2 says of a network. Of each VPC that its subnets are in: its tables, gateways, endpoints and groups."""

    wanted: NetworkWanted
    about: tuple[str, ...]
    subnets: tuple[Subnet, ...] | Untold = ()
    tables: Mapping[str, list[RouteTable] | Untold] = field(default_factory=dict)
    gateways: Mapping[str, list[NatGateway] | Untold] = field(default_factory=dict)
    endpoints: Mapping[str, list[Endpoint] | Untold] = field(default_factory=dict)
    groups: Mapping[str, list[SecurityGroup] | Untold] = field(default_factory=dict)

    def line(self, check: str) -> Line:
        """Findings are about the deployments that share the network."""
        return Line(Group.NETWORK, check, self.about)


def findings(facts: NetworkFacts) -> Iterator[Finding]:
    """Of all checks of one network."""
    named = ", ".join(sorted(facts.wanted.subnets))
    found = subnets(facts.line(f"subnets {named}"), facts)
    yield found
    way, groups = facts.line(f"way out of {named}"), facts.line(f"security groups in {named}")
    if found.result in {Result.FAILED, Result.WARNING} and (isinstance(facts.subnets, Untold) or not facts.subnets):
        because = "the subnets aren't known" if isinstance(facts.subnets, Untold) else "the subnets aren't there"
        yield way.skipped(because)
        yield groups.skipped(because)
        return
    yield way_out(way, facts)
    yield security_groups(groups, facts)


def subnets(line: Line, facts: NetworkFacts) -> Finding:
    """Whether they are there, in one VPC, with room for tasks."""
    if isinstance(facts.subnets, Untold):
        return line.untold(facts.subnets)
    remedy = "Correct the job variables subnets, vpc_id or network_configuration, or AWS_REGION."
    if missing := sorted(facts.wanted.subnets - {subnet.id for subnet in facts.subnets}):
        return line.failed(f"not there in {facts.wanted.region}: {', '.join(missing)}", remedy)
    vpcs = sorted({subnet.vpc_id for subnet in facts.subnets})
    if len(vpcs) > 1:
        return line.failed(f"are in several VPCs: {', '.join(vpcs)}", f"ECS takes those of one. {remedy}")
    free = sum(subnet.free for subnet in facts.subnets)
    if free == 0:
        return line.failed("have no address left", "Name more or larger subnets, or end what uses their addresses.")
    told = f"{len(facts.subnets)} of {vpcs[0]}, with {free} free addresses"
    if free <= _FEW:
        return line.warning(told, "Name more or larger subnets: each task takes an address.")
    return line.ok(told)


def way_out(line: Line, facts: NetworkFacts) -> Finding:
    """Whether each subnet leads to the internet, or to all that tasks need."""
    assert not isinstance(facts.subnets, Untold), "findings() asks before"
    judged = [_way(subnet, facts) for subnet in facts.subnets]
    for way in judged:
        if isinstance(way, Untold):
            return line.untold(way)
    ways = [way for way in judged if not isinstance(way, Untold)]
    for result in (Result.FAILED, Result.WARNING):
        for way in ways:
            if way.result is result:
                return Finding(line.group, line.check, result, way.told, way.remedy, line.about)
    return line.ok("; ".join(dict.fromkeys(way.told for way in ways)))


@dataclass(frozen=True)
class _Way:
    result: Result
    told: str
    remedy: str = ""


def _way(subnet: Subnet, facts: NetworkFacts) -> _Way | Untold:
    tables = facts.tables.get(subnet.vpc_id, [])
    if isinstance(tables, Untold):
        return tables
    table = table_of(subnet.id, subnet.vpc_id, tables)
    route = next((r for r in table.routes if r.destination == EVERYWHERE), None) if table is not None else None
    dead = ""
    if table is not None and route is not None:
        if not route.active:
            dead = f"{subnet.id} leads to {route.target}, which is gone"
        elif route.target.startswith("igw-"):
            if facts.wanted.public:
                return _Way(Result.OK, f"by the internet gateway {route.target}, with a public address")
            dead = f"{subnet.id} leads to {route.target}, but the task gets no public address"
        elif route.target.startswith("nat-"):
            why = _broken_gateway(route.target, table, tables, facts.gateways.get(subnet.vpc_id, []))
            if isinstance(why, Untold):
                return why
            if not why:
                return _Way(Result.OK, f"by the NAT gateway {route.target}")
            dead = why
        else:
            return _Way(
                Result.WARNING,
                f"{subnet.id} leads to {route.target}: whether that leads out can't be told",
                f"Make sure that {route.target} leads to the internet, or `ecs-worker doctor --probe`.",
            )
    return _by_endpoints(subnet, table, facts, dead)


def _by_endpoints(subnet: Subnet, table: RouteTable | None, facts: NetworkFacts, dead: str) -> _Way | Untold:
    """Without a way to the internet. `dead`: what is wrong with the one there seems to be."""
    endpoints = facts.endpoints.get(subnet.vpc_id, [])
    if isinstance(endpoints, Untold):
        return endpoints
    wanted, there = facts.wanted, {each.service for each in endpoints if _works(each, table)}
    why, remedy = dead or f"{subnet.id} has no route to the internet", _remedy(dead)
    if there & wanted.services:
        return _only_endpoints(wanted, sorted(wanted.services - there), why, remedy, table)
    if not wanted.services and not wanted.registries and CLOUD not in wanted.api_url:  # not on Fargate
        return _Way(Result.WARNING, f"{why}: what is beyond the VPC is out of reach, perhaps Prefect, too", remedy)
    return _Way(Result.FAILED, why, remedy)


def _works(endpoint: Endpoint, table: RouteTable | None) -> bool:
    if endpoint.state != "available":
        return False
    return (table is not None and table.id in endpoint.route_tables) if endpoint.gateway else endpoint.private_dns


def _only_endpoints(wanted: NetworkWanted, missing: list[str], why: str, remedy: str, table: RouteTable | None) -> _Way:
    """Where some services have endpoints, that is the way that is meant."""
    if missing:
        return _Way(
            Result.FAILED,
            f"{why}, and the VPC has no endpoint for {', '.join(missing)}",
            f"Make these endpoints (interfaces with private DNS; for s3 a gateway in {_name(table)}), or: {remedy}",
        )
    if wanted.registries:
        others = ", ".join(sorted(wanted.registries))
        return _Way(Result.FAILED, f"{why}, and no endpoint leads to {others}", f"Copy the image to ECR, or: {remedy}")
    told = f"by endpoints ({', '.join(sorted(wanted.services))})"
    if CLOUD in wanted.api_url:
        return _Way(Result.WARNING, f"{told}; but {why}, as Prefect Cloud needs unless by PrivateLink", remedy)
    return _Way(Result.OK, told)


def _remedy(dead: str) -> str:
    if "no public address" in dead:
        return "Set assign_public_ip to true (on Fargate), or name subnets that lead to a NAT gateway."
    return (
        f"Route {EVERYWHERE} to a NAT gateway, or to an internet gateway with assign_public_ip, or name other subnets."
    )


def _broken_gateway(
    name: str, table: RouteTable, tables: Iterable[RouteTable], gateways: list[NatGateway] | Untold
) -> str | Untold:
    """Why the NAT gateway, to which `table` leads, leads nowhere; empty: it leads out."""
    if isinstance(gateways, Untold):
        return gateways
    gateway = next((each for each in gateways if each.id == name), None)
    if gateway is None or gateway.state != "available":
        return f"the NAT gateway {name} is {gateway.state if gateway else 'gone'}"
    if not gateway.public:
        return f"the NAT gateway {name} is a private one, which leads to no internet"
    own = table_of(gateway.subnet, table.vpc_id, tables)
    routes = own.routes if own is not None else ()
    if not any(r.destination == EVERYWHERE and r.active and r.target.startswith("igw-") for r in routes):
        return f"the NAT gateway {name} is in {gateway.subnet}, which leads to no internet gateway"
    return ""


def security_groups(line: Line, facts: NetworkFacts) -> Finding:
    """Whether they let tasks out."""
    assert not isinstance(facts.subnets, Untold), "findings() asks before"
    vpc = facts.subnets[0].vpc_id
    known = facts.groups.get(vpc, [])
    if isinstance(known, Untold):
        return line.untold(known)
    wanted = facts.wanted
    chosen = [group for group in known if (group.id in wanted.groups if wanted.groups else group.name == "default")]
    if missing := sorted(wanted.groups - {group.id for group in chosen}):
        return line.failed(
            f"not there in {vpc}: {', '.join(missing)}",
            "Correct the job variable security_groups: name those of the VPC.",
        )
    names = ", ".join(group.id for group in chosen)
    shut = [port for port in sorted(wanted.ports) if not list(_reached(chosen, port))]
    if shut:
        ports = " and ".join(map(str, shut))
        return line.failed(
            f"{names} let nothing out to TCP port {ports}",
            f"Allow going out: `aws ec2 authorize-security-group-egress --group-id {chosen[0].id if chosen else '…'} "
            f"--protocol tcp --port {shut[0]} --cidr {EVERYWHERE}`.",
        )
    narrow = [port for port in sorted(wanted.ports) if not any(map(_everywhere, _reached(chosen, port)))]
    if narrow:
        there = ", ".join(dict.fromkeys(to for port in narrow for to in _reached(chosen, port)))
        ports = " and ".join(map(str, narrow))
        return line.warning(
            f"{names} let out to TCP port {ports} only at {there}",
            "Make sure that this holds Prefect's API, and the registry, log and secrets of the tasks.",
        )
    return line.ok(f"{names} let out to TCP port {' and '.join(map(str, sorted(wanted.ports)))}")


def _reached(groups: Iterable[SecurityGroup], port: int) -> Iterator[str]:
    """Where TCP requests to that port may go."""
    for group in groups:
        for rule in group.egress:
            if rule.protocol in {"-1", "tcp", "6"} and rule.ports[0] <= port <= rule.ports[1]:
                yield from rule.to


def _everywhere(to: str) -> bool:
    try:
        return ip_network(to, strict=False).prefixlen == 0
    except ValueError:  # a prefix list, or a group
        return False


def _name(table: RouteTable | None) -> str:
    return table.id if table is not None else "the route table"
