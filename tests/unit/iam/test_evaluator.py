"""The evaluator says what IAM would."""

from __future__ import annotations

from typing import Any

import pytest

from ecs_worker.iam.evaluate import Decision, Request, allowed, decide, trusts

CALL = Request("ecs:StopTask", "arn:t/a/1", {"ecs:cluster": "arn:c/a"})


def policy(**fields: Any) -> dict[str, Any]:
    known = {"Effect": "Allow", "Action": "ecs:StopTask", "Resource": "arn:t/a/*", **fields}
    return {"Statement": {name: value for name, value in known.items() if value is not None}}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"Action": ["ecs:RunTask", "ECS:stop*"]},
        {"Resource": ["arn:t/a/?"]},
        {"Condition": {"ArnEquals": {"ecs:cluster": ["arn:c/b", "arn:c/*"]}}},
        {"Condition": {"StringLikeIfExists": {"aws:SourceVpc": "vpc-1"}}},
        {"Condition": {"StringNotEquals": {"ecs:cluster": "arn:c/b"}}},
        {"Condition": {"StringNotLike": {"ecs:service": "arn:*"}}},  # which the request doesn't have
        {"Condition": {"Null": {"ecs:service": "true"}}},
        {"Condition": {"ForAllValues:StringEquals": {"aws:TagKeys": ["team"]}}},
        {"Condition": {"ArnLike": {"ECS:Cluster": "arn:c/?"}}},
        {"Action": None, "NotAction": "iam:*"},
        {"Resource": None, "NotResource": ["arn:t/b/*"]},
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
        {"Condition": {"StringNotLike": {"ecs:cluster": "arn:*"}}},
        {"Condition": {"Null": {"ecs:cluster": "true"}}},
        {"Condition": {"ForAnyValue:StringEquals": {"aws:TagKeys": ["team"]}}},
        {"Condition": {"Bool": {"aws:SecureTransport": "true"}}},
        {"Action": None, "NotAction": "ecs:Stop*"},
        {"Resource": None, "NotResource": "arn:t/*"},
        {"Effect": "Deny"},
    ],
)
def test_it_denies(fields: dict[str, Any]) -> None:
    assert not allowed([policy(**fields)], CALL)


def test_a_denial_wins() -> None:
    assert not allowed([policy(), policy(Effect="Deny", Resource="*")], CALL)
    assert not allowed([], CALL)


def test_it_tells_why_not() -> None:
    assert decide([policy()], CALL) is Decision.ALLOWED
    assert decide([policy(Action="ecs:RunTask")], CALL) is Decision.IMPLICIT_DENY
    assert decide([policy(), policy(Effect="Deny")], CALL) is Decision.EXPLICIT_DENY


def test_a_boundary_limits_what_policies_allow() -> None:
    assert decide([policy()], CALL, policy(Resource="*")) is Decision.ALLOWED
    assert decide([policy()], CALL, policy(Action="ecs:RunTask")) is Decision.IMPLICIT_DENY
    assert decide([policy()], CALL, policy(Effect="Deny")) is Decision.EXPLICIT_DENY
    assert decide([], CALL, policy()) is Decision.IMPLICIT_DENY


def test_what_it_does_not_know_it_does_not_guess() -> None:
    with pytest.raises(NotImplementedError, match="IpAddress"):
        allowed([policy(Condition={"IpAddress": {"ecs:cluster": "10.0.0.0/8"}})], CALL)


@pytest.mark.parametrize(
    ("fields", "trusted"),
    [
        ({}, True),
        ({"Principal": {"Service": ["ec2.amazonaws.com", "ecs-tasks.amazonaws.com"]}}, True),
        ({"Condition": {"StringEquals": {"aws:SourceAccount": "1"}}}, True),
        ({"Condition": {"StringEquals": {"aws:SourceAccount": "2"}}}, False),
        ({"Principal": {"Service": "ecs.amazonaws.com"}}, False),
        ({"Principal": {"AWS": "*"}}, False),
        ({"Action": "sts:TagSession"}, False),
        ({"Effect": "Deny"}, False),
    ],
)
def test_it_tells_whom_a_role_trusts(fields: dict[str, Any], trusted: bool) -> None:
    service = "ecs-tasks.amazonaws.com"
    statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole", **fields}
    assert trusts({"Statement": [statement]}, service, {"aws:SourceAccount": "1"}) is trusted
