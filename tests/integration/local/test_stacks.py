"""Change sets of the embedded AWS, and the network that each account has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from support.embedded import fresh
from support.stacks import parameters

if TYPE_CHECKING:
    from support.embedded import Aws

pytestmark = pytest.mark.anyio
TEMPLATE = json.dumps(
    {
        "Parameters": {
            "Days": {"Type": "Number", "Default": 7},
            "Names": {"Type": "List<AWS::EC2::Subnet::Id>"},
        },
        "Resources": {"Log": {"Type": "AWS::Logs::LogGroup", "Properties": {"RetentionInDays": {"Ref": "Days"}}}},
    }
)


async def proposed(aws: Aws, stack: str, kind: str, values: dict[str, str], template: str = TEMPLATE) -> dict[str, Any]:
    made = await aws.cloudformation.create_change_set(
        StackName=stack,
        ChangeSetName=fresh("set"),
        ChangeSetType=kind,
        TemplateBody=template,
        Parameters=parameters(values),
    )
    return dict(await aws.cloudformation.describe_change_set(ChangeSetName=made["Id"]))


async def given(aws: Aws, stack: str) -> dict[str, str]:
    (found,) = (await aws.cloudformation.describe_stacks(StackName=stack))["Stacks"]
    return {each["ParameterKey"]: each["ParameterValue"] for each in found["Parameters"]}


async def test_what_is_only_proposed_changes_nothing(aws: Aws) -> None:
    stack = fresh("stack")
    values = {"Names": "subnet-1,subnet-2"}
    await proposed(aws, stack, "CREATE", values)
    again = await proposed(aws, stack, "CREATE", values)
    assert [each["ResourceChange"]["Action"] for each in again["Changes"]] == ["Add"]
    (found,) = (await aws.cloudformation.describe_stacks(StackName=stack))["Stacks"]
    assert found["StackStatus"] == "REVIEW_IN_PROGRESS"
    await aws.cloudformation.execute_change_set(ChangeSetName=again["ChangeSetId"])
    assert await given(aws, stack) == {"Days": "7", "Names": "subnet-1,subnet-2"}

    changed = await proposed(aws, stack, "UPDATE", values | {"Days": "14"})
    assert [each["ResourceChange"]["Action"] for each in changed["Changes"]] == ["Modify"]
    assert await given(aws, stack) == {"Days": "7", "Names": "subnet-1,subnet-2"}
    other_words = json.dumps(json.loads(TEMPLATE) | {"Description": "The same in other words"})
    same = await proposed(aws, stack, "UPDATE", values, other_words)
    assert same["Status"] == "FAILED"
    assert "didn't contain changes" in same["StatusReason"]
    with pytest.raises(aws.cloudformation.exceptions.ClientError, match="already exists"):
        await proposed(aws, stack, "CREATE", values)
    await aws.cloudformation.delete_stack(StackName=stack)


async def test_the_default_vpc_has_a_way_to_the_internet(aws: Aws) -> None:
    (vpc,) = (await aws.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}]))["Vpcs"]
    filters = [{"Name": "vpc-id", "Values": [vpc["VpcId"]]}, {"Name": "association.main", "Values": ["true"]}]
    (table,) = (await aws.ec2.describe_route_tables(Filters=filters))["RouteTables"]
    targets = {route["DestinationCidrBlock"]: route.get("GatewayId", "") for route in table["Routes"]}
    assert targets[vpc["CidrBlock"]] == "local"
    assert targets["0.0.0.0/0"].startswith("igw-")
