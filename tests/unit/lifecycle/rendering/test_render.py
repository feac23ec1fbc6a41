"""Whole jobs, rendered from what Prefect and ECS hold: blocks, Prefect variables, reused task definitions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from ecs_worker.errors import AwsError, JobInvalid
from ecs_worker.job.requests import FoundNetwork
from ecs_worker.job.template import UNSET
from ecs_worker.job.variables import default_base_job_template
from ecs_worker.lifecycle.rendering.render import render_job
from support.builders import ANY_RUN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ecs_worker.job.attached import Document
    from ecs_worker.job.job import Job
    from ecs_worker.job.requests import NetworkNeed
    from ecs_worker.job.template import BlockReference
    from ecs_worker.model import AwsTarget

pytestmark = pytest.mark.anyio

CONTEXT = replace(ANY_RUN, region="", inherited_env={"PREFECT_API_KEY": "pnu_1"})


@dataclass(frozen=True)
class Holdings:
    """What Prefect and ECS hold."""

    secrets: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    described: Mapping[str, Any] | None = None
    documents: Mapping[str, Any] = field(default_factory=dict)
    unread: Sequence[str] = ()

    def region(self, _: AwsTarget) -> str:
        return "eu-west-1"

    async def block(self, reference: BlockReference) -> Mapping[str, Any]:
        return {"value": self.secrets[reference.name]}

    async def variable(self, name: str) -> Any:
        return self.variables.get(name, UNSET)

    async def document(self, document: Document) -> Any:
        return self.documents[document.path]

    async def definition(self, *_: object) -> Mapping[str, Any] | None:
        return self.described

    async def network(self, _: AwsTarget, need: NetworkNeed) -> FoundNetwork:
        if need.vpc_id:
            raise AwsError("DescribeSubnets", "InvalidVpcID.NotFound", f"The vpc ID '{need.vpc_id}' does not exist")
        return FoundNetwork(["subnet-of-default-vpc"])


async def rendered(job_variables: dict[str, Any], **holdings: Any) -> Job:
    return await render_job(default_base_job_template(), job_variables, CONTEXT, Holdings(**holdings))


def env_of(containers: Any) -> dict[str, str]:
    [container] = containers
    return {item["name"]: item["value"] for item in container.get("environment", [])}


async def test_what_blocks_and_variables_hold_never_moves_into_the_definition() -> None:
    plain = {f"A{n}": str(n) * 900 for n in range(8)}
    job = await rendered(
        {"env": {"PEM": "{{ prefect.blocks.secret.pem }}", "NOTE": "{{ prefect.variables.note }}", **plain}},
        secrets={"pem": "p" * 1200},
        variables={"note": "n" * 1000},
    )
    shared = env_of(job.definition["containerDefinitions"])
    own = env_of(job.run_task["overrides"]["containerOverrides"])
    assert (own["PEM"], own["NOTE"]) == ("p" * 1200, "n" * 1000)
    assert shared.items() <= plain.items()
    assert shared
    assert "PEM" not in shared


async def test_what_aws_says_of_a_secret_is_hidden_when_it_is_told() -> None:
    with pytest.raises(AwsError) as caught:
        await rendered({"vpc_id": "{{ prefect.blocks.secret.vpc }}"}, secrets={"vpc": "vpc-hunter2"})
    assert str(caught.value) == "DescribeSubnets: InvalidVpcID.NotFound: The vpc ID '********' does not exist"
    assert "hunter2" not in repr(caught.value)


async def test_a_reused_definition_that_fargate_can_t_run_goes_where_the_cluster_s_default_is() -> None:
    described = {
        "family": "f",
        "networkMode": "bridge",
        "compatibilities": ["EC2", "EXTERNAL"],
        "containerDefinitions": [{"name": "app", "image": "i", "memory": 512}],
    }
    job = await rendered({"task_definition_arn": "f:1", "launch_type": None}, described=described)
    assert not job.run_task.keys() & {"launchType", "capacityProviderStrategy", "networkConfiguration"}
    derived = {"task_definition_arn": "f:1", "launch_type": "EC2", "image": "i:2", "derive_task_definition": True}
    job = await rendered(derived, described=described)
    assert "compatibilities" not in job.definition


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"task_definition": {"cpu": "300"}}, "cpu 300 (from task_definition, the deployment's job variables) with"),
        (
            {"task_definition_path": "s3://b/d.yaml"},
            "cpu 300 (from s3://b/d.yaml) with memory 512 (from s3://b/d.yaml)",
        ),
        (
            {"task_definition_path": "s3://b/d.yaml", "memory": 1024},
            "with memory 1024 (from the deployment's job variables) is",
        ),
        (
            {"memory": 512, "run_task_kwargs": {"overrides": {"cpu": "300"}}},
            "cpu 300 (from run_task_kwargs, the deployment's job variables) with memory 512 (from the deployment's",
        ),
        (
            {"cpu": 256, "memory": 512, "run_task_patch": {"overrides": {"memory": 600}}},
            "with memory 600 (from run_task_patch, the deployment's job variables) is no pair",
        ),
        ({"cluster": "c", "run_task_kwargs": {"cluster": "a b"}}, "cluster is 'a b' (from run_task_kwargs, the"),
    ],
)
async def test_documents_and_patches_are_named_as_origins(variables: dict[str, Any], sentence: str) -> None:
    with pytest.raises(JobInvalid) as caught:
        await rendered(variables, documents={"s3://b/d.yaml": {"cpu": "300", "memory": "512"}})
    assert any(sentence in problem for problem in caught.value.problems), caught.value.problems


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value] if levels % 2 else {"a": value}
    return value


@pytest.mark.parametrize("levels", [101, 400, 10_000])
@pytest.mark.parametrize(
    ("variables", "holdings", "words"),
    [
        (lambda deep: {"env": {"A": deep}}, {}, "env (from the deployment's job variables) is nested"),
        (lambda deep: {"run_task_patch": deep}, {}, "run_task_patch (from the deployment's job variables) is nested"),
        (lambda _: {"labels": "{{ prefect.variables.deep }}"}, {"variables": ["deep"]}, "The Prefect variable deep is"),
        (lambda _: {"labels": "{{ prefect.blocks.json.deep }}"}, {"secrets": ["deep"]}, "The block json/deep is"),
    ],
    ids=["env", "patch", "variable", "block"],
)
async def test_what_is_nested_too_deeply_is_the_job_s_problem(
    levels: int, variables: Any, holdings: dict[str, list[str]], words: str
) -> None:
    deep = nested(levels)
    with pytest.raises(JobInvalid) as caught:
        await rendered(variables(deep), **{kind: dict.fromkeys(names, deep) for kind, names in holdings.items()})
    assert words in caught.value.problems[0]
    assert "more than 100 levels deep" in caught.value.problems[0]


async def test_a_name_of_many_parts_and_a_template_are_too_deep_alike() -> None:
    with pytest.raises(
        JobInvalid, match=r"^env \(from the deployment's job variables\) is nested more than 100 levels"
    ):
        await rendered({"env" + ".a" * 400: "x"})
    template = default_base_job_template()
    template["job_configuration"]["task_run_request"]["overrides"]["x"] = nested(400)
    with pytest.raises(JobInvalid, match=r"^The work pool's base job template is nested more than 100 levels deep"):
        await render_job(template, {}, CONTEXT, Holdings())


async def test_depth_that_nobody_reads_does_no_harm() -> None:
    assert (await rendered({"memroy": nested(10_000)})).run_task
