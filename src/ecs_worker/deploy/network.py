"""Which subnets a worker can live in: judged by where their routes lead, not by what they are called."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ecs_worker.aws.ec2 import EVERYWHERE, table_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ecs_worker.aws.ec2 import RouteTable, Subnet

MOST_SUBNETS = 16  # of a service; AwsVpcConfiguration of the ECS API reference


class Way(StrEnum):
    """How a subnet's tasks reach the internet."""

    PUBLIC = "public"  # by an internet gateway: with a public address only
    ROUTED = "routed"  # by NAT, a transit gateway or an appliance
    NONE = "none"  # not at all; endpoints may do


@dataclass(frozen=True, slots=True)
class Network:
    """Where a worker is to live."""

    vpc_id: str
    subnets: tuple[str, ...]
    public_ip: bool


def ways(subnets: Iterable[Subnet], tables: Sequence[RouteTable]) -> dict[str, Way]:
    """Each subnet's way out, by its route table."""
    return {subnet.id: _way(table_of(subnet.id, subnet.vpc_id, tables)) for subnet in subnets}


def _way(table: RouteTable | None) -> Way:
    for route in table.routes if table else ():
        if route.destination == EVERYWHERE and route.active:
            return Way.PUBLIC if route.target.startswith("igw-") else Way.ROUTED
    return Way.NONE


def choose(subnets: Sequence[Subnet], found: Mapping[str, Way]) -> Network | None:
    """The VPC's subnets for a worker: those with NAT, whose tasks nobody can reach, else the public ones.

    None: no subnet has a way out. There is no Fargate on an outpost.
    """
    for way in (Way.ROUTED, Way.PUBLIC):
        fit = [subnet for subnet in subnets if found[subnet.id] is way and not subnet.outpost]
        if fit:
            ids = tuple(sorted(subnet.id for subnet in _spread(fit)[:MOST_SUBNETS]))
            return Network(fit[0].vpc_id, ids, public_ip=way is Way.PUBLIC)
    return None


def _spread(subnets: Sequence[Subnet]) -> list[Subnet]:
    """The first subnet of each zone, then the second of each …: if not all are taken, those that are lie apart."""
    seen: Counter[str] = Counter()
    ranks = []
    for subnet in subnets:
        ranks.append(seen[subnet.zone])
        seen[subnet.zone] += 1
    return [subnet for _, subnet in sorted(zip(ranks, subnets, strict=True), key=lambda pair: pair[0])]
