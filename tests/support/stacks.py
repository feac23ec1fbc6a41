"""The template of a deployed worker, and what the tests do with its stack."""

from __future__ import annotations

import importlib.resources
from typing import TYPE_CHECKING, Any

from support.waiting import until

if TYPE_CHECKING:
    from support.embedded import Aws

TEMPLATE = (importlib.resources.files("ecs_worker.deploy") / "template.yaml").read_text(encoding="utf-8")
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/ecs-worker:1"


def parameters(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()]


async def least_parameters(aws: Aws, pool: str, api_url: str) -> dict[str, str]:
    """Those that have no default, in the default VPC."""
    (vpc,) = (await aws.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}]))["Vpcs"]
    inside = [{"Name": "vpc-id", "Values": [vpc["VpcId"]]}]
    subnets = (await aws.ec2.describe_subnets(Filters=inside))["Subnets"]
    return {
        "PoolName": pool,
        "Image": IMAGE,
        "PrefectApiUrl": api_url,
        "VpcId": vpc["VpcId"],
        "Subnets": ",".join(subnet["SubnetId"] for subnet in subnets[:2]),
    }


async def create(aws: Aws, stack: str, values: dict[str, str]) -> None:
    await aws.cloudformation.create_stack(TemplateBody=TEMPLATE, **_wanted(stack, values))


async def update(aws: Aws, stack: str, values: dict[str, str]) -> None:
    await aws.cloudformation.update_stack(UsePreviousTemplate=True, **_wanted(stack, values))


def _wanted(stack: str, values: dict[str, str]) -> dict[str, Any]:
    return {"StackName": stack, "Parameters": parameters(values), "Capabilities": ["CAPABILITY_IAM"]}


async def settles(aws: Aws, stack: str, status: str, seconds: float = 60) -> dict[str, Any]:
    """The stack, once its status is no passing one any more, which must be this."""

    async def look() -> dict[str, Any] | None:
        (seen,) = (await aws.cloudformation.describe_stacks(StackName=stack))["Stacks"]
        return None if seen["StackStatus"].endswith("IN_PROGRESS") else dict(seen)

    seen: dict[str, Any] = await until(look, seconds)
    assert seen["StackStatus"] == status, await story(aws, stack)
    return seen


async def story(aws: Aws, stack: str) -> str:
    """The stack's events, oldest first, as one reads them."""
    events = (await aws.cloudformation.describe_stack_events(StackName=stack))["StackEvents"]
    return "\n".join(
        " ".join([each["LogicalResourceId"], each["ResourceStatus"], each.get("ResourceStatusReason") or ""]).strip()
        for each in reversed(events)
    )


def outputs(stack: dict[str, Any]) -> dict[str, str]:
    return {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}
