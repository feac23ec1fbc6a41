"""`ecs-worker iam`, against Prefect 3 and Prefect 2, and the embedded AWS."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aioboto3
import pytest

from support.builders import quick_template
from support.command_line import Ended, ecs_worker
from support.paths import TOP
from support.policies import Request, allowed
from support.servers.shared import shared_aws

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.servers.prefect import Admin

pytestmark = pytest.mark.anyio
ROLE = "arn:aws:iam::123456789012:role/"
FLOWS: dict[str, Any] = {
    "cluster": "prod",
    "task_role_arn": ROLE + "flows",
    "execution_role_arn": ROLE + "starter",
    "image": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/flows:7",
    "configure_cloudwatch_logs": True,
    "cloudwatch_logs_options": {"awslogs-group": "/prefect/flows"},
    "secrets": {"TOKEN": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:token-a1B2c3:key::"},
    "subnets": ["subnet-1"],
}


@pytest.fixture(scope="session")
def aws_url(session_directory: Path) -> str:
    return shared_aws(session_directory, "aws")


@asynccontextmanager
async def client(service: str, url: str) -> AsyncIterator[Any]:
    session = aioboto3.Session(aws_access_key_id="any", aws_secret_access_key="any", region_name="us-east-1")
    async with session.client(service, endpoint_url=url) as made:
        yield made


async def pool_with(admin: Admin, **deployments: dict[str, Any]) -> str:
    """A pool whose deployments have these names and job variables."""
    pool = await admin.create_pool(base_job_template=quick_template())
    field = "infra_overrides" if admin.server.line == "2" else "job_variables"
    for name, variables in deployments.items():
        given: dict[str, Any] = {field: variables}
        await admin.create_deployment(pool, name=name, **given)
    return pool


class Command:
    """`ecs-worker iam`, in a directory and for a server."""

    def __init__(self, admin: Admin, home: Path, env: dict[str, str]) -> None:
        self._admin, self._home, self._env = admin, home, env

    async def __call__(self, *arguments: str, **env: str) -> Ended:
        given = {"AWS_REGION": "eu-west-1", **self._env, **env}
        return await ecs_worker(self._home, "iam", *arguments, api_url=self._admin.server.url, env=given)

    async def policy(self, *arguments: str, notes: str = "", **env: str) -> dict[str, dict[str, Any]]:
        """The statements by their names."""
        ended = await self("policy", *arguments, **env)
        assert ended.code == 0, ended
        assert (notes in ended.err) if notes else ended.err == "", ended
        return {statement["Sid"]: statement for statement in json.loads(ended.out)["Statement"]}


@pytest.fixture
def iam(admin: Admin, tmp_path: Path) -> Command:
    return Command(admin, tmp_path, {})


@pytest.fixture
def iam3(admin3: Admin, aws_url: str, tmp_path: Path) -> Command:
    """With an AWS."""
    return Command(
        admin3,
        tmp_path,
        {
            "AWS_ENDPOINT_URL": aws_url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
        },
    )


async def test_a_pools_rights_name_what_its_deployments_use(admin: Admin, iam: Command) -> None:
    pool = await pool_with(admin, flows=FLOWS, named={**FLOWS, "family": "payroll", "cluster": "back-office"})
    found = await iam.policy("worker", "--pool", pool)
    ecs = "arn:aws:ecs:eu-west-1:123456789012:"
    assert found["RunTasks"]["Resource"] == [
        f"{ecs}task-definition/payroll:*",
        f"{ecs}task-definition/prefect_{pool}_*:*",
    ]
    clusters = [f"{ecs}cluster/back-office", f"{ecs}cluster/prod"]
    assert found["RunTasks"]["Condition"] == {"ArnEquals": {"ecs:cluster": clusters}}
    assert found["FindTasks"]["Resource"] == "*"
    assert found["FindTasks"]["Condition"] == {"ArnEquals": {"ecs:cluster": clusters}}
    assert found["WatchAndStopTasks"]["Resource"] == [f"{ecs}task/back-office/*", f"{ecs}task/prod/*"]
    assert found["GiveTasksTheirRoles"]["Resource"] == [ROLE + "flows", ROLE + "starter"]
    group = "arn:aws:logs:eu-west-1:123456789012:log-group:/prefect/flows"
    assert found["ReadContainerOutput"]["Resource"] == [group, f"{group}:*"]
    assert "FindTheDefaultNetwork" not in found, "the jobs name their subnets"
    started = await iam.policy("execution", "--pool", pool, notes="kms:Decrypt")
    assert started["PullImages"]["Resource"] == "arn:aws:ecr:eu-west-1:123456789012:repository/team/flows"
    assert started["ReadSecretsManager"]["Resource"] == FLOWS["secrets"]["TOKEN"].removesuffix(":key::")
    assert started["MakeLogGroups"]["Resource"] == [group, f"{group}:*"]


async def test_the_workers_own_options_and_other_partitions_count(admin: Admin, iam: Command) -> None:
    pool = await pool_with(admin, flows={"start_attempts": 2})
    options = ("--cluster", "arn:aws-cn:ecs:cn-north-1:210987654321:cluster/flows", "--events-queue", "events")
    found = await iam.policy("worker", "--pool", pool, *options, AWS_REGION="cn-north-1")
    definitions = f"arn:aws-cn:ecs:cn-north-1:210987654321:task-definition/prefect_{pool}_*:*"
    assert found["RunTasks"]["Resource"] == definitions
    assert found["ReadTaskEvents"]["Resource"] == "arn:aws-cn:sqs:cn-north-1:210987654321:events"
    assert found["FindTheDefaultNetwork"]["Resource"] == "*"
    assert "GiveTasksTheirRoles" not in found


async def test_jobs_that_ask_for_more_get_more(admin: Admin, iam: Command) -> None:
    volume = {
        "name": "data",
        "mount_path": "/data",
        "managedEBSVolume": {"roleArn": ROLE + "volumes", "sizeInGiB": 10},
    }
    pool = await pool_with(
        admin,
        volume={**FLOWS, "volumes": [volume], "auto_deregister_task_definition": True},
        elsewhere={**FLOWS, "aws_credentials": {"assume_role_arn": "arn:aws:iam::999999999999:role/launcher"}},
        documented={**FLOWS, "run_task_kwargs_path": "s3://bucket/arguments.yaml"},
        inheriting={**FLOWS, "subnets": [], "inherit_network": True},
        theirs={**FLOWS, "aws_credentials": {"aws_access_key_id": "AKIA", "aws_secret_access_key": "of-theirs"}},
        nowhere={**FLOWS, "aws_credentials": {"region_name": "nowhere-1"}},
        broken={**FLOWS, "image": "{{ prefect.blocks.secret.not-there }}"},
    )
    launching = "Some jobs are launched with the role arn:aws:iam::999999999999:role/launcher of their"
    found = await iam.policy("worker", "--pool", pool, notes=launching)
    broken = (await iam("policy", "worker", "--pool", pool)).err
    assert "What the deployment broken (" in broken
    assert "needs can't be told, as it can't be rendered: The block" in broken
    assert "needs can't be told: Unknown region: 'nowhere-1'" in broken
    assert "The worker needs no rights for the deployment theirs (" in broken
    assert "of-theirs" not in broken
    assert "not-there that the job's template or variables name does not exist" in broken
    passed = found["GiveEcsTheRoleThatMakesVolumes"]
    assert passed["Resource"] == ROLE + "volumes"
    assert passed["Condition"] == {"StringEquals": {"iam:PassedToService": "ecs.amazonaws.com"}}
    ecs, tasks = ({"iam:PassedToService": f"{service}.amazonaws.com"} for service in ("ecs", "ecs-tasks"))
    policies = [{"Statement": list(found.values())}]
    assert allowed(policies, Request("iam:PassRole", ROLE + "volumes", ecs))
    assert not allowed(policies, Request("iam:PassRole", ROLE + "volumes", tasks))
    assert not allowed(policies, Request("iam:PassRole", ROLE + "flows", ecs))
    assert found["AssumeTheRolesOfCredentialsBlocks"]["Resource"] == "arn:aws:iam::999999999999:role/launcher"
    assert found["ReadTaskDefinitionsAndArgumentsOnS3"]["Resource"] == "arn:aws:s3:::bucket/arguments.yaml"
    assert found["InheritTheWorkersNetwork"]["Action"] == "ec2:DescribeNetworkInterfaces"
    assert "DeregisterTaskDefinitionsThatWereUsed" in found
    assert "999999999999" not in json.dumps(found["RunTasks"]), "that account's tasks are the other role's"
    other = await iam.policy("worker", "--pool", pool, "--role", "launcher", notes="s3://bucket/arguments.yaml")
    assert other["RunTasks"]["Condition"]["ArnEquals"]["ecs:cluster"] == (
        "arn:aws:ecs:eu-west-1:999999999999:cluster/prod"
    )
    assert "AssumeTheRolesOfCredentialsBlocks" not in other


async def test_the_general_policies_are_those_of_the_files(tmp_path: Path) -> None:
    for whose in ("worker", "execution"):
        ended = await ecs_worker(tmp_path, "iam", "policy", whose)
        assert (ended.code, ended.err) == (0, "")
        assert json.loads(ended.out) == json.loads((TOP / "iam" / f"{whose}-policy.json").read_text(encoding="utf-8"))
    ended = await ecs_worker(tmp_path, "iam", "policy", "execution", "--format", "terraform")
    assert ended.out.startswith('data "aws_iam_policy_document" "ecs_worker_execution" {\n  statement {\n')


async def test_a_reused_definitions_roles_are_passed(admin3: Admin, aws_url: str, iam3: Command) -> None:
    family = f"made-{uuid4().hex[:8]}"
    async with client("ecs", aws_url) as ecs:
        await ecs.register_task_definition(
            family=family,
            containerDefinitions=[{"name": "prefect", "image": "an-image", "memory": 128}],
            taskRoleArn=ROLE + "theirs",
        )
    pool = await pool_with(admin3, reusing={"task_definition_arn": family, "launch_type": "EC2"})
    found = await iam3.policy("worker", "--pool", pool)
    assert found["GiveTasksTheirRoles"]["Resource"] == ROLE + "theirs"
    assert found["RunTasks"]["Resource"] == f"arn:aws:ecs:us-east-1:123456789012:task-definition/{family}:*"
    assert "RegisterTaskDefinitions" not in found
    unknown = await pool_with(admin3, reusing={"task_definition_arn": "not-there", "launch_type": "EC2"})
    await iam3.policy("worker", "--pool", unknown, notes="ECS does not describe the task definition not-there")


@asynccontextmanager
async def role(aws_url: str, *, boundary: dict[str, Any] | None = None, **policies: Any) -> AsyncIterator[str]:
    """A role of a fresh name; of its policies the one called `attached` is a managed one."""
    name = f"worker-{uuid4().hex[:8]}"
    async with client("iam", aws_url) as iam:
        more = {}
        if boundary is not None:
            made = await iam.create_policy(PolicyName=f"{name}-limit", PolicyDocument=json.dumps(boundary))
            more["PermissionsBoundary"] = made["Policy"]["Arn"]
        await iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}", **more)
        for kind, policy in policies.items():
            document = json.dumps(policy)
            if kind == "attached":
                made = await iam.create_policy(PolicyName=f"{name}-{kind}", PolicyDocument=document)
                await iam.attach_role_policy(RoleName=name, PolicyArn=made["Policy"]["Arn"])
            else:
                await iam.put_role_policy(RoleName=name, PolicyName=kind, PolicyDocument=document)
    yield name


def statement(action: Any, resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": action, "Resource": resource, **more}]}


async def test_a_role_with_what_is_printed_differs_in_nothing(admin3: Admin, aws_url: str, iam3: Command) -> None:
    pool = await pool_with(admin3, flows=FLOWS)
    printed = (await iam3("policy", "worker", "--pool", pool)).out
    async with role(aws_url, inline=json.loads(printed)) as name:
        for given in (name, ROLE + name, f"arn:aws:sts::123456789012:assumed-role/{name}/session"):
            ended = await iam3("diff", given, "--pool", pool)
            assert (ended.code, ended.out) == (0, ""), ended
            assert "0 missing, 0 that can't be told, 0 more" in ended.err


async def test_what_a_role_lacks_and_has_beyond_is_told_line_by_line(
    admin3: Admin, aws_url: str, iam3: Command
) -> None:
    pool = await pool_with(admin3, flows=FLOWS)
    policy = json.loads((await iam3("policy", "worker", "--pool", pool)).out)
    kept = [each for each in policy["Statement"] if each["Sid"] not in {"FindTasks", "GiveTasksTheirRoles"}]
    narrowed = {"Version": policy["Version"], "Statement": kept}
    async with role(aws_url, inline=narrowed, attached=statement(["iam:PassRole", "ecs:*"], "*")) as name:
        ended = await iam3("diff", name, "--pool", pool)
    assert ended.code == 0, "wide rights lack nothing"
    assert ended.out.splitlines() == [
        f"more: iam:PassRole on *, in the policy {name}-attached",
        f"more: ecs:* on *, in the policy {name}-attached",
    ]
    async with role(aws_url, inline=narrowed, boundary=statement("ecs:*")) as name:
        ended = await iam3("diff", name, "--pool", pool)
    assert ended.code == 1
    missing = [line for line in ended.out.splitlines() if line.startswith("missing: ")]
    cluster = "arn:aws:ecs:us-east-1:123456789012:cluster/prod"
    assert missing[:2] == [
        f"missing: ecs:ListTasks on * ({cluster})",
        f"missing: iam:PassRole on {ROLE}flows (ecs-tasks.amazonaws.com)",
    ]
    limit = f"outside of the permissions boundary {name}-limit"
    assert all(limit in line for line in missing[3:])
    assert any("logs:GetLogEvents" in line for line in missing[3:])


async def test_an_execution_role_is_held_against_what_its_jobs_need(admin3: Admin, aws_url: str, iam3: Command) -> None:
    async with role(aws_url, inline=statement("ecr:GetAuthorizationToken")) as name:
        pool = await pool_with(admin3, flows={**FLOWS, "execution_role_arn": ROLE + name})
        ended = await iam3("diff", name, "--pool", pool)
    assert ended.code == 1
    assert f"missing: secretsmanager:GetSecretValue on {FLOWS['secrets']['TOKEN'].removesuffix(':key::')}" in ended.out
    assert "GetAuthorizationToken" not in ended.out


async def test_without_a_pool_actions_are_compared(aws_url: str, iam3: Command) -> None:
    async with role(aws_url, inline=statement(["ecs:RunTask", "ecs:DeleteCluster"])) as name:
        ended = await iam3("diff", name)
    assert ended.code == 1
    assert "missing: ecs:StopTask\n" in ended.out
    assert "ecs:RunTask" not in ended.out
    assert "more: ecs:DeleteCluster, in the policy inline\n" in ended.out


async def test_what_is_printed_is_enough_for_a_pools_secrets(admin: Admin, iam: Command) -> None:
    """Also where a secret's ARN lacks the characters that Secrets Manager adds."""
    plain = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:token"
    pool = await pool_with(admin, flows={**FLOWS, "secrets": {"A": plain, "B": "/flows/password"}})
    ended = await iam("policy", "execution", "--pool", pool)
    policies = [json.loads(ended.out)]
    assert allowed(policies, Request("secretsmanager:GetSecretValue", f"{plain}-x9Y8z7"))
    assert not allowed(policies, Request("secretsmanager:GetSecretValue", f"{plain}-of-others-x9Y8z7"))
    parameter = "arn:aws:ssm:eu-west-1:123456789012:parameter/flows/password"
    assert allowed(policies, Request("ssm:GetParameters", parameter))


