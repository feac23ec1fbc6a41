"""Amazon EC2: the network that a Fargate task gets when the user names none."""

from __future__ import annotations

from ecs_worker.aws.service import Service


class Ec2(Service):
    """EC2 in one account and Region."""

    name = "ec2"

    async def default_vpc(self) -> str | None:
        """The id of the Region's default VPC, if it has one."""
        answer = await self._call("DescribeVpcs", Filters=[{"Name": "is-default", "Values": ["true"]}])
        return next((str(vpc["VpcId"]) for vpc in answer.get("Vpcs", ())), None)

    async def subnets(self, vpc_id: str) -> list[str]:
        """The ids of all the VPC's subnets. `vpc_id` must exist."""
        ids: list[str] = []
        token: str | None = None
        while True:
            answer = await self._call(
                "DescribeSubnets", Filters=[{"Name": "vpc-id", "Values": [vpc_id]}], NextToken=token
            )
            ids += [subnet["SubnetId"] for subnet in answer.get("Subnets", ())]
            token = answer.get("NextToken")
            if not token:
                return ids
