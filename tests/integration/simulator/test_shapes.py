from __future__ import annotations

from typing import Any

import pytest

from support.simulator.aws import REGION, AwsSimulator, Site
from support.simulator.shapes import input_problems, model, output_problems, xml_answer

TASK: dict[str, Any] = {"taskArn": "arn:x", "version": 1, "createdAt": 1.5, "containers": [{"exitCode": 0}]}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, None),
        ({"stopCode": "InfrastructureHealth"}, None),  # AWS adds stop codes
        ({"taskArn": 1}, "type"),
        ({"taskArn": None}, "type"),
        ({"version": "1"}, "type"),
        ({"version": True}, "type"),
        ({"createdAt": "2025-01-01T00:00:00Z"}, "type"),
        ({"containers": {}}, "type"),
        ({"containers": [{"exitCode": "0"}]}, "type"),
        ({"launchType": "MOON"}, "enum"),
        ({"exitCode": 0}, "unknown"),
    ],
)
def test_answers_that_leave_the_model_are_found(changes: dict[str, Any], kind: str | None) -> None:
    found = output_problems("ecs", "DescribeTasks", {"tasks": [TASK | changes], "failures": []})
    assert [problem.kind for problem in found] == ([kind] if kind else [])


def test_requests_are_checked_too() -> None:
    assert [p.kind for p in input_problems("ecs", "RunTask", {"count": "1"})] == ["missing", "type"]
    assert input_problems("ecs", "RunTask", {"taskDefinition": "flows"}) == []
    nested = {"taskDefinition": "f", "networkConfiguration": {"awsvpcConfiguration": {}}}
    assert [p.text for p in input_problems("ecs", "RunTask", nested)] == [
        "networkConfiguration.awsvpcConfiguration.subnets is required"
    ]


def test_xml_follows_the_models_names() -> None:
    xml = xml_answer("ec2", "DescribeVpcs", {"Vpcs": [{"VpcId": "vpc-<1>", "IsDefault": True}]})
    assert xml == (
        "<DescribeVpcsResponse><vpcSet><item><isDefault>true</isDefault><vpcId>vpc-&lt;1&gt;</vpcId></item></vpcSet>"
        "<requestId>simulated</requestId></DescribeVpcsResponse>"
    )


@pytest.mark.anyio
async def test_every_simulated_action_is_one_of_awss() -> None:
    site = AwsSimulator().site(REGION)
    assert isinstance(site, Site)
    for name, service in site.services.items():
        assert set(service.actions) <= set(model(name).operation_names)
