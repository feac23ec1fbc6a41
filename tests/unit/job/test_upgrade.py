"""The three-way merge of `ecs-worker pool update`."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ecs_worker.errors import JobInvalid
from ecs_worker.job.template import placeholders
from ecs_worker.job.upgrade import known_templates, upgraded, with_template
from ecs_worker.job.variables import default_base_job_template
from support.jobs import ROLE, build, load
from support.paths import STORED_TEMPLATES

OURS = default_base_job_template()
THEIRS = {
    version: json.loads((STORED_TEMPLATES / f"prefect_aws_{version[0]}_{version[2]}_template.json").read_text("utf-8"))
    for version in ("0.4", "0.5.7", "0.7")
}
STARTS = {**THEIRS, "ours": OURS}
# What prefect-aws's templates say of when a start is given up, and ours doesn't.
TIMES = {"task_start_timeout_seconds": 300, "task_watch_poll_interval": 5.0}


@pytest.fixture(params=STARTS)
def template(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = copy.deepcopy(STARTS[request.param])
    return found


@pytest.mark.parametrize("version", STARTS)
def test_a_template_that_nobody_has_changed_becomes_ours_but_for_its_defaults(version: str) -> None:
    expected = copy.deepcopy(OURS)
    if version in {"0.4", "0.5.7"}:
        for name, seconds in TIMES.items():
            expected["variables"]["properties"][name]["default"] = seconds
    assert upgraded(STARTS[version]).template == expected
    assert upgraded(STARTS[version]).own == upgraded(STARTS[version]).taken_out == ()


def test_a_pool_without_a_template_gets_ours() -> None:
    assert upgraded({}).template == OURS


def test_arguments_are_not_changed(template: dict[str, Any]) -> None:
    before = copy.deepcopy(template)
    changed = upgraded(template).template
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
    new = upgraded(template).template
    assert new["variables"]["properties"]["cpu"] == OURS["variables"]["properties"]["cpu"] | {"default": 512}
    assert new["variables"]["properties"]["env"]["default"] == {"A": "1"}
    assert new["variables"]["properties"]["image"]["description"] == "Ask the platform team."
    assert new["variables"]["properties"]["mine"] == {"type": "string", "default": "x"}
    assert new["variables"]["properties"]["aws_credentials"]["default"] == {"$ref": {"block_document_id": "1"}}
    assert new["job_configuration"]["task_definition"]["networkMode"] == "bridge"
    assert new["job_configuration"]["task_definition"]["containerDefinitions"][1]["name"] == "side"
    assert new["job_configuration"]["env"] == {"TEAM": "{{ mine }}"}
    assert new["variables"]["properties"]["subnets"] == OURS["variables"]["properties"]["subnets"]
    assert upgraded(new).template == new, "once is enough"


def test_what_was_taken_out_stays_out_unless_it_is_asked_for(template: dict[str, Any]) -> None:
    before = upgraded(template).template
    for name in ("task_role_arn", "aws_credentials"):
        del template["variables"]["properties"][name]
    del template["variables"]["definitions"]["AwsCredentials"]
    del template["job_configuration"]["task_run_request"]["overrides"]["taskRoleArn"]
    del template["job_configuration"]["aws_credentials"]
    found = upgraded(template)
    text = json.dumps(found.template)
    assert "task_role_arn" not in text
    assert "aws_credentials" not in text
    assert "AwsCredentials" not in text
    assert placeholders(found.template["job_configuration"]) <= found.template["variables"]["properties"].keys()
    assert found.taken_out == ("aws_credentials", "task_role_arn")

    restored = upgraded(template, restore=True)
    assert restored.taken_out == ()
    assert restored.template == before


def test_no_reference_is_left_without_its_definition(template: dict[str, Any]) -> None:
    template["variables"]["definitions"]["Mine"] = {"type": "string"}
    template["variables"]["properties"]["mine"] = {"$ref": "#/definitions/Mine"}
    new = upgraded(template).template
    assert new["variables"]["definitions"]["Mine"] == {"type": "string"}
    if template is not OURS:
        template["variables"]["definitions"].pop("CapacityProvider")
    assert "CapacityProvider" in upgraded(template).template["variables"]["definitions"]


def test_a_plain_value_in_place_of_a_dict_stays(template: dict[str, Any]) -> None:
    template["job_configuration"]["task_run_request"]["overrides"] = "{{ overrides }}"
    template["variables"]["properties"]["overrides"] = {"type": "object"}
    assert upgraded(template).template["job_configuration"]["task_run_request"]["overrides"] == "{{ overrides }}"


def test_a_variable_of_the_pool_s_own_keeps_its_meaning_whatever_its_name() -> None:
    """As pools of prefect-aws's have them: our variables of these names did not exist."""
    template = copy.deepcopy(THEIRS["0.7"])
    own: dict[str, Any] = {
        "group": {"type": "string", "default": "team-a"},
        "task_definition": {"type": "object"},
        "secrets": {"type": "array"},
        "subnets": {"type": "string", "title": "Subnets"},
    }
    template["variables"]["properties"] |= own
    template["job_configuration"]["env"] = {"GROUP": "{{ group }}", "SECRETS": "{{ secrets }}"}
    template["job_configuration"]["task_run_request"]["tags"] = {"team": "{{ group }}"}
    template["job_configuration"]["secrets"] = {"DB": "arn:db"}
    template["job_configuration"]["network_configuration"] = {"subnets": ["{{ subnets }}"]}
    found = upgraded(template)
    assert found.own == ("secrets", "subnets", "group", "task_definition")
    assert {name: found.template["variables"]["properties"][name] for name in own} == own
    before, after = template["job_configuration"], found.template["job_configuration"]
    assert after.keys() & {*own, "inline_task_definition"} == {"secrets", "task_definition"}
    for name in ("secrets", "task_definition", "env", "task_run_request", "network_configuration"):
        assert after[name] == before[name]
    assert "security_groups" in after, "others do come"
    assert upgraded(found.template).template == found.template, "also when ours is the base"


