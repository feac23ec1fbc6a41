"""Requests that several tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    import pytest

DEFINITION: dict[str, Any] = {
    "family": "flows",
    "networkMode": "awsvpc",
    "requiresCompatibilities": ["FARGATE"],
    "cpu": "256",
    "memory": "512",
    "executionRoleArn": "arn:aws:iam::123456789012:role/execution",
    "containerDefinitions": [
        {
            "name": "prefect",
            "image": "prefecthq/prefect:3",
            "logConfiguration": {
                "logDriver": "awslogs",
                "options": {"awslogs-group": "flows", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "run"},
            },
        }
    ],
}
NETWORK: dict[str, Any] = {"awsvpcConfiguration": {"subnets": ["subnet-0a"], "assignPublicIp": "ENABLED"}}


def run_task(**changes: Any) -> dict[str, Any]:
    request = {"taskDefinition": "flows", "launchType": "FARGATE", "networkConfiguration": NETWORK}
    return request | changes


async def error_of(call: Awaitable[Any]) -> dict[str, Any]:
    """The error answer of a call that must fail."""
    try:
        await call
    except ClientError as error:
        answer: dict[str, Any] = error.response
        return answer
    raise AssertionError("the call succeeded")


async def code_of(call: Awaitable[Any]) -> str:
    return str((await error_of(call))["Error"]["Code"])


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process's AWS clients go there."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "an-example")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
