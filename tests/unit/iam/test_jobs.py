"""What a job needs, read off its requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ecs_worker.iam.jobs import asks_for, assumed_role, launcher, launches, named_account, starts
from ecs_worker.iam.rights import ExecutionNeeds, Scope
from ecs_worker.job.assembly import draft
from support.jobs import ROLE, context, load

if TYPE_CHECKING:
    from ecs_worker.job.job import Job

HERE = Scope("aws", "eu-west-1", "123456789012")
DEFINITIONS = "arn:aws:ecs:eu-west-1:123456789012:task-definition/"
SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:token-a1B2c3"


def job(described: dict[str, Any] | None = None, **variables: Any) -> Job:
    return draft(load(variables), context(), described)


def started(**variables: Any) -> ExecutionNeeds:
    found = starts(job(execution_role_arn=ROLE, **variables), HERE)
    assert found is not None
    assert found[0] == ROLE
    return found[1]


def test_a_plain_job_runs_what_is_named_after_its_pool() -> None:
    needs = launches(job(), HERE)
    assert needs.runs == needs.registers == {f"{DEFINITIONS}prefect_pool_*:*"}
    assert needs.clusters == {"arn:aws:ecs:eu-west-1:123456789012:cluster/default"}
    assert needs.finds_network
    assert not needs.task_roles | needs.volume_roles | needs.logs


def test_a_job_that_reuses_a_definition_registers_none() -> None:
    described = {"family": "made", "taskRoleArn": ROLE, "containerDefinitions": [{"name": "prefect"}]}
    needs = launches(job(described, task_definition_arn="made:3", auto_deregister_task_definition=True), HERE)
    assert needs.runs == {f"{DEFINITIONS}made:3"}
    assert needs.task_roles == {ROLE}
    assert not needs.registers
    assert not needs.deregisters, "it is not ours"


def test_a_derived_definition_is_registered_in_a_family_of_its_own() -> None:
    described: dict[str, Any] = {"family": "made", "containerDefinitions": [{"name": "prefect", "image": "one"}]}
    variables: dict[str, Any] = {"task_definition_arn": "made:3", "derive_task_definition": True, "image": "two"}
    assert launches(job(described, **variables), HERE).registers == {f"{DEFINITIONS}made-derived:*"}
    untold = launches(job(None, **variables), HERE)
    assert untold.registers == {f"{DEFINITIONS}made-derived:*"}
    assert untold.runs == {f"{DEFINITIONS}made:3", f"{DEFINITIONS}made-derived:*"}


def test_log_groups_are_where_the_log_driver_says() -> None:
    options = {"awslogs-group": "g", "awslogs-region": "us-east-1"}
    given: dict[str, Any] = {"configure_cloudwatch_logs": True, "cloudwatch_logs_options": options}
    assert launches(job(execution_role_arn=ROLE, **given), HERE).logs == {
        "arn:aws:logs:us-east-1:123456789012:log-group:g"
    }
    needs = started(**given)
    assert needs.logs == needs.new_logs == {"arn:aws:logs:us-east-1:123456789012:log-group:g"}
    kept = {"cloudwatch_logs_options": options | {"awslogs-create-group": "false"}}
    assert not started(**(given | kept)).new_logs


@pytest.mark.parametrize(
    ("image", "repositories"),
    [
        ("prefecthq/prefect:3-latest", set()),
        ("public.ecr.aws/team/flows:1", set()),
        (
            "210987654321.dkr.ecr.us-east-1.amazonaws.com/team/flows@sha256:0a1b",
            {"arn:aws:ecr:us-east-1:210987654321:repository/team/flows"},
        ),
        (
            "210987654321.dkr.ecr.cn-north-1.amazonaws.com.cn/flows",
            {"arn:aws:ecr:cn-north-1:210987654321:repository/flows"},
        ),
    ],
)
def test_images_of_ecr_are_pulled_with_the_execution_role(image: str, repositories: set[str]) -> None:
    assert started(image=image).repositories == repositories


def test_all_that_ecs_reads_for_a_container_is_found() -> None:
    container = {
        "secrets": [{"name": "A", "valueFrom": "flows/password"}],
        "repositoryCredentials": {"credentialsParameter": SECRET},
        "logConfiguration": {"logDriver": "splunk", "secretOptions": [{"name": "B", "valueFrom": f"{SECRET}:k::"}]},
    }
    needs = started(container_patch=container, environment_files=["arn:aws:s3:::bucket/flows.env"])
    assert needs.secrets == {SECRET}
    assert needs.parameters == {"arn:aws:ssm:eu-west-1:123456789012:parameter/flows/password"}
    assert needs.environment_files == {"arn:aws:s3:::bucket/flows.env"}
    assert not needs.logs


def test_a_job_without_an_execution_role_starts_with_none() -> None:
    assert starts(job(), HERE) is None


def test_files_on_s3_are_read_by_the_worker() -> None:
    needs = asks_for(job(run_task_kwargs_path="s3://bucket/a.yaml", task_definition_path="local.yaml"), "aws-cn")
    assert needs.documents == {"arn:aws-cn:s3:::bucket/a.yaml"}


@pytest.mark.parametrize(
    ("block", "who", "assumed"),
    [
        ({}, "", None),
        ({"region_name": "us-east-1"}, "", None),
        ({"assume_role_arn": ROLE}, ROLE, ROLE),
        ({"assume_role_arn": ROLE, "aws_access_key_id": "AKIA", "aws_secret_access_key": "********"}, ROLE, None),
        ({"profile_name": "theirs"}, None, None),
    ],
)
def test_whose_credentials_launch_it(block: dict[str, str], who: str | None, assumed: str | None) -> None:
    made = job(aws_credentials=block)
    assert (launcher(made), assumed_role(made)) == (who, assumed)


def test_the_account_is_that_of_the_roles_and_the_cluster() -> None:
    assert named_account(job()) is None
    assert named_account(job(task_role_arn=ROLE)) == "123456789012"
    assert named_account(job(cluster="arn:aws-us-gov:ecs:us-gov-west-1:210987654321:cluster/c")) == "210987654321"
    other = {"assume_role_arn": "arn:aws:iam::999999999999:role/r"}
    assert named_account(job(aws_credentials=other, task_role_arn=ROLE)) == "999999999999"
