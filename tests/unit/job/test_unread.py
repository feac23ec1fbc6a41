"""What jobs and pools say that nobody reads."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from ecs_worker.job.unread import unknown_variables, unread_in_template
from ecs_worker.job.variables import JobVariables, default_base_job_template
from support.paths import STORED_TEMPLATES

OURS = default_base_job_template()
STORED = {
    path.stem: json.loads(path.read_text("utf-8")) for path in sorted(STORED_TEMPLATES.glob("prefect_aws_*.json"))
}


@pytest.mark.parametrize("template", [OURS, *STORED.values()], ids=["ours", *STORED])
def test_default_templates_say_nothing_in_vain(template: dict[str, Any]) -> None:
    assert list(unread_in_template(template)) == []
    assert unknown_variables(template, dict.fromkeys(template["variables"]["properties"]), {"env.A": "1"}, "p") == []


def test_ours_knows_all_variables() -> None:
    assert unknown_variables(OURS, {}, dict.fromkeys(JobVariables.model_fields, 1), "p") == []


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("memroy", "memory"),
        ("CPU", "cpu"),
        ("taskRoleArn", "task_role_arn"),
        ("security-groups", "security_groups"),
        ("execution_role", "execution_role_arn"),
        ("enviroment_files", "environment_files"),
    ],
)
def test_the_nearest_name_is_told(said: str, meant: str) -> None:
    expected = (
        f"The job variable {said!r} (from the deployment's job variables) has no effect: the work pool p doesn't know "
        f"it. Did you mean {meant!r}?"
    )
    assert unknown_variables(OURS, {said: 1}, {}, "p") == [expected]


def test_a_variable_of_ours_that_the_pool_lacks_can_be_had() -> None:
    older = STORED["prefect_aws_0_7_template"]
    lacking, misspelt = unknown_variables(older, {"subnets": []}, {"subnet": []}, "p")
    assert lacking.endswith("the work pool p doesn't know it; `ecs-worker pool update p` adds it.")
    assert "(from the flow run's job variables)" in misspelt
    assert misspelt.endswith("Did you mean 'subnets'? `ecs-worker pool update p` adds that.")


def test_what_the_pool_declares_or_asks_for_is_known_to_it() -> None:
    template = copy.deepcopy(OURS)
    template["variables"]["properties"]["memroy"] = {"type": "string"}
    template["job_configuration"]["env"] = {"A": "{{ mine.a }}"}
    assert unknown_variables(template, {"memroy": 1, "mine": {}}, {"mine.a": 1, "env": {}}, "p") == []


def test_a_name_that_is_like_none_is_told_without_a_guess() -> None:
    (sentence,) = unknown_variables(OURS, {"x" * 500: "hunter2"}, {}, "p")
    assert sentence.endswith("; correct its name, or declare it in the pool's base job template.")
    assert len(sentence) < 300
    assert "hunter2" not in sentence


def test_many_are_told_in_few_words() -> None:
    found = unknown_variables(OURS, {f"theirs{number}": 1 for number in range(30)}, {}, "p")
    assert len(found) == 11
    assert found[-1] == "20 more job variables have no effect either."


@pytest.mark.parametrize(
    "template", [{}, {"variables": None, "job_configuration": []}, {"variables": {"properties": 1}}]
)
def test_malformed_templates_are_told_elsewhere(template: dict[str, Any]) -> None:
    assert list(unread_in_template(template)) == []
    assert len(unknown_variables(template, {"cpu": 1}, {}, "p")) == 1


def test_what_a_template_says_in_vain() -> None:
    template = copy.deepcopy(OURS)
    template["job_configuration"] |= {"vpcid": "{{ vpc_id }}", "cpu": "{{ cpu }}", "team": "data"}
    template["variables"]["properties"] |= {"memroy": {}, "colour": {}}
    assert list(unread_in_template(template)) == [
        "its job_configuration has 'vpcid', which nobody reads. Did you mean 'vpc_id'?",
        "its job_configuration has 'cpu', which is only read at task_definition.cpu; move it there.",
        "its job_configuration has 'team', which nobody reads; remove it.",
        "it declares the variable 'colour', which its job_configuration doesn't ask for: it has no effect.",
        "it declares the variable 'memroy', which its job_configuration doesn't ask for. Did you mean 'memory'?",
    ]