async def test_what_doctor_reads_is_of_the_pools_own_things(admin: Admin, iam: Command) -> None:
    pool = await pool_with(admin, flows=FLOWS)
    found = await iam.policy("doctor", "--pool", pool, notes="takes the worker's rights, too")
    assert found["LookAtClusters"]["Resource"] == "arn:aws:ecs:eu-west-1:123456789012:cluster/prod"
    assert found["LookAtImages"]["Resource"] == "arn:aws:ecr:eu-west-1:123456789012:repository/team/flows"
    assert found["LookAtRoles"]["Resource"] == ROLE + "*"
    terraform = await iam("policy", "doctor", "--pool", pool, "--format", "terraform")
    assert 'data "aws_iam_policy_document" "ecs_worker_doctor"' in terraform.out
    general = await iam.policy("doctor", notes="takes the worker's rights, too")
    kept = json.loads((TOP / "iam" / "doctor-policy.json").read_text(encoding="utf-8"))
    assert general == {each["Sid"]: each for each in kept["Statement"]}


async def test_bad_input_is_one_sentence(admin3: Admin, aws_url: str, iam3: Command) -> None:
    async with role(aws_url) as name:
        pass
    pool = await pool_with(admin3, flows=FLOWS)
    plain = await pool_with(admin3, flows={"subnets": ["subnet-1"]})
    broken = await pool_with(admin3, flows={"image": "{{ prefect.blocks.secret.not-there }}"})
    other = await admin3.create_pool(type="process")
    nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    for arguments, env, sentence in (
        (("policy", "worker", "--pool", "nowhere"), {}, "There is no work pool 'nowhere'"),
        (("policy", "worker", "--pool", other), {}, "is of type 'process', not 'ecs'"),
        (("policy", "worker", "--pool", pool, "--role", "nobody"), {}, "have no role 'nobody' of that kind"),
        (("policy", "execution", "--pool", plain), {}, "have no execution role: set execution_role_arn"),
        (("policy", "worker", "--role", "some"), {}, "name the pool with --pool"),
        (("policy", "doctor", "--pool", pool, "--role", "some"), {}, "but doctor looks at all: leave it out"),
        (("policy", "worker", "--events-queue", "q"), {}, "name the pool with --pool"),
        (("diff", f"arn:aws:iam::999999999999:role/{name}"), {}, "is not of the account 123456789012"),
        (("policy", "worker", "--pool", pool), {"AWS_REGION": ""}, "There is no AWS Region: set AWS_REGION"),
        (("policy", "worker", "--pool", pool), {"AWS_REGION": "nowhere-1"}, "Unknown region: 'nowhere-1'"),
        (("policy", "worker", "--pool", plain), nobody, "The AWS account can't be told"),
        (("diff", "nobody", "--pool", pool), {}, "There is no role 'nobody' in this account"),
        (("diff", "arn:aws:iam::123456789012:user/me"), {}, "is no role: give its name, or an ARN like"),
        (("diff", "some"), nobody, "There are no AWS credentials"),
        (("policy", "worker", "--pool", broken), {}, "it can't be rendered: The block"),
    ):
        ended = await iam3(*arguments, **env)
        assert ended.code == 2, (arguments, ended)
        assert sentence in ended.err, (arguments, ended)
        assert ended.out == ""
        assert "Traceback" not in ended.err
