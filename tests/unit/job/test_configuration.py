"""From templates and job variables to a configuration."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ecs_worker.errors import JobInvalid
from ecs_worker.job.configuration import merge_job_variables, render_configuration, unread_environment
from ecs_worker.model import AwsCredentials, Output
from ecs_worker.settings import JobDefaults
from support.jobs import ROLE, TEMPLATES, load


def test_run_variables_go_over_the_deployment_s_and_only_env_merges() -> None:
    deployment = {"env": {"A": "1", "B": "2"}, "labels": {"a": "1"}}
    merged = merge_job_variables(deployment, {"env": {"B": "3"}, "labels": {"b": "2"}})
    assert merged == {"env": {"A": "1", "B": "3"}, "labels": {"b": "2"}}
    assert merge_job_variables(deployment, {"env": None})["env"] == {"A": "1", "B": "2"}
    assert deployment["env"] == {"A": "1", "B": "2"}
    assert merge_job_variables(None, None) == {}


def test_a_pool_without_a_usable_template_is_told() -> None:
    templates: list[dict[str, Any]] = [{}, {"variables": {}}, {"job_configuration": {}}]
    for template in templates:
        with pytest.raises(JobInvalid, match="has no job_configuration or no variables; reset it to the default"):
            render_configuration(template, {}, {})


ENVIRON = {"DB_PASSWORD": "hunter2", "TEAM_NAME": "data", "TEAM_SIZE": "3"}
ASKING = {"STOLEN": "{{ $DB_PASSWORD }}", "IN_TEXT": "pg://u:{{$DB_PASSWORD}}@h", "TEAM": "{{ $TEAM_NAME }} team"}


def in_pool(env: Any = None, **configuration: Any) -> dict[str, Any]:
    """Our template with that default for env, and with keys of its job_configuration replaced."""
    template: dict[str, Any] = copy.deepcopy(TEMPLATES["ours"])
    template["job_configuration"] |= configuration
    template["variables"]["properties"]["env"]["default"] = env
    return template


POOLS = {
    "without env": in_pool(),
    "with env": in_pool({"POOL": "{{ $DB_PASSWORD }}", "TEAM": "{{ $DB_PASSWORD }}"}),
    "with env in its template": in_pool(env={"POOL": "{{ $DB_PASSWORD }}"}),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("variables", [{"env": ASKING}, {f"env.{name}": value for name, value in ASKING.items()}])
def test_a_job_s_own_env_reads_nothing_of_the_worker_s_environment(pool: str, variables: dict[str, Any]) -> None:
    env = render_configuration(POOLS[pool], variables, ENVIRON)["env"]
    assert env.items() >= ASKING.items(), "it stays as it is written"
    assert env.get("POOL") == (None if pool == "without env" else "hunter2"), "the pool's administrator may"


@pytest.mark.parametrize("pool", POOLS)
def test_a_job_s_own_env_reads_what_the_operator_allows(pool: str) -> None:
    defaults = JobDefaults(job_env_from_worker=("TEAM_*", "UNSET"))
    asking = {**ASKING, "SIZE": "{{ $TEAM_SIZE }}", "NOTHING": "{{ $UNSET }}", "lower": "{{ $team_name }}"}
    env = render_configuration(POOLS[pool], {"env": asking}, ENVIRON, defaults.lets_read)["env"]
    wanted = {**ASKING, "TEAM": "data team", "SIZE": "3", "NOTHING": "", "lower": "{{ $team_name }}"}
    assert env.items() >= wanted.items()
    assert "hunter2" not in str({name: env[name] for name in asking})


def test_the_template_s_own_text_reads_the_worker_s_environment() -> None:
    template = in_pool({"A": "1"}, cloudwatch_logs_prefix="{{ $TEAM_NAME }}", labels={"team": "{{ $TEAM_NAME }}"})
    job = {"image": "{{ $DB_PASSWORD }}", "env": {"B": "{{ image }}"}}
    rendered = render_configuration(template, job, ENVIRON)
    assert (rendered["cloudwatch_logs_prefix"], rendered["labels"]) == ("data", {"team": "data"})
    assert "hunter2" not in str(rendered), "nor by way of another variable"
    assert rendered["env"] == {"A": "1", "B": "{{ $DB_PASSWORD }}"}


def test_what_env_may_not_read_is_told() -> None:
    job = {"env": {"A": "{{ $B }}", "C": ["{{ $TEAM_X }}"]}, "env.D": "{{ $A }}", "image": "{{ $I }}"}
    defaults = JobDefaults(job_env_from_worker=("TEAM_*",))
    assert unread_environment(job, defaults.lets_read) == (
        "env asks for A, B of the worker's environment, which jobs may not read: that stays as it is written. Say it "
        "in the pool's default for env, or let the worker's operator allow it (--job-env-from-worker)."
    )
    assert unread_environment({"env": {"A": "{{ $TEAM_X }} $B"}}, defaults.lets_read) == ""
    assert unread_environment({"env": None}, defaults.lets_read) == ""


def test_how_the_run_is_watched() -> None:
    configuration = load({"task_start_timeout_seconds": 300, "max_runtime_seconds": 60, "start_attempts": 5})
    assert (configuration.start_timeout, configuration.max_runtime_seconds, configuration.start_attempts) == (
        300,
        60,
        5,
    )
    assert load({}, template=TEMPLATES["0_7"]).start_timeout is None
    assert load({}, template=TEMPLATES["0_4"]).start_timeout == 300
    assert load({}).output is Output.NOWHERE
    assert load({"stream_output": True}, template=TEMPLATES["0_4"]).output is Output.WORKER
    assert load({"stream_output": True, "stream_output_to": "both"}).output is Output.BOTH


def test_credentials_come_from_the_block() -> None:
    assert load({}).target.credentials is None
    target = load({"aws_credentials": {"region_name": "eu-north-1", "aws_client_parameters": {"use_ssl": True}}}).target
    assert (target.region, target.credentials) == ("eu-north-1", None)
    block = {
        "aws_access_key_id": "AKIA",
        "aws_secret_access_key": "hunter2",
        "assume_role_arn": ROLE,
        "assume_role_kwargs": {"ExternalId": "x", "Policy": None},
        "aws_client_parameters": {"endpoint_url": "http://127.0.0.1:1", "verify": False, "config": None},
    }
    configuration = load({"aws_credentials": block})
    assert configuration.target.credentials == AwsCredentials(
        access_key_id="AKIA",
        secret_access_key="hunter2",
        assume_role_arn=ROLE,
        assume_role_kwargs={"ExternalId": "x"},
        client_parameters={"endpoint_url": "http://127.0.0.1:1", "verify": False},
    )
    assert "hunter2" not in repr(configuration)


LED_AWAY = [
    ({"endpoint_url": "https://evil.example"}, "endpoint_url"),
    ({"verify": False}, "verify: false"),
    ({"use_ssl": False}, "use_ssl: false"),
    ({"config": {"proxies": {"https": "http://evil.example"}}}, "config.proxies"),
    ({"endpoint_url": "http://h", "verify": False}, "endpoint_url, verify: false"),
]


@pytest.mark.parametrize(("parameters", "words"), LED_AWAY, ids=[words for _, words in LED_AWAY])
@pytest.mark.parametrize("known", [{}, {"region_name": "eu-west-1"}, {"profile_name": "default"}], ids=str)
def test_the_worker_s_own_credentials_are_not_led_away(
    parameters: dict[str, Any], words: str, known: dict[str, Any]
) -> None:
    block = {**known, "aws_client_parameters": parameters}
    with pytest.raises(JobInvalid) as caught:
        _ = load({"aws_credentials": block}).target
    [problem] = caught.value.problems
    assert problem.startswith(
        f"aws_credentials sets {words} in aws_client_parameters, but has no credentials of its own"
    )
    assert "evil" not in problem
    for own in ({"aws_access_key_id": "AKIA", "aws_secret_access_key": "s"}, {"assume_role_arn": ROLE}):
        target = load({"aws_credentials": {**block, **own}}).target
        assert target.credentials is not None
        assert target.credentials.client_parameters == parameters


@pytest.mark.parametrize(
    "parameters",
    [
        {"verify": True},
        {"use_ssl": True, "api_version": "2014-11-13"},
        {"config": {"read_timeout": 5}},
        {"verify": None},
    ],
)
def test_other_client_parameters_need_no_credentials(parameters: dict[str, Any]) -> None:
    target = load({"aws_credentials": {"aws_client_parameters": parameters}}).target
    assert target.credentials is None or not target.credentials.access_key_id
