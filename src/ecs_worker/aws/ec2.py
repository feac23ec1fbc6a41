"""Amazon EC2: the network for tasks whose job names none."""

from __future__ import annotations

from dataclasses import dataclass

from ecs_worker.aws.errors import usable
from ecs_worker.aws.service import Service


@dataclass(frozen=True, slots=True)
class Interface:
    """Where a network interface is. `public`: it has a public address."""

    subnet: str
    security_groups: tuple[str, ...]
    public: bool


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
