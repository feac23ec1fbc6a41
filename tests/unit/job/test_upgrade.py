"""The three-way merge of `ecs-worker pool update`."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from ecs_worker.job.template import placeholders
from ecs_worker.job.upgrade import known_leaves, upgraded
from ecs_worker.job.variables import default_base_job_template
from support.paths import STORED_TEMPLATES, TOP

OURS = default_base_job_template()
THEIRS = {
    "0.4": json.loads((STORED_TEMPLATES / "prefect_aws_0_4_template.json").read_text("utf-8")),
    "0.7": json.loads((STORED_TEMPLATES / "prefect_aws_0_7_template.json").read_text("utf-8")),
}
STARTS = {**THEIRS, "ours": OURS}


@pytest.fixture(params=STARTS)
def template(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = copy.deepcopy(STARTS[request.param])
    return found


def test_a_template_that_nobody_has_changed_becomes_ours(template: dict[str, Any]) -> None:
    assert upgraded(template) == OURS
    assert upgraded({}) == OURS


def test_arguments_are_not_changed(template: dict[str, Any]) -> None:
    before = copy.deepcopy(template)
    changed = upgraded(template)
    changed["variables"]["properties"]["env"]["default"] = {"A": "1"}
    assert template == before
    assert default_base_job_template() == OURS


def test_edits_stay(template: dict[str, Any]) -> None:
    properties, configuration = template["variables"]["properties"], template["job_configuration"]
    properties["cpu"]["default"] = 512
    properties["env"]["default"] = {"A": "1"}
    properties["image"]["description"] = "Ask the platform team."
    properties["mine"] = {"type": "string", "default": "x"}
    properties["aws_credentials"]["default"] = {"$ref": {"block_document_id": "1"}}
    configuration["task_definition"]["networkMode"] = "bridge"
    configuration["task_definition"]["containerDefinitions"].append({"name": "side", "image": "s"})
    configuration["env"] = {"TEAM": "{{ mine }}"}
    new = upgraded(template)
    assert new["variables"]["properties"]["cpu"] == OURS["variables"]["properties"]["cpu"] | {"default": 512}
    assert new["variables"]["properties"]["env"]["default"] == {"A": "1"}
    assert new["variables"]["properties"]["image"]["description"] == "Ask the platform team."
    assert new["variables"]["properties"]["mine"] == {"type": "string", "default": "x"}
    assert new["variables"]["properties"]["aws_credentials"]["default"] == {"$ref": {"block_document_id": "1"}}
    assert new["job_configuration"]["task_definition"]["networkMode"] == "bridge"
    assert new["job_configuration"]["task_definition"]["containerDefinitions"][1]["name"] == "side"
    assert new["job_configuration"]["env"] == {"TEAM": "{{ mine }}"}
    assert new["variables"]["properties"]["subnets"] == OURS["variables"]["properties"]["subnets"]
    assert upgraded(new) == new, "once is enough"


def test_what_was_taken_out_stays_out(template: dict[str, Any]) -> None:
    for name in ("task_role_arn", "aws_credentials"):
        del template["variables"]["properties"][name]
    del template["variables"]["definitions"]["AwsCredentials"]
    del template["job_configuration"]["task_run_request"]["overrides"]["taskRoleArn"]
    del template["job_configuration"]["aws_credentials"]
    new = upgraded(template)
    text = json.dumps(new)
    assert "task_role_arn" not in text
    assert "aws_credentials" not in text
    assert "AwsCredentials" not in text
    assert placeholders(new["job_configuration"]) <= new["variables"]["properties"].keys()


def test_no_reference_is_left_without_its_definition(template: dict[str, Any]) -> None:
    template["variables"]["definitions"]["Mine"] = {"type": "string"}
    template["variables"]["properties"]["mine"] = {"$ref": "#/definitions/Mine"}
    new = upgraded(template)
    assert new["variables"]["definitions"]["Mine"] == {"type": "string"}
    if template is not OURS:
        template["variables"]["definitions"].pop("CapacityProvider")
    assert "CapacityProvider" in upgraded(template)["variables"]["definitions"]


def test_a_plain_value_in_place_of_a_dict_stays(template: dict[str, Any]) -> None:
    template["job_configuration"]["task_run_request"]["overrides"] = "{{ overrides }}"
    template["variables"]["properties"]["overrides"] = {"type": "object"}
    assert upgraded(template)["job_configuration"]["task_run_request"]["overrides"] == "{{ overrides }}"


def test_the_digests_are_those_of_the_templates() -> None:
    stored = json.loads((TOP / "src/ecs_worker/job/known_templates.json").read_text("utf-8"))
    versions = stored.pop("")
    for version, template in THEIRS.items():
        number = versions.index(f"prefect-aws {version}")
        made = known_leaves({version: template})
        made.pop("")
        assert {path: [values[number]] for path, values in stored.items() if values[number]} == made