def test_a_variable_that_nothing_would_use_is_not_added() -> None:
    template = copy.deepcopy(THEIRS["0.7"])
    template["job_configuration"]["gpu"] = 2
    found = upgraded(template).template
    assert found["job_configuration"]["gpu"] == 2
    assert "gpu" not in found["variables"]["properties"]


def test_a_variable_that_was_put_elsewhere_is_asked_for_nowhere_else() -> None:
    """0.4 has no execution_role_arn in the job configuration itself."""
    template = copy.deepcopy(THEIRS["0.4"])
    template["job_configuration"]["task_definition"]["executionRoleArn"] = ROLE
    template["job_configuration"]["env"] = {"ROLE": "{{ execution_role_arn }}"}
    found = upgraded(template).template
    assert "execution_role_arn" not in found["job_configuration"]
    template["job_configuration"]["task_definition"]["executionRoleArn"] = "{{ execution_role_arn }}"
    assert upgraded(template).template["job_configuration"]["execution_role_arn"] == "{{ execution_role_arn }}"


def test_a_template_without_some_variables_is_not_taken_for_an_older_one() -> None:
    template = copy.deepcopy(THEIRS["0.7"])
    for name in ("prefect_api_key_secret_arn", "prefect_api_auth_string_secret_arn", "vpc_id", "cluster"):
        del template["variables"]["properties"][name]
        template["job_configuration"].pop(name)
    del template["job_configuration"]["task_run_request"]["cluster"]
    found = upgraded(template)
    assert set(found.taken_out) == {
        "prefect_api_key_secret_arn",
        "prefect_api_auth_string_secret_arn",
        "vpc_id",
        "cluster",
    }
    assert found.own == ()
    assert "stream_output" in found.template["variables"]["properties"], "which 0.7 has not, and older ones have"
    few = {"image", "cpu", "env"}
    for name in template["variables"]["properties"].keys() - few:
        del template["variables"]["properties"][name]
    template["job_configuration"] = {"env": "{{ env }}", "task_definition": {"cpu": "{{ cpu }}"}}
    assert set(upgraded(template).taken_out) == set(THEIRS["0.7"]["variables"]["properties"]) - few


