"""`ecs-worker render`: the same requests that a worker would send, told without asking AWS."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ecs_worker.job.variables import default_base_job_template
from support.command_line import ecs_worker
from support.servers.scripted import Answer, scripted

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers.prefect import Admin

pytestmark = pytest.mark.anyio
ROLE = "arn:aws:iam::123456789012:role/r"
AWS = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "a", "AWS_REGION": "eu-west-1"}


def environment_of(rendered: dict[str, Any]) -> dict[str, str]:
    (container,) = rendered["RunTask"]["overrides"]["containerOverrides"]
    return {item["name"]: item["value"] for item in container["environment"]}


def variables(admin: Admin, **given: Any) -> dict[str, Any]:
    return {"infra_overrides" if admin.server.line == "2" else "job_variables": given}


async def test_offline(tmp_path: Path) -> None:
    template = default_base_job_template()
    template["job_configuration"]["task_definition"]["pidMode"] = "task"
    (tmp_path / "template.json").write_text(json.dumps(template))
    (tmp_path / "variables.yaml").write_text(
        "{image: 'a:1', cpu: 512, memory: 1024, env: {DB_PASSWORD: hunter2, URL: 'pg://u:hunter2@h', PLAIN: x},"
        f" configure_cloudwatch_logs: true, execution_role_arn: '{ROLE}',"
        " cloudwatch_logs_options: {splunk-token: hunter2}}"
    )
    given = ("--base-job-template", "template.json", "--job-variables", "variables.yaml")
    async with scripted(Answer(status=500)) as aws:
        ended = await ecs_worker(
            tmp_path,
            *("render", *given, "--cluster", "c", "--label", "team=data"),
            env={**AWS, "AWS_ENDPOINT_URL": f"http://{aws.address}", "PREFECT_API_KEY": "hunter2"},
        )
        assert aws.requests == []
    assert (ended.code, ended.err) == (0, ""), ended
    assert "hunter2" not in ended.out
    rendered = json.loads(ended.out)
    definition = rendered["RegisterTaskDefinition"]
    assert (definition["cpu"], definition["pidMode"], definition["executionRoleArn"]) == ("512", "task", ROLE)
    (container,) = definition["containerDefinitions"]
    assert container["image"] == "a:1"
    assert container["logConfiguration"]["options"]["awslogs-region"] == "eu-west-1"
    task = rendered["RunTask"]
    assert task["networkConfiguration"]["awsvpcConfiguration"]["subnets"] == ["<subnets of the default VPC>"]
    assert (task["cluster"], task["startedBy"]) == ("c", "prefect/<flow run id>/<claim id>")
    assert {"key": "team", "value": "data"} in task["tags"]
    environment = environment_of(rendered)
    assert (environment["DB_PASSWORD"], environment["PREFECT_API_KEY"], environment["PLAIN"], environment["URL"]) == (
        "********",
        "********",
        "x",
        "pg://u:********@h",
    )
    as_yaml = await ecs_worker(tmp_path, "render", *given, "--cluster", "c", "--label", "team=data", "--format", "yaml")
    # Another machine's environment: neither its Region nor its Prefect settings are the same.
    assert yaml.safe_load(as_yaml.out)["RegisterTaskDefinition"]["family"] == definition["family"]


async def test_all_problems_at_once(tmp_path: Path) -> None:
    (tmp_path / "variables.json").write_text(
        json.dumps(
            {
                "cpu": "much",
                "gpu": 0,
                "cluster": "a b",
                "command": "a 'b",
                "labels": {"aws:x": "1"},
                "secrets": ["hunter2"],
            }
        )
    )
    ended = await ecs_worker(tmp_path, "render", "--job-variables", "variables.json")
    assert (ended.code, ended.out) == (1, "")
    assert "hunter2" not in ended.err
    lines = ended.err.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["secrets", "gpu", "cpu", "command", "cluster", "The"]
    assert all("(from the deployment's job variables)" in line and line.endswith(".") for line in lines)


async def test_a_deployment_and_its_run(admin: Admin, tmp_path: Path) -> None:
    await admin.create_block("secret", "render-secret", {"value": "hunter2"})
    await admin.create_variable("render_size", "512")
    pool = await admin.create_pool(base_job_template=default_base_job_template())
    flow_id = await admin.create_flow("render flow")
    said = variables(
        admin,
        cpu="{{ prefect.variables.render_size }}",
        memory=1024,
        env={"INNOCENT": "Bearer {{ prefect.blocks.secret.render-secret }}", "A": "deployment"},
    )
    deployment = await admin.create_deployment(pool, name="nightly", flow_id=flow_id, **said)
    run_id = await admin.create_run(deployment, job_variables={"env": {"A": "run"}, "memory": 2048})
    url = admin.server.url

    ended = await ecs_worker(tmp_path, "render", "--deployment", "render flow/nightly", api_url=url)
    assert (ended.code, ended.err) == (0, ""), ended
    assert "hunter2" not in ended.out
    rendered = json.loads(ended.out)
    assert rendered["RegisterTaskDefinition"]["family"] == f"prefect_{pool}_{deployment}"
    assert rendered["RegisterTaskDefinition"]["cpu"] == "512"
    assert environment_of(rendered)["INNOCENT"] == "Bearer ********"
    image = rendered["RegisterTaskDefinition"]["containerDefinitions"][0]["image"]
    assert image.startswith(f"prefecthq/prefect:{admin.server.line}.")

    ended = await ecs_worker(tmp_path, "render", "--flow-run", run_id, "--explain", api_url=url, whole=True)
    assert ended.code == 0, ended
    rendered = json.loads(ended.out)
    environment = environment_of(rendered)
    assert (environment["A"], environment["PREFECT__FLOW_RUN_ID"]) == ("run", run_id)
    assert rendered["RunTask"]["startedBy"] == f"prefect/{run_id}/<claim id>"
    origins = rendered["origins"]
    flow = "RunTask.overrides.containerOverrides[prefect]"
    assert origins["RegisterTaskDefinition.memory"] == "memory (the flow run's job variables)"
    assert origins["RegisterTaskDefinition.cpu"] == "cpu (the deployment's job variables)"
    assert origins[f"{flow}.environment[A]"] == "env.A (the flow run's job variables)"
    assert origins[f"{flow}.environment[INNOCENT]"] == "env.INNOCENT (the deployment's job variables)"
    assert origins[f"{flow}.environment[PREFECT_API_URL]"] == "the worker's PREFECT_ settings"
    assert origins["RunTask.launchType"] == "launch_type (the work pool's default)"
    assert set(origins) >= {"RunTask.clientToken", "RunTask.tags[prefect.io/flow-id]", "RegisterTaskDefinition.family"}


async def test_explain_names_options_and_the_template(tmp_path: Path) -> None:
    template = default_base_job_template()
    template["job_configuration"]["task_definition"]["pidMode"] = "task"
    template["job_configuration"]["task_run_request"]["tags"] = [{"key": "owner", "value": "me"}]
    template["variables"]["properties"]["env"]["default"] = {"P": "pool"}
    (tmp_path / "template.json").write_text(json.dumps(template))
    (tmp_path / "arguments.yaml").write_text("platformVersion: '1.4.0'")
    options = ("--run-task-kwargs", "arguments.yaml", "-e", "W=worker", "--cluster", "c")
    ended = await ecs_worker(tmp_path, "render", "--base-job-template", "template.json", "--explain", *options)
    assert ended.code == 0, ended
    origins = json.loads(ended.out)["origins"]
    flow = "RunTask.overrides.containerOverrides[prefect]"
    assert origins["RegisterTaskDefinition.pidMode"] == "the work pool's template"
    assert origins["RunTask.tags[owner]"] == "the work pool's template"
    assert origins[f"{flow}.environment[P]"] == "env.P (the work pool's default)"
    assert origins[f"{flow}.environment[W]"] == "the worker's --env"
    assert origins["RunTask.cluster"] == "the worker's --cluster"
    assert origins["RunTask.platformVersion"] == "the worker's --run-task-kwargs"
    assert origins["RegisterTaskDefinition.cpu"] == "ecs-worker's default"


async def test_two_deployments_compared(admin3: Admin, tmp_path: Path) -> None:
    pool = await admin3.create_pool(base_job_template=default_base_job_template())
    flow_id = await admin3.create_flow("compared")
    for name, memory in (("small", 2048), ("large", 4096)):
        await admin3.create_deployment(pool, name=name, flow_id=flow_id, job_variables={"memory": memory})
    arguments = ("render", "-d", "compared/small", "--diff", "compared/large")
    ended = await ecs_worker(tmp_path, *arguments, api_url=admin3.server.url)
    assert ended.code == 0, ended
    lines = ended.out.splitlines()
    assert lines[:2] == ["--- compared/small", "+++ compared/large"]
    assert '-    "memory": "2048",' in lines
    assert '+    "memory": "4096",' in lines
    assert not any("cpu" in line for line in lines if line[0] in "+-")


async def test_what_only_aws_knows_is_left_open_and_said(tmp_path: Path) -> None:
    (tmp_path / "variables.yaml").write_text(
        "{task_definition_arn: 'family:3', launch_type: EC2, run_task_kwargs_path: 's3://b/k.yaml', container_name: x}"
    )
    ended = await ecs_worker(tmp_path, "render", "--job-variables", "variables.yaml")
    assert ended.code == 0, ended
    rendered = json.loads(ended.out)
    assert "RegisterTaskDefinition" not in rendered
    assert rendered["RunTask"]["taskDefinition"] == "family:3"
    assert rendered["RunTask"]["overrides"]["containerOverrides"][0]["name"] == "x"
    assert "Note: s3://b/k.yaml (run_task_kwargs_path) is not read" in ended.err
    assert "Note: The task definition family:3 is not described" in ended.err

    (tmp_path / "variables.yaml").write_text(
        "{inherit_network: true, env: {S: '{{ prefect.blocks.secret.x }}', V: '{{ prefect.variables.v }}'}}"
    )
    ended = await ecs_worker(tmp_path, "render", "--job-variables", "variables.yaml")
    rendered = json.loads(ended.out)
    assert rendered["RunTask"]["networkConfiguration"]["awsvpcConfiguration"]["subnets"] == ["<subnet of the worker>"]
    assert environment_of(rendered)["S"] == "<block secret/x>"
    assert environment_of(rendered)["V"] == "<variable v>"
    assert ended.err.count("Note: ") == 3


async def test_what_is_misspelt_is_told_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "v.yaml").write_text("{memroy: 4096, task_definition_arn: 'f:1', gpu: 1, launch_type: EC2}")
    ended = await ecs_worker(tmp_path, "render", "--job-variables", "v.yaml", env={"ECS_WORKER_CLUSTERS": "c"})
    assert ended.code == 0, ended
    assert "Note: The environment variable ECS_WORKER_CLUSTERS has no effect" in ended.err
    assert "Did you mean ECS_WORKER_CLUSTER?" in ended.err
    assert "Note: The job variable 'memroy' (from the deployment's job variables) has no effect" in ended.err
    assert "Did you mean 'memory'?" in ended.err
    assert "gpu" in ended.err, "which a definition that is reused as it is ignores"


async def test_yaml_says_what_json_could(tmp_path: Path) -> None:
    (tmp_path / "v.yaml").write_text("{env: {SINCE: 2024-01-01}, 1: 2}")
    ended = await ecs_worker(tmp_path, "render", "--job-variables", "v.yaml")
    assert ended.code == 0, ended
    assert environment_of(json.loads(ended.out))["SINCE"] == "2024-01-01"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Say what to render"),
        (("-d", "a/b", "--flow-run", "00000000-0000-0000-0000-000000000000"), "exclude each other"),
        (("-d", "a/b"), "There is no deployment 'a/b'"),
        (("--flow-run", "00000000-0000-0000-0000-000000000000"), "There is no flow run"),
        (("--job-variables", "absent.json"), "--job-variables absent.json can't be read: No such file"),
        (("--job-variables", "broken.json"), "--job-variables broken.json is neither YAML nor JSON"),
        (("--job-variables", "endless.json"), "--job-variables endless.json says what JSON can't"),
        (("--job-variables", "list.json"), "--job-variables list.json holds no mapping"),
        (("--job-variables", "ok.json", "--launch-type", "MOON"), "--launch-type is 'MOON'"),
    ],
)
async def test_mistakes_are_told_in_one_sentence(
    admin3: Admin, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    for name, text in (("broken", "{"), ("endless", "a: &a [*a]"), ("list", "[1]"), ("ok", "{}")):
        (tmp_path / f"{name}.json").write_text(text)
    ended = await ecs_worker(tmp_path, "render", *arguments, api_url=admin3.server.url)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), ended
    assert sentence in ended.err


async def test_a_pool_of_another_type(admin3: Admin, tmp_path: Path) -> None:
    pool = await admin3.create_pool(type="process")
    flow_id = await admin3.create_flow("elsewhere")
    await admin3.create_deployment(pool, name="one", flow_id=flow_id)
    ended = await ecs_worker(tmp_path, "render", "-d", "elsewhere/one", api_url=admin3.server.url)
    assert ended.code == 2
    assert "is of type 'process', not 'ecs'" in ended.err
