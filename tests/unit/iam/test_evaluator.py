"""The evaluator that the policies are tried with says what IAM would."""

from __future__ import annotations

from typing import Any

import pytest

from support.policies import Request, allowed

CALL = Request("ecs:StopTask", "arn:t/a/1", {"ecs:cluster": "arn:c/a"})


def policy(**fields: Any) -> dict[str, Any]:
    return {"Statement": [{"Effect": "Allow", "Action": "ecs:StopTask", "Resource": "arn:t/a/*", **fields}]}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"Action": ["ecs:RunTask", "ECS:stop*"]},
        {"Resource": ["arn:t/a/?"]},
        {"Condition": {"ArnEquals": {"ecs:cluster": ["arn:c/b", "arn:c/*"]}}},
        {"Condition": {"StringLikeIfExists": {"aws:SourceVpc": "vpc-1"}}},
        {"Condition": {"StringNotEquals": {"ecs:cluster": "arn:c/b"}}},
    ],
)
def test_it_allows(fields: dict[str, Any]) -> None:
    assert allowed([policy(**fields)], CALL)


@pytest.mark.parametrize(
    "fields",
    [
        {"Action": "ecs:StopTasks"},
        {"Resource": "arn:t/a/[0-9]"},  # only * and ? are special
        {"Resource": "ARN:T/a/*"},
        {"Condition": {"StringEquals": {"ecs:cluster": "arn:c/*"}}},
        {"Condition": {"ArnEquals": {"ecs:cluster": "arn:c/b"}}},
        {"Condition": {"ArnEquals": {"ecs:cluster": "arn:c/a", "ecs:service": "s"}}},
        {"Effect": "Deny"},
    ],
)
def test_it_denies(fields: dict[str, Any]) -> None:
    assert not allowed([policy(**fields)], CALL)


def test_a_denial_wins() -> None:
    assert not allowed([policy(), policy(Effect="Deny", Resource="*")], CALL)
    assert not allowed([], CALL)
