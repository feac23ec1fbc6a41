"""What a role is allowed, held against what is needed."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecs_worker.iam.compare import Difference, Policy, covers, difference, overlaps
from ecs_worker.iam.policy import allow, document
from ecs_worker.iam.rights import ExecutionNeeds, WorkerNeeds, execution, worker
from support.policies import Request, allowed

ARN = "arn:aws:ecs:eu-west-1:123456789012:"
CLUSTER = f"{ARN}cluster/prod"
NEEDED = [allow("Stop", "ecs:StopTask", f"{ARN}task/prod/*", {"ArnEquals": {"ecs:cluster": [CLUSTER]}})]
RIGHT = f"ecs:StopTask on {ARN}task/prod/* ({CLUSTER})"


def differing(*statements: dict[str, Any], needed: Any = NEEDED, **more: Any) -> Difference:
    given_statements = [{"Effect": "Allow", **each} for each in statements]
    return difference([Policy("p", {"Statement": given_statements})], needed, **more)


def test_what_is_needed_differs_from_itself_in_nothing() -> None:
    arns = frozenset({f"{ARN}one", f"{ARN}other/*"})
    clusters = frozenset({CLUSTER, f"{ARN}cluster/dev"})
    sets: dict[str, Any] = {each.name: arns for each in fields(WorkerNeeds) if each.default == frozenset()}
    flags: dict[str, Any] = {each.name: True for each in fields(WorkerNeeds) if each.default is False}
    needs = WorkerNeeds(**{**sets, **flags, "clusters": clusters})
    for statements in (worker(needs), execution(ExecutionNeeds(*[arns] * 7))):
        assert difference([Policy("p", document(statements))], statements) == Difference()


@pytest.mark.parametrize(
    "statement",
    [
        {"Action": "ecs:StopTask", "Resource": "*"},
        {"Action": "ECS:stop*", "Resource": [f"{ARN}task/*"]},
        {"NotAction": "iam:*", "Resource": "*"},
        {"Action": "*", "NotResource": "arn:aws:s3:::*"},
        {"Action": "ecs:*", "Resource": f"{ARN}task/prod/*", "Condition": {"ArnLike": {"ECS:Cluster": f"{ARN}*"}}},
    ],
)
def test_wider_rights_lack_nothing_and_are_told(statement: dict[str, Any]) -> None:
    found = differing(statement)
    assert found.missing == found.unsure == ()
    assert len(found.more) == 1


@pytest.mark.parametrize(
    "statement",
    [
        {"Action": "ecs:RunTask", "Resource": "*"},
        {"Action": "ecs:StopTask", "Resource": f"{ARN}task/prod/0?"},
        {"Action": "ecs:StopTask", "Resource": f"{ARN}task/other/*"},
        {"NotAction": "ecs:Stop*", "Resource": "*"},
        {"Action": "*", "NotResource": f"{ARN}task/*"},
        {"Action": "ecs:StopTask", "Resource": "*", "Condition": {"StringEquals": {"ecs:cluster": f"{ARN}cluster/b"}}},
    ],
)
def test_other_rights_are_missing(statement: dict[str, Any]) -> None:
    assert differing(statement).missing == (RIGHT,)


def test_a_denial_wins_and_is_named() -> None:
    everything = {"Action": "*", "Resource": "*"}
    denied = differing(everything, {"Effect": "Deny", "Action": "ecs:*", "Resource": "*"})
    assert denied.missing == (f"{RIGHT}: denied by the policy p",)
    partly = differing(everything, {"Effect": "Deny", "Action": "ecs:*", "Resource": f"{ARN}task/prod/0*"})
    assert (partly.missing, partly.unsure) == (
        (),
        (f"{RIGHT}: the policy p denies a part of it, or denies it under conditions",),
    )
    condition = {"Bool": {"aws:MultiFactorAuthPresent": "false"}}
    maybe = differing(everything, {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition})
    assert "under conditions (Bool aws:MultiFactorAuthPresent)" in maybe.unsure[0]


def test_conditions_that_no_request_is_known_of_are_not_guessed() -> None:
    condition = {"StringEquals": {"aws:SourceVpc": "vpc-1"}}
    found = differing({"Action": "ecs:StopTask", "Resource": f"{ARN}task/prod/*", "Condition": condition})
    assert found.missing == ()
    assert found.unsure == (f"{RIGHT}: the policy p allows it only under conditions (StringEquals aws:SourceVpc)",)
    variable = {"ArnLike": {"ecs:cluster": "arn:aws:ecs:*:*:cluster/${aws:PrincipalTag/team}"}}
    assert differing({"Action": "ecs:StopTask", "Resource": "*", "Condition": variable}).unsure


def test_a_right_without_its_condition_is_more_than_needed() -> None:
    [line] = differing({"Action": "ecs:StopTask", "Resource": f"{ARN}task/prod/*"}).more
    assert line == f"ecs:StopTask on {ARN}task/prod/* without the condition ecs:cluster {CLUSTER}, in the policy p"


def test_a_condition_that_leaves_out_is_none_that_demands() -> None:
    others = {"ArnNotEquals": {"ecs:cluster": CLUSTER}}
    found = differing({"Action": "ecs:StopTask", "Resource": f"{ARN}task/prod/*", "Condition": others})
    assert found.unsure == (f"{RIGHT}: the policy p allows it only under conditions (ArnNotEquals ecs:cluster)",)
    assert f"without the condition ecs:cluster {CLUSTER}" in found.more[0]


def test_a_single_statement_needs_no_list_and_an_empty_policy_allows_nothing() -> None:
    one = {"Statement": {"Effect": "Allow", "Action": "ecs:StopTask", "Resource": "*"}}
    assert difference([Policy("p", one)], NEEDED).missing == ()
    assert difference([Policy("p", {})], NEEDED).missing == (RIGHT,)


def test_a_boundary_limits_what_policies_allow() -> None:
    limit = Policy("limit", {"Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]})
    found = differing({"Action": "ecs:StopTask", "Resource": "*"}, boundary=limit)
    assert found.missing == (f"{RIGHT}: outside of the permissions boundary limit",)


def test_only_actions_are_compared_where_resources_are_placeholders() -> None:
    found = differing({"Action": "ecs:StopTask", "Resource": "arn:of:mine"}, anywhere=True)
    assert found == Difference()


def test_a_cluster_of_one_region_has_no_tasks_of_another() -> None:
    clusters = frozenset({CLUSTER, CLUSTER.replace("eu-west-1", "us-east-1")})
    statements = worker(WorkerNeeds(clusters=clusters, runs=frozenset({f"{ARN}task-definition/f:*"})))
    [run] = [line for line in difference([], statements).missing if line.startswith("ecs:RunTask")]
    assert run == f"ecs:RunTask on {ARN}task-definition/f:* ({CLUSTER})"


_PATTERNS = st.text("ab*?", max_size=6)
_TEXTS = st.text("ab", max_size=6)


@given(_PATTERNS, _PATTERNS, _TEXTS)
def test_patterns_are_compared_as_iam_reads_them(one: str, other: str, text: str) -> None:
    def fits(pattern: str) -> bool:
        return allowed(
            [{"Statement": [{"Effect": "Allow", "Action": "a:b", "Resource": pattern}]}], Request("a:b", text)
        )

    if covers(one, other) and fits(other):
        assert fits(one)
    if fits(one) and fits(other):
        assert overlaps(one, other)


@pytest.mark.parametrize(
    ("one", "other", "meet"), [("a*", "*b", True), ("a*c", "a?b", False), ("", "*", True), ("a", "", False)]
)
def test_patterns_meet_where_some_text_fits_both(one: str, other: str, meet: bool) -> None:
    assert overlaps(one, other) is overlaps(other, one) is meet
