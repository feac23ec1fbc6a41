"""Jobs and their requests, as a pool's template and job variables give them."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any
from uuid import UUID

import pytest

from ecs_worker.errors import JobInvalid
from ecs_worker.job.assembly import draft, in_network, usable
from ecs_worker.job.checks.rules import check
from ecs_worker.job.configuration import JobConfiguration, merge_job_variables, origins, render_configuration
from ecs_worker.job.context import FlowRunContext, option_origins
from ecs_worker.job.requests import FoundNetwork, network_need
from ecs_worker.job.variables import default_base_job_template
from support.builders import claimed_run
from support.paths import STORED_TEMPLATES

TEMPLATES = {
    "ours": default_base_job_template(),
    **{
        version: json.loads((STORED_TEMPLATES / f"prefect_aws_{version}_template.json").read_text("utf-8"))
        for version in ("0_4", "0_7")
    },
}


ROLE = "arn:aws:iam::123456789012:role/r"


SUBNETS = ["subnet-1", "subnet-2"]


def context(run_variables: dict[str, Any] | None = None, **changes: Any) -> FlowRunContext:
    run = claimed_run(
        UUID(int=1),
        name="run one",
        claim_id=UUID(int=9),
        flow_id=UUID(int=2),
        deployment_id=UUID(int=3),
        job_variables=run_variables,
    )
    given: dict[str, Any] = {
        "run": run,
        "flow_name": "my flow",
        "pool_id": UUID(int=4),
        "pool_name": "pool",
        "worker_name": "w1",
        "region": "eu-west-1",
        "server_version": "3.8.8",
        "deployment_name": "nightly",
        "deployment_updated": dt.datetime(2025, 1, 2, tzinfo=dt.UTC),
        "inherited_env": {"PREFECT_API_URL": "http://127.0.0.1/api", "PREFECT_API_KEY": "pnu_1"},
        "python_version": "3.12",
    }
    return FlowRunContext(**(given | changes))


def load(
    variables: dict[str, Any],
    run_variables: dict[str, Any] | None = None,
    template: dict[str, Any] = TEMPLATES["ours"],
    **configuration: Any,
) -> JobConfiguration:
    """`configuration` replaces keys of the template's job_configuration."""
    template = template | {"job_configuration": template["job_configuration"] | configuration}
    rendered = render_configuration(template, merge_job_variables(variables, run_variables), {})
    return JobConfiguration.load(rendered, origins(template, variables, run_variables))


def build(
    variables: dict[str, Any],
    run_variables: dict[str, Any] | None = None,
    about: FlowRunContext | None = None,
    described: dict[str, Any] | None = None,
    template: dict[str, Any] = TEMPLATES["ours"],
    **changes: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both requests, checked; subnets that would be looked up are SUBNETS."""
    template = template | {"job_configuration": template["job_configuration"] | changes}
    about = about or context(run_variables)
    came_from = origins(template, variables, run_variables, option_origins(about.defaults))
    configuration, unusable = usable(load(variables, run_variables, template), came_from)
    if unusable:
        raise JobInvalid(unusable)
    assert described is not None or configuration.reused_definition is None
    job = draft(configuration, about, described, came_from=came_from)
    if need := network_need(configuration, about, job.definition):
        job = in_network(job, need, FoundNetwork(SUBNETS))
    check(job)
    return dict(job.definition), dict(job.run_task)


def problems(variables: dict[str, Any], **more: Any) -> tuple[str, ...]:
    with pytest.raises(JobInvalid) as caught:
        build(variables, **more)
    return caught.value.problems


def flow_override(request: dict[str, Any]) -> dict[str, Any]:
    [container] = request["overrides"]["containerOverrides"]
    assert isinstance(container, dict)
    return container | {"environment": {item["name"]: item["value"] for item in container["environment"]}}


def tags(request: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in request["tags"]}
