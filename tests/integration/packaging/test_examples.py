"""The files that users fill in: examples/, iam/, and the documents, held against what AWS and the code know."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator

from ecs_worker.demo.stage import POOL
from ecs_worker.job.variables import default_base_job_template
from ecs_worker.settings import WorkerSettings
from support.command_line import ecs_worker
from support.paths import TOP

POLICIES = sorted((TOP / "iam").glob("*-policy.json"))
TRUST = [path for path in POLICIES if path.name.endswith("trust-policy.json")]
RIGHTS = [path for path in POLICIES if path not in TRUST]

# What deployers do that knows no resources, or is asked of all; and hosted zones, which are AWS's own.
OF_DEPLOYERS = {
    *(f"ec2:Describe{what}" for what in ("RouteTables", "SecurityGroups", "SecurityGroupRules", "AvailabilityZones")),
    *(f"ec2:Describe{what}" for what in ("VpcAttribute", "NetworkAcls", "InternetGateways", "Addresses")),
    *(f"ec2:Describe{what}" for what in ("NatGateways", "VpcEndpoints", "VpcEndpointServices")),
    *("cloudformation:DescribeStacks", "ecs:ListTasks", "ecs:CreateCluster", "route53:AssociateVPCWithHostedZone"),
}


def read(path: str) -> Any:
    return json.loads((TOP / path).read_text(encoding="utf-8"))


def assert_valid(operation: str, request: dict[str, Any]) -> None:
    """Hold a request against botocore's own model of the ECS API."""
    model = botocore.session.get_session().get_service_model("ecs")
    report = ParamValidator().validate(request, model.operation_model(operation).input_shape)
    assert not report.has_errors(), report.generate_report()


def test_the_task_definition_is_a_valid_request() -> None:
    assert_valid("RegisterTaskDefinition", read("examples/task-definition.json"))


def test_the_validator_refuses_what_ecs_would() -> None:
    broken = read("examples/task-definition.json") | {"containers": []}
    with pytest.raises(AssertionError, match="containers"):
        assert_valid("RegisterTaskDefinition", broken)


def test_the_task_definition_starts_the_worker_as_it_can_be_started() -> None:
    definition = read("examples/task-definition.json")
    (container,) = definition["containerDefinitions"]
    command, *options = container["command"]
    assert command == "start"
    told = subprocess.run(
        [sys.executable, "-m", "ecs_worker", "start", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", "PYTHONPATH": str(TOP / "src")},
    ).stdout
    for option in (option for option in options if option.startswith("--")):
        assert option in told.split()
    assert POOL in options
    assert container["stopTimeout"] > WorkerSettings.model_fields["stop_seconds"].default
    assert container["healthCheck"]["command"] == ["CMD", "ecs-worker", "health"]


def test_the_deployment_names_a_flow_and_only_known_job_variables() -> None:
    project = yaml.safe_load((TOP / "examples" / "prefect.yaml").read_text(encoding="utf-8"))
    known = default_base_job_template()["variables"]["properties"]
    for deployment in project["deployments"]:
        assert deployment["work_pool"]["name"] == POOL
        assert set(deployment["work_pool"]["job_variables"]) <= set(known)
        file, _, function = deployment["entrypoint"].partition(":")
        assert f"def {function}(" in (TOP / "examples" / file).read_text(encoding="utf-8")


@pytest.mark.anyio
async def test_the_example_for_managed_instances_makes_requests_that_fit_them(tmp_path: Path) -> None:
    path = TOP / "examples" / "managed-instances.yaml"
    variables = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(variables) <= set(default_base_job_template()["variables"]["properties"])
    ended = await ecs_worker(tmp_path, "render", "--job-variables", str(path))
    assert (ended.code, ended.err) == (0, "")
    requests = json.loads(ended.out)
    definition, task = requests["RegisterTaskDefinition"], requests["RunTask"]
    assert_valid("RegisterTaskDefinition", definition)
    assert_valid("RunTask", task)
    assert (definition["requiresCompatibilities"], definition["networkMode"]) == (["MANAGED_INSTANCES"], "awsvpc")
    assert "launchType" not in task
    assert task["capacityProviderStrategy"] == variables["capacity_provider_strategy"]
    assert task["networkConfiguration"]["awsvpcConfiguration"] == {"subnets": variables["subnets"]}


def test_the_roles_of_the_examples_are_those_the_worker_may_pass() -> None:
    project = yaml.safe_load((TOP / "examples" / "prefect.yaml").read_text(encoding="utf-8"))
    variables = project["deployments"][0]["work_pool"]["job_variables"]
    (passing,) = [s for s in read("iam/worker-policy.json")["Statement"] if s["Action"] == "iam:PassRole"]
    assert {variables["task_role_arn"], variables["execution_role_arn"]} == set(passing["Resource"])


def test_the_examples_keep_the_api_key_in_a_secret_that_both_execution_roles_read() -> None:
    project = yaml.safe_load((TOP / "examples" / "prefect.yaml").read_text(encoding="utf-8"))
    variables = project["deployments"][0]["work_pool"]["job_variables"]
    assert "PREFECT_API_KEY" not in json.dumps(variables)
    (container,) = read("examples/task-definition.json")["containerDefinitions"]
    secrets = {each["name"]: each["valueFrom"] for each in container["secrets"]}
    assert variables["prefect_api_key_secret_arn"] == secrets["PREFECT_API_KEY"]
    (reading,) = [s for s in read("iam/secret-policy.json")["Statement"] if s["Sid"] == "ReadSecretsManager"]
    stem, _, name = reading["Resource"].partition(":secret:")
    assert stem == "arn:aws:secretsmanager:*:123456789012"
    assert secrets["PREFECT_API_KEY"].partition(":secret:")[2].startswith(name.rstrip("*"))


def test_policies_are_what_iam_knows(tmp_path: Path) -> None:
    """cfn-lint knows the grammar of policies, and AWS's services and actions."""
    template = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Resources": {
            **{
                path.stem.title().replace("-", ""): {
                    "Type": "AWS::IAM::ManagedPolicy",
                    "Properties": {"PolicyDocument": json.loads(path.read_text(encoding="utf-8"))},
                }
                for path in RIGHTS
            },
            **{
                path.stem.title().replace("-", ""): {
                    "Type": "AWS::IAM::Role",
                    "Properties": {"AssumeRolePolicyDocument": json.loads(path.read_text(encoding="utf-8"))},
                }
                for path in TRUST
            },
        },
    }
    file = tmp_path / "template.json"
    assert lint(file, template) == ""
    template["Resources"]["WorkerPolicy"]["Properties"]["PolicyDocument"]["Statement"][0]["Action"] = "ecs:RunTusk"  # type: ignore[index]
    assert "runtusk" in lint(file, template).lower(), "a slip would be noticed"