def test_a_template_that_was_written_by_hand_gets_what_it_lacks() -> None:
    image = {"type": "string", "description": "Which image?"}
    template = {
        "variables": {"type": "object", "properties": {"image": image}},
        "job_configuration": {
            "task_definition": {"containerDefinitions": [{"name": "prefect", "image": "{{ image }}"}]},
            "task_run_request": {"capacityProviderStrategy": [{"capacityProvider": "mine"}]},
        },
    }
    found = upgraded(template)
    properties = found.template["variables"]["properties"]
    assert properties["image"] == image
    assert properties.keys() == OURS["variables"]["properties"].keys() - {"capacity_provider_strategy"}
    assert properties["launch_type"]["default"] is None, "it would decide where tasks run"
    assert found.template["job_configuration"]["subnets"] == "{{ subnets }}"
    assert found.template["job_configuration"]["task_run_request"]["capacityProviderStrategy"] == [
        {"capacityProvider": "mine"}
    ]
    assert found.own == ("image",)
    assert found.taken_out == ()


@pytest.mark.parametrize("part", [{}, [], None, "text"])
def test_a_malformed_template_ends_in_no_traceback(part: Any) -> None:
    for template in (
        {"variables": part, "job_configuration": part},
        {"variables": {"properties": part, "definitions": part}, "job_configuration": {"env": part}},
    ):
        assert upgraded(template).template.keys() == {"variables", "job_configuration"}


# -- what runs stays the same

_OWN = ("group", "secrets", "volumes", "subnets", "gpu", "task_definition", "stop_timeout_seconds", "stream_output")
_VALUES = {
    "cpu": st.sampled_from([512, 1024]),
    "memory": st.sampled_from([2048, 4096]),
    "image": st.sampled_from(["a:1", "b:2"]),
    "cluster": st.sampled_from(["c", "d"]),
    "family": st.just("mine"),
    "command": st.just("python -m flow"),
    "env": st.dictionaries(st.sampled_from(["A", "B"]), st.sampled_from(["1", "2"])),
    "labels": st.dictionaries(st.sampled_from(["team", "stage"]), st.sampled_from(["x", "y"])),
    "launch_type": st.sampled_from(["FARGATE", "EC2", None]),
    "execution_role_arn": st.sampled_from([ROLE, "another"]),
    "task_role_arn": st.just(ROLE),
    "container_name": st.sampled_from(["prefect", "flow"]),
    "configure_cloudwatch_logs": st.booleans(),
    "task_start_timeout_seconds": st.sampled_from([0, 60]),
    "match_latest_revision_in_family": st.booleans(),
    **dict.fromkeys(_OWN, st.sampled_from(["team-a", "7", ["x"], {"family": "x"}, {"containerDefinitions": []}, 3])),
}


def with_own_variable(template: dict[str, Any], name: str, place: str, value: object) -> None:
    """A variable of the users' own that bears a name of ours, put to their own use."""
    configuration, asked = template["job_configuration"], f"{{{{ {name} }}}}"
    template["variables"]["properties"][name] = {"title": name} if place == "own key" else {"default": "mine"}
    if place == "env":
        env = configuration["env"]
        configuration["env"] = (env if isinstance(env, dict) else {}) | {name.upper(): asked}
    elif place == "tag":
        configuration["task_run_request"]["tags"] = {name: asked}
    elif place == "definition":
        configuration["task_definition"]["family"] = asked
    elif place != "nowhere" and name != "task_definition":  # which is one of the two requests
        configuration[name] = asked if place == "own key" else value


def without_variable(template: dict[str, Any], name: str) -> None:
    """A variable and all that asks for it taken out, except from lists."""

    def rest(part: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in part.items() if value != f"{{{{ {name} }}}}"}
        return {key: rest(value) if isinstance(value, dict) else value for key, value in kept.items()}

    template["variables"]["properties"].pop(name, None)
    template["job_configuration"] = rest(template["job_configuration"])


_REWIRINGS: dict[str, tuple[tuple[str, ...], object]] = {
    "a fixed role": (("task_definition", "executionRoleArn"), ROLE),
    "one role for both": (("task_definition", "executionRoleArn"), "{{ task_role_arn }}"),
    "a side-car": (
        ("task_definition", "containerDefinitions"),
        [{"name": "a", "image": "{{ image }}"}, {"name": "b", "image": "b"}],
    ),
    "no overrides": (("task_run_request", "overrides"), {}),
    "all overrides": (("task_run_request", "overrides"), "{{ labels }}"),
    "output": (("stream_output",), True),
    "a fixed cluster": (("cluster",), "fixed"),
    "a size": (("task_definition", "cpu"), "{{ memory }}"),
}


