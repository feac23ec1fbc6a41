"""From templates and job variables to a configuration."""

from __future__ import annotations

from typing import Any

import pytest

from ecs_worker.errors import JobInvalid
from ecs_worker.job.configuration import merge_job_variables, render_configuration
from ecs_worker.model import AwsCredentials, Output
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
