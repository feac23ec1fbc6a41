"""Which subnets a worker can live in."""

from __future__ import annotations

import pytest

from ecs_worker.aws.ec2 import Route, RouteTable, Subnet
from ecs_worker.deploy.network import MOST_SUBNETS, Network, Way, choose, ways

VPC = "vpc-1"
LOCAL = Route("10.0.0.0/16", "local")


def table(
    name: str, *targets: str, main: bool = False, subnets: frozenset[str] = frozenset(), active: bool = True
) -> RouteTable:
    out = tuple(Route("0.0.0.0/0", target, active) for target in targets)
    return RouteTable(name, VPC, main, subnets, (LOCAL, *out))


def subnet(name: str, *, outpost: bool = False) -> Subnet:
    return Subnet(name, VPC, "a", outpost)


@pytest.mark.parametrize(
    ("found", "way"),
    [
        (table("t", "igw-1", main=True), Way.PUBLIC),
        (table("t", "nat-1", main=True), Way.ROUTED),
        (table("t", "tgw-1", main=True), Way.ROUTED),
        (table("t", "eni-1", main=True), Way.ROUTED),
        (table("t", "nat-1", main=True, active=False), Way.NONE),
        (table("t", main=True), Way.NONE),
        (RouteTable("t", VPC, main=True, subnets=frozenset(), routes=(LOCAL, Route("10.9.0.0/16", "pcx-1"))), Way.NONE),
        (RouteTable("t", VPC, main=True, subnets=frozenset(), routes=(LOCAL, Route("::/0", "eigw-1"))), Way.NONE),
    ],
    ids=["internet gateway", "NAT", "transit gateway", "appliance", "black hole", "no route", "peering", "only IPv6"],
)
def test_the_route_to_anywhere_decides(found: RouteTable, way: Way) -> None:
    assert ways([subnet("a")], [found]) == {"a": way}


def test_a_subnet_s_own_table_comes_before_the_main_one() -> None:
    tables = [table("m", "igw-1", main=True), table("o", "nat-1", subnets=frozenset({"b"}))]
    assert ways([subnet("a"), subnet("b")], tables) == {"a": Way.PUBLIC, "b": Way.ROUTED}


def test_another_vpc_s_main_table_says_nothing() -> None:
    assert ways([Subnet("a", "vpc-2", "a")], [table("m", "igw-1", main=True)]) == {"a": Way.NONE}


def test_subnets_with_nat_are_preferred_and_get_no_public_address() -> None:
    found = {"a": Way.PUBLIC, "b": Way.ROUTED, "c": Way.NONE, "d": Way.ROUTED}
    assert choose([subnet(name) for name in found], found) == Network(VPC, ("b", "d"), public_ip=False)


def test_public_subnets_get_a_public_address() -> None:
    found = {"a": Way.PUBLIC, "b": Way.NONE, "c": Way.PUBLIC}
    assert choose([subnet(name) for name in found], found) == Network(VPC, ("a", "c"), public_ip=True)


def test_no_subnet_without_a_way_out_is_taken() -> None:
    assert choose([subnet("a")], {"a": Way.NONE}) is None
    assert choose([], {}) is None
    assert choose([subnet("a", outpost=True)], {"a": Way.PUBLIC}) is None


def test_a_service_takes_sixteen_subnets_at_most() -> None:
    many = [Subnet(f"s{number}", VPC, "a" if number < 18 else "b") for number in range(20)]
    network = choose(many, {each.id: Way.PUBLIC for each in many})
    assert network is not None
    assert len(network.subnets) == MOST_SUBNETS
    assert {"s18", "s19"} < set(network.subnets), "of all zones"