@st.composite
def edited_templates(draw: st.DrawFn) -> tuple[dict[str, Any], set[str]]:
    """A template as users leave it, and the variables of their own that bear names of ours."""
    base = THEIRS[draw(st.sampled_from(sorted(THEIRS)))]
    template: dict[str, Any] = copy.deepcopy(base)
    properties = template["variables"]["properties"]
    for name in draw(st.sets(st.sampled_from(["cpu", "image", "cluster", "env", "launch_type", "family"]), max_size=2)):
        properties[name]["default"] = draw(_VALUES[name])
    for name in draw(st.sets(st.sampled_from(["vpc_id", "memory", "stream_output", "family", "labels"]), max_size=2)):
        without_variable(template, name)
    for name in draw(st.lists(st.sampled_from(sorted(_REWIRINGS)), max_size=3, unique=True)):
        (*parents, last), value = _REWIRINGS[name]
        target = template["job_configuration"]
        for parent in parents:
            target = target[parent]
        target[last] = copy.deepcopy(value)
    free = [name for name in _OWN if name not in base["variables"]["properties"]]
    own = draw(st.sets(st.sampled_from(free), max_size=3))
    for name in sorted(own):
        place = draw(st.sampled_from(["env", "tag", "definition", "own key", "fixed", "nowhere"]))
        with_own_variable(template, name, place, draw(_VALUES[name]))
    return template, own


def outcome(template: dict[str, Any], variables: dict[str, Any]) -> object:
    """All that is made of a job, or why nothing is."""
    try:
        configuration = load(variables, template=template)
        watched = (
            configuration.start_timeout,
            configuration.task_watch_poll_interval or None,
            configuration.output,
            configuration.max_runtime_seconds,
            configuration.start_attempts,
            configuration.auto_deregister_task_definition,
            configuration.match_latest_revision_in_family,
        )
        return watched, build(variables, template=template)
    except JobInvalid as error:
        return error.problems


@settings(max_examples=150, deadline=None, phases=set(Phase) - {Phase.explain})
@given(data=st.data())
def test_runs_get_the_same_requests_as_before(data: st.DataObject) -> None:
    before, own = data.draw(edited_templates())
    found = upgraded(before)
    after = found.template
    declared = before["variables"]["properties"]
    # What the pool has declared, and what it doesn't know and goes on to ignore.
    can_set = [name for name in _VALUES if name in declared] + ["memroy"]
    names = data.draw(st.sets(st.sampled_from(can_set), max_size=5))
    variables = {name: data.draw(_VALUES.get(name, st.just(1))) for name in sorted(names)}
    assert outcome(after, variables) == outcome(before, variables)

    assert set(found.own) == own
    nothing = object()
    for name in own:
        assert after["variables"]["properties"][name] == declared[name]
        assert after["job_configuration"].get(name, nothing) == before["job_configuration"].get(name, nothing)
    assert not set(found.taken_out) & after["variables"]["properties"].keys()
    assert {name.split(".")[0] for name in placeholders(after["job_configuration"])} <= after["variables"][
        "properties"
    ].keys() | {name.split(".")[0] for name in placeholders(before["job_configuration"])}
    assert upgraded(after).template == after


# -- the templates that are known


def test_the_digests_are_those_of_the_templates() -> None:
    known = known_templates()
    for version, template in THEIRS.items():
        assert with_template(known, f"prefect-aws {version}", template).keys() == known.keys()
        number = known[""].index(f"prefect-aws {version}")
        made = with_template({}, version, template)
        assert {path: [found[number]] for path, found in known.items() if path and found[number]} == {
            path: digests for path, digests in made.items() if path
        }


def test_a_later_version_s_template_changes_nothing_that_is_known() -> None:
    known = known_templates()
    later = copy.deepcopy(OURS)
    later["variables"]["properties"]["later"] = {"type": "string"}
    grown = with_template(known, "ecs-worker 99", later)
    assert grown[""] == [*known[""], "ecs-worker 99"]
    assert {path: found[:-1] for path, found in grown.items() if path in known} == known
    assert grown["variables/properties/later/type"][:-1] == [None] * len(known[""])
    assert with_template(grown, "ecs-worker 99", OURS)[""] == grown[""]