def lint(file: Path, template: dict[str, Any]) -> str:
    """What cfn-lint finds, but for the remark that an account's number is written out: it is what users fill in."""
    file.write_text(json.dumps(template), encoding="utf-8")
    command = [str(Path(sys.executable).parent / "cfn-lint"), "--ignore-checks", "I", "--", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120).stdout


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_policies_grant_nothing_by_a_bare_star(path: Path) -> None:
    policy = json.loads(path.read_text(encoding="utf-8"))
    assert policy["Version"] == "2012-10-17"
    for statement in policy["Statement"]:
        actions, resources = listed(statement["Action"]), listed(statement.get("Resource", []))
        assert statement["Effect"] == "Allow"
        assert not [action for action in actions if "*" in action]
        if "*" in resources:
            if actions == ["ecs:ListTasks"] and "Condition" in statement:  # AWS's own form: its cluster is a condition
                assert "ecs:cluster" in statement["Condition"]["ArnEquals"]
                continue
            # These actions know no resources (AWS's service authorization reference).
            assert (
                set(actions)
                <= {
                    "ecs:DescribeTaskDefinition",
                    "ecs:ListTaskDefinitions",
                    "ecs:DeregisterTaskDefinition",
                    "ec2:DescribeVpcs",
                    "ec2:DescribeSubnets",
                    "ec2:DescribeNetworkInterfaces",
                    "ec2:DescribeRouteTables",
                    "ec2:DescribeNatGateways",
                    "ec2:DescribeVpcEndpoints",
                    "ec2:DescribeSecurityGroups",
                    "servicequotas:GetServiceQuota",
                    "ecr:GetAuthorizationToken",
                }
                | OF_DEPLOYERS
            )


def test_the_policies_fit_the_examples() -> None:
    """One filling-in of names serves all files."""
    project = yaml.safe_load((TOP / "examples" / "prefect.yaml").read_text(encoding="utf-8"))
    variables = project["deployments"][0]["work_pool"]["job_variables"]
    worker, execution = (json.dumps(read(f"iam/{name}-policy.json")) for name in ("worker", "execution"))
    assert f"cluster/{variables['cluster']}" in worker
    assert f"prefect_{POOL}_*" in worker
    (container,) = read("examples/task-definition.json")["containerDefinitions"]
    for image in (variables["image"], container["image"]):
        assert f"repository/{image.partition('/')[2].partition(':')[0]}" in execution
    assert f"log-group:{container['logConfiguration']['options']['awslogs-group']}:*" in execution


def test_the_policies_are_current() -> None:
    sys.path.insert(0, str(TOP / "docs"))
    try:
        import policies  # noqa: PLC0415 - a script, importable from its own directory only
    finally:
        sys.path.pop(0)
    pages = policies.pages()
    assert {path.name for path in pages} == {path.name for path in (TOP / "iam").iterdir()}
    for path, text in pages.items():
        assert path.read_text(encoding="utf-8") == text, "run `make docs`"


def listed(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]


def test_the_page_of_options_is_current() -> None:
    sys.path.insert(0, str(TOP / "docs"))
    try:
        import options  # noqa: PLC0415 - a script, importable from its own directory only
    finally:
        sys.path.pop(0)
    page = options.PAGE.read_text(encoding="utf-8")
    assert page == options.page(), "run `make docs`"
    assert page.count("`ECS_WORKER_") == len(WorkerSettings.model_fields)


def test_what_the_readme_names_exists() -> None:
    readme = (TOP / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"(?:iam|examples|docs)/[\w.-]+\w", readme):
        assert (TOP / path).exists(), path
    for target in re.findall(r"`?make (\w+)`", readme):
        assert f"\n{target}:" in (TOP / "Makefile").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
