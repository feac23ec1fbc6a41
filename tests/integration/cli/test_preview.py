"""What `ecs-worker render` makes of a job when nobody is asked."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest

from ecs_worker.cli.explain import explain
from ecs_worker.cli.jobs import RenderJob
from ecs_worker.cli.preview import Preview, rendered, shown
from ecs_worker.errors import JobInvalid
from ecs_worker.job.variables import default_base_job_template
from ecs_worker.settings import JobDefaults
from support.builders import ANY_RUN

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio
CONTEXT = dataclasses.replace(
    ANY_RUN, region="", server_version="", inherited_env={"PREFECT_API_URL": "http://127.0.0.1/api"}
)
FLOW = "RunTask.overrides.containerOverrides[prefect]"


def asked(variables: dict[str, Any], template: dict[str, Any] | None = None, **defaults: Any) -> RenderJob:
    context = dataclasses.replace(CONTEXT, defaults=JobDefaults(**defaults))
    return RenderJob(template or default_base_job_template(), variables, context)


async def problems(variables: dict[str, Any], template: dict[str, Any] | None = None) -> tuple[str, ...]:
    with pytest.raises(JobInvalid) as caught:
        await rendered(asked(variables, template), Preview(None))
    return caught.value.problems


async def origins(*job: Any, **defaults: Any) -> dict[str, str]:
    wanted, sources = asked(*job, **defaults), Preview(None)
    return await explain(wanted, await rendered(wanted, sources), sources)


@pytest.mark.parametrize("schema", [None, [], "none"])
async def test_a_template_without_variables_is_told(schema: object) -> None:
    [problem] = await problems({"cpu": 256}, default_base_job_template() | {"variables": schema})
    assert "base job template has no job_configuration or no variables" in problem


@pytest.mark.parametrize("properties", [None, {"cpu": None, "memory": "2048"}, {"image": {"type": "string"}}])
async def test_templates_that_declare_little_are_explained(properties: Any) -> None:
    template = copy.deepcopy(default_base_job_template())
    template["variables"]["properties"] = properties
    explained = await origins({"env": {"A": "1"}, "cpu": 512}, template)
    assert explained[f"{FLOW}.environment[A]"] == "env.A (the deployment's job variables)"
    assert explained["RegisterTaskDefinition.cpu"] == "cpu (the deployment's job variables)"


async def test_what_nobody_foresaw_is_told_with_all_else_and_without_its_text() -> None:
    strange = {"proxyConfiguration": {"tags": ["hunter2"]}}
    said = {"task_definition": strange, "task_definition_patch": {"proxyConfiguration": {"tags": [{"key": "x"}]}}}
    gpu, unforeseen = await problems({"gpu": 0, **said})
    assert gpu.startswith("gpu is 0")
    assert unforeseen.startswith("No request can be made of the job (AttributeError): a job variable")
    assert "hunter2" not in unforeseen


VARIABLE, BLOCK = "{{ prefect.variables.v }}", "{{ prefect.blocks.json.net.subnets }}"


@pytest.mark.parametrize(
    "variables",
    [
        {"cpu": VARIABLE, "memory": 512},
        {"memory": f"{VARIABLE} GB", "cpu": 256},
        {"subnets": VARIABLE},
        {"subnets": BLOCK, "security_groups": ["sg-1"]},
        {"network_configuration": {"subnets": VARIABLE}},
        {"environment_files": [VARIABLE, VARIABLE]},
        {"capacity_provider_strategy": VARIABLE},
        {"secrets": VARIABLE, "linux_init": VARIABLE, "max_runtime_seconds": VARIABLE},
        {"task_role_arn": f"arn:aws:iam::{VARIABLE}:role/r", "cluster": BLOCK},
        {"launch_type": VARIABLE},
    ],
    ids=str,
)
async def test_what_is_not_read_is_not_judged(variables: dict[str, Any]) -> None:
    sources = Preview(None)
    requests = shown(await rendered(asked(variables | {"labels": {"team": "data"}}), sources))
    assert {"key": "team", "value": "data"} in requests["RunTask"]["tags"]
    note, *_ = sources.notes
    assert "is not read: that takes the Prefect server (--deployment, --flow-run)" in note


async def test_what_is_wrong_beside_what_is_not_read_is_told() -> None:
    [problem] = await problems({"cpu": VARIABLE, "gpu": 0})
    assert problem.startswith("gpu is 0")


async def test_variables_without_effect_are_noted() -> None:
    sources = Preview(None)
    await rendered(asked({"task_definition_arn": "theirs:4", "image": "b", "linux_init": False}), sources)
    assert any("without effect of image, linux_init: leave that out" in note for note in sources.notes)


async def test_a_copy_that_will_be_derived_is_noted() -> None:
    sources = Preview(None)
    said = {"task_definition_arn": "theirs:4", "image": "b", "derive_task_definition": True}
    requests = shown(await rendered(asked(said), sources))
    assert requests["RunTask"]["taskDefinition"] == "theirs:4"
    [_, note] = sources.notes
    assert note.startswith(
        "derive_task_definition: where the job needs it, the worker registers and runs a changed copy"
    )


async def test_paths_on_s3_are_checked_without_reading_them() -> None:
    for name in ("task_definition_path", "run_task_kwargs_path"):
        [problem] = await problems({name: "s3://bucket"})
        assert problem == f"{name}: s3://bucket names no object; write s3://bucket/key."


@pytest.mark.parametrize("by_path", [True, False])
async def test_a_document_explains_only_what_it_says(by_path: bool, tmp_path: Path) -> None:
    document = {"containerDefinitions": [{"name": "flow", "image": "i", "user": "me"}]}
    (tmp_path / "definition.json").write_text(json.dumps(document))
    given = {"task_definition_path": "definition.json"} if by_path else {"task_definition": document}
    explained = await origins(given, documents_dir=tmp_path)
    flow = FLOW.replace("prefect", "flow")
    [name] = given
    assert (
        explained["RegisterTaskDefinition.containerDefinitions[flow].user"]
        == f"{name} (the deployment's job variables)"
    )
    assert explained[f"{flow}.command"] == "ecs-worker's default"
    assert explained[f"{flow}.environment[PREFECT_API_URL]"] == "the worker's PREFECT_ settings"


async def test_what_env_may_not_read_of_the_worker_s_environment_is_noted() -> None:
    for names, noted in (((), True), (("HOME",), False)):
        sources = Preview(None)
        await rendered(asked({"env": {"A": "{{ $HOME }}"}}, job_env_from_worker=names), sources)
        assert any("env asks for HOME of the worker's environment" in note for note in sources.notes) is noted


async def test_credentials_that_would_be_led_away_are_told() -> None:
    block = {"aws_client_parameters": {"endpoint_url": "http://127.0.0.1:1"}}
    [problem] = await problems({"aws_credentials": block})
    assert problem.startswith("aws_credentials sets endpoint_url in aws_client_parameters, but has no credentials")


async def test_files_of_jobs_are_judged_as_the_worker_would() -> None:
    [problem] = await problems({"task_definition_path": "/etc/passwd"})
    assert problem.startswith("task_definition_path: jobs may not name files of the worker's machine, such as /etc/pa")


async def test_what_is_said_twice_has_the_stronger_origin() -> None:
    explained = await origins({"env": {"A": "1", "PREFECT_API_URL": "http://127.0.0.1/api"}}, env={"A": "1"})
    for name in ("A", "PREFECT_API_URL"):
        assert explained[f"{FLOW}.environment[{name}]"] == f"env.{name} (the deployment's job variables)"
    explained = await origins({}, env={"PREFECT_API_URL": "http://127.0.0.1/api"})
    assert explained[f"{FLOW}.environment[PREFECT_API_URL]"] == "the worker's --env"


async def test_a_size_in_a_patch_does_not_hide_other_problems() -> None:
    found = await problems({"run_task_patch": {"overrides": {"cpu": "much"}}, "gpu": 0})
    assert [problem.split(" ")[0] for problem in found] == ["gpu", "cpu"]
