"""The pool's defaults that a stack fills, and takes away with it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from ecs_worker.deploy.pool import Facts, Filling, default, emptyings, filled, fillings
from ecs_worker.job.variables import default_base_job_template
from support.paths import TESTS

OUTPUTS = {
    "ClusterArn": "arn:aws:ecs:us-east-1:123456789012:cluster/one",
    "ExecutionRoleArn": "arn:aws:iam::123456789012:role/starts",
    "RunTaskRoleArn": "arn:aws:iam::123456789012:role/runs",
    "VpcId": "vpc-1",
    "SubnetIds": "subnet-1,subnet-2",
    "PrefectApiKeySecretArn": "arn:aws:secretsmanager:us-east-1:123456789012:secret:key-AbCdEf",
}
PUBLIC = Facts(OUTPUTS, public_ip=True)
"""What a stack gives whose worker is in public subnets."""


def with_default(template: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    changed = copy.deepcopy(template)
    for name, value in defaults.items():
        changed["variables"]["properties"][name]["default"] = value
    return changed


def as_dict(changes: list[Filling]) -> dict[str, Any]:
    return {change.variable: change.value for change in changes}


OURS = default_base_job_template()
ALL = {
    "cluster": OUTPUTS["ClusterArn"],
    "execution_role_arn": OUTPUTS["ExecutionRoleArn"],
    "task_role_arn": OUTPUTS["RunTaskRoleArn"],
    "prefect_api_key_secret_arn": OUTPUTS["PrefectApiKeySecretArn"],
    "subnets": ["subnet-1", "subnet-2"],
    "assign_public_ip": True,
}


@pytest.mark.parametrize("template", [OURS, {}], ids=["our template", "a pool without one"])
def test_all_empty_defaults_are_filled(template: dict[str, Any]) -> None:
    changes = fillings(template, PUBLIC, None)
    assert as_dict(changes) == ALL
    new = filled(template, changes)
    assert {name: default(new, name) for name in ALL} == ALL
    assert fillings(new, PUBLIC, PUBLIC) == []


def test_in_subnets_with_nat_no_public_address_is_asked_for() -> None:
    assert "assign_public_ip" not in as_dict(fillings(OURS, Facts(OUTPUTS, public_ip=False), None))


def test_what_somebody_has_set_stays() -> None:
    own = with_default(OURS, cluster="theirs", execution_role_arn="arn:aws:iam::1:role/theirs")
    assert as_dict(fillings(own, PUBLIC, None)).keys() == ALL.keys() - {"cluster", "execution_role_arn"}


@pytest.mark.parametrize(
    "network",
    [
        {"vpc_id": "vpc-9"},
        {"network_configuration": {"subnets": ["subnet-9"]}},
        {"assign_public_ip": False},
        {"inherit_network": True},
    ],
    ids=lambda value: next(iter(value)),
)
def test_who_has_set_a_part_of_the_network_has_decided_for_all(network: dict[str, Any]) -> None:
    changes = as_dict(fillings(with_default(OURS, **network), PUBLIC, None))
    assert not {"subnets", "assign_public_ip", "vpc_id", "network_configuration"} & changes.keys()


def test_a_default_that_was_the_stack_s_own_follows_it() -> None:
    old = filled(OURS, fillings(OURS, PUBLIC, None))
    own = with_default(old, cluster="theirs")
    moved = Facts({**OUTPUTS, "ClusterArn": "another", "SubnetIds": "subnet-3"}, public_ip=False)
    assert as_dict(fillings(own, moved, PUBLIC)) == {"subnets": ["subnet-3"], "assign_public_ip": None}


def test_with_the_stack_its_own_defaults_go_and_others_stay() -> None:
    full = with_default(filled(OURS, fillings(OURS, PUBLIC, None)), cluster="theirs")
    gone = emptyings(full, PUBLIC)
    assert {change.variable for change in gone} == ALL.keys() - {"cluster"}
    assert filled(full, gone) == with_default(OURS, cluster="theirs")
    assert emptyings({}, PUBLIC) == []


def test_what_another_stack_of_the_pool_gives_too_stays() -> None:
    full = filled(OURS, fillings(OURS, PUBLIC, None))
    beside = Facts({**OUTPUTS, "ExecutionRoleArn": "another", "RunTaskRoleArn": "another"}, public_ip=True)
    assert {change.variable for change in emptyings(full, PUBLIC, [beside])} == {"execution_role_arn", "task_role_arn"}


def test_in_prefect_aws_s_template_the_network_goes_where_its_worker_reads_it() -> None:
    """Its template has no variable `subnets`; a default within the schema of network_configuration renders nothing."""
    theirs = json.loads((TESTS / "unit" / "job" / "prefect_aws_0_7_template.json").read_text(encoding="utf-8"))
    changes = as_dict(fillings(theirs, PUBLIC, None))
    assert changes["network_configuration"] == {"subnets": ["subnet-1", "subnet-2"], "assignPublicIp": "ENABLED"}
    assert changes["vpc_id"] == "vpc-1"
    assert not {"subnets", "assign_public_ip"} & changes.keys()
    new = filled(theirs, fillings(theirs, PUBLIC, None))
    assert new["variables"]["properties"]["network_configuration"]["default"]["subnets"] == ["subnet-1", "subnet-2"]


def test_a_variable_that_the_template_puts_nowhere_is_left_alone() -> None:
    without = copy.deepcopy(OURS)
    del without["variables"]["properties"]["task_role_arn"]
    unplaced = copy.deepcopy(OURS)
    del unplaced["job_configuration"]["subnets"], unplaced["job_configuration"]["network_configuration"]
    assert "task_role_arn" not in as_dict(fillings(without, PUBLIC, None))
    assert not {"subnets", "network_configuration"} & as_dict(fillings(unplaced, PUBLIC, None)).keys()
