"""What the embedded AWS refuses is told before, and what is not told before it doesn't refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from moto.core.exceptions import ServiceException

from ecs_worker.job.assembly import draft, in_network
from ecs_worker.job.attached import with_documents
from ecs_worker.job.checks.rules import problems_of
from ecs_worker.job.configuration import JobConfiguration, render_configuration
from ecs_worker.job.requests import FoundNetwork, network_need, runs_on_fargate
from ecs_worker.job.variables import default_base_job_template
from ecs_worker.local import rules as ecs
from ecs_worker.settings import JobDefaults
from support.builders import ANY_RUN

if TYPE_CHECKING:
    from ecs_worker.job.job import Job

ROLE = "arn:aws:iam::123456789012:role/r"
SECRET = "arn:aws:secretsmanager:eu-west-1:1:secret:k"
WINDOWS = {"operating_system_family": "WINDOWS_SERVER_2022_CORE"}
INSTANCES = {"capacity_provider_strategy": [{"capacityProvider": "my-instances", "weight": 1}]}
ON_HOST = {"volumes": [{"name": "v", "mount_path": "/v", "host": {"sourcePath": "/data"}}]}
GELF = {"container_patch": {"logConfiguration": {"logDriver": "gelf", "options": {"gelf-address": "udp://h:1"}}}}
ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/i:1"
SIDE = {"name": "side", "image": "i", "essential": False}


def with_side(**changes: Any) -> dict[str, Any]:
    """Job variables of a task definition with a side-car that is changed like this."""
    side = {key: value for key, value in (SIDE | changes).items() if value is not None}
    return {"task_definition": {"containerDefinitions": [{"name": "flow", "image": "i"}, side]}}


def overriding(**override: Any) -> dict[str, Any]:
    return {"run_task_kwargs": {"overrides": {"containerOverrides": [{"command": ["x"]}, override]}}}


def logging(options: dict[str, str]) -> dict[str, Any]:
    return {"container_patch": {"logConfiguration": {"logDriver": "awslogs", "options": options}}}


def job(variables: dict[str, Any]) -> Job:
    configuration = JobConfiguration.load(render_configuration(default_base_job_template(), variables, {}))
    configuration = with_documents(configuration, {}, JobDefaults())
    made = draft(configuration, ANY_RUN, came_from=dict.fromkeys(variables, "the table"))
    need = network_need(configuration, ANY_RUN, made.definition)
    return in_network(made, need, FoundNetwork(["subnet-1"])) if need else made


def refused_by_ecs(made: Job) -> bool:
    launch_type = "FARGATE" if runs_on_fargate(made.run_task) else "EC2"
    try:
        ecs.check_register(made.definition)
        fits = ecs.compatibilities({"networkMode": "bridge", **made.definition})
        described = {"networkMode": "bridge", **made.definition, "compatibilities": fits}
        ecs.check_run(made.run_task)
        ecs.check_fit(made.run_task, described, launch_type=launch_type)
        if strategy := made.run_task.get("capacityProviderStrategy"):
            ecs.check_strategy(strategy, {str(item.get("capacityProvider")) for item in strategy}, made.definition)
    except ServiceException:
        return True
    return False


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"secrets": {"A": SECRET}}, "Container 'prefect' has secrets, which needs an execution role"),
    ({"image": ECR}, "has an image on ECR (from the table), which on Fargate needs an execution role"),
    (overriding(name="sidcar", command=["y"]), "(from the table) has an override for container 'sidcar'; name one"),
    (
        {"run_task_patch": {"overrides": {"containerOverrides": [{"command": ["y"]}]}}},
        "The RunTask request (from the table) has an override without a container's name",
    ),
    (with_side(name=None), "A container of the task definition has no name"),
    (with_side(image=None), "Container 'side' of the task definition has no image"),
    (with_side(name="flow"), "several containers named 'flow'"),
    ({**with_side(), "launch_type": "EC2"}, "Container 'side' has no memory, nor has the task definition"),
    (with_side(dependsOn=[{"containerName": "nobody", "condition": "START"}]), "depends on 'nobody'"),
    (with_side(dependsOn=[{"containerName": "side", "condition": "START"}]), "The containers side wait for each other"),
    ({"task_definition_patch": {"containerDefinitions": [{"name": "a b", "image": "i"}]}}, "The container name 'a b'"),
    ({"run_task_patch": {"tags": {"a!": "b"}}}, "The task has the label 'a!'"),
    ({"run_task_patch": {"tags": {"a": "b" * 257}}}, "is too long: a key has 1 to 128 characters"),
    ({"task_definition_patch": {"tags": [{"key": "aws:a", "value": ""}]}}, "The task definition has the label 'aws:a'"),
    ({"task_definition_patch": {"tags": [{"key": "k" * 200, "value": ""}]}}, "is too long: a key has 1 to 128"),
    (
        {"task_definition": {"tags": [{"key": "team", "value": value} for value in "ab"]}},
        "The task definition has the label 'team' several times",
    ),
    ({**logging({"awslogs-group": "g"}), "execution_role_arn": ROLE}, "without awslogs-stream-prefix"),
    ({**logging({"awslogs-stream-prefix": "p"})}, "Container 'prefect' logs to CloudWatch, which on Fargate needs"),
    (
        {
            "launch_type": "EC2",
            "run_task_kwargs": {"networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"]}}},
        },
        "RunTask's networkConfiguration (from the table) needs network mode 'awsvpc'",
    ),
    ({"container_patch": {"stopTimeout": 121}}, "stop_timeout_seconds is 121 for container 'prefect'"),
    ({"task_definition_patch": {"networkMode": "host"}}, "needs network mode 'awsvpc', but the task definition has"),
    ({"cpu": 300}, "is no pair that Fargate runs"),
    ({"enable_execute_command": True}, "needs a task role"),
    ({"container_patch": {"essential": False}}, "No container of the task definition is essential"),
    ({"run_task_patch": {"count": 11}}, "RunTask's count is 11"),
    ({"launch_type": "fargate"}, "which ECS doesn't know"),
    ({"run_task_patch": {"overrides": {"cpu": 512, "memory": 512}}}, "cpu 512 with memory 512 is no pair"),
    (
        {"launch_type": "MANAGED_INSTANCES"},
        "(from the table), but Managed Instances are reached by a capacity",
    ),
    (
        {**WINDOWS, "cpu": 512, "memory": 1024},
        "is no pair that Fargate runs for Windows: take cpu 1024 with memory 2048, the next that it runs",
    ),
    ({**WINDOWS, "cpu": 8192, "memory": 16384}, "is no pair that Fargate runs for Windows: take less, or another"),
    (
        {**WINDOWS, "launch_type": "FARGATE_SPOT"},
        "The task may run on FARGATE_SPOT (from the table), which has no Windows (from the table); choose FARGATE.",
    ),
    (
        {
            **WINDOWS,
            "capacity_provider_strategy": [
                {"capacityProvider": "FARGATE", "weight": 1},
                {"capacityProvider": "FARGATE_SPOT", "weight": 1},
            ],
        },
        "The task may run on FARGATE_SPOT (from the table), which has no Windows",
    ),
    ({**WINDOWS, "linux_init": True}, "has linux_init (from the table), which Windows doesn't have; leave that out."),
    (
        {**WINDOWS, "launch_type": "EC2", "container_patch": {"linuxParameters": {"sharedMemorySize": 64}}},
        "Container 'prefect' has linuxParameters, which Windows doesn't have; leave that out.",
    ),
    (GELF, "logs by the driver 'gelf', which Fargate doesn't have; choose awslogs, splunk or awsfirelens, or launch"),
    (
        {"container_patch": {"privileged": True}},
        "Container 'prefect' is privileged, which Fargate refuses; leave that out, or choose launch type EC2.",
    ),
    (ON_HOST, "The volume 'v' (from the table) has a host.sourcePath, which Fargate refuses; leave that out, or"),
    (
        {
            "launch_type": "EC2",
            "task_definition_patch": {"requiresCompatibilities": ["EC2", "FARGATE"], "networkMode": "awsvpc"},
            "cpu": 1024,
            "container_patch": {"stopTimeout": 600},
            "subnets": ["subnet-1"],
        },
        "stop_timeout_seconds is 600 for container 'prefect', but Fargate allows 2 to 120",
    ),
]

# The embedded AWS doesn't look at these.
REFUSED_BY_AWS_ALONE: list[tuple[dict[str, Any], str]] = [
    ({"launch_type": "EXTERNAL", "subnets": ["subnet-1"]}, "which has no network mode 'awsvpc'"),
    (
        {"environment_files": [f"arn:aws:s3:::b/{n}.env" for n in range(11)]},
        "has 11 environment files (from the table); ECS allows 10",
    ),
    (
        {"volumes": [{"name": "v", "mount_path": "/v", "managedEBSVolume": {}}]},
        "The volume 'v' (from the table) has no roleArn and no sizeInGiB or snapshotId",
    ),
    ({"volumes": [{"name": "a b", "mount_path": "/v"}]}, "The volume name 'a b' (from the table) has other characters"),
    (
        {"volumes": [{"name": "a", "mount_path": "/v"}, {"name": "b", "mount_path": "/v"}]},
        "mounts several volumes at '/v' (from the table)",
    ),
    ({"container_patch": {"mountPoints": [{"sourceVolume": "v", "containerPath": "/"}]}}, "mounts the volume 'v'"),
    ({"task_definition_patch": {"volumes": [{"name": "v"}, {"name": "v"}]}}, "several volumes named 'v'"),
    ({"network_configuration": {"assignPublicIp": True}}, "assignPublicIp is True (from the table); write ENABLED"),
    ({"operating_system_family": "linux"}, "operating_system_family is 'linux' (from the table)"),
    ({"task_definition_patch": {"ephemeralStorage": {"sizeInGiB": 20}}}, "ephemeralStorage is 20 GiB"),
    ({"run_task_patch": {"overrides": {"ephemeralStorage": {"sizeInGiB": 201}}}}, "ephemeralStorage is 201 GiB"),
    ({"stop_timeout_seconds": 0}, "stop_timeout_seconds is 0 (from the table) for container 'prefect', but Fargate"),
]

ACCEPTED: list[dict[str, Any]] = [
    {},
    {"launch_type": "EC2"},
    {"launch_type": "EC2", "subnets": ["subnet-1"]},
    {"launch_type": "FARGATE_SPOT", "image": ECR, "execution_role_arn": ROLE, "secrets": {"A": SECRET}},
    {"capacity_provider_strategy": [{"capacityProvider": "asg", "weight": 1}]},
    {"configure_cloudwatch_logs": True, "execution_role_arn": ROLE, "labels": {"é": "ü!", "a" * 200: "b" * 300}},
    {**with_side(memory=64), "launch_type": "EC2"},
    {**with_side(dependsOn=[{"containerName": "flow", "condition": "START"}]), **overriding(name="side", memory=99)},
    {"run_task_patch": {"overrides": {"cpu": 512, "memory": "1 GB"}}},
    {"launch_type": "EC2", "stop_timeout_seconds": 600},
    {**INSTANCES, "stop_timeout_seconds": 600},
    {**INSTANCES, "cpu": 3072, "memory": 10240, "gpu": 1, "placement_strategy": [{"type": "random"}]},
    {**INSTANCES, "task_definition_patch": {"requiresCompatibilities": ["MANAGED_INSTANCES"]}},
    {**INSTANCES, **GELF},
    {**INSTANCES, **ON_HOST, "task_definition_patch": {"networkMode": "host"}},
    {"launch_type": "EC2", "container_patch": {"privileged": True}, "image": ECR},
    {"launch_type": None, "ephemeral_storage_gib": 50, "platform_version": "1.4.0"},
    {"launch_type": None, "cpu": 3000, "memory": 10_000, "stop_timeout_seconds": 600},
    {"launch_type": None, "subnets": ["subnet-1"], "assign_public_ip": True},
    {"environment_files": ["arn:aws:s3:::bucket/my team/my file.env"]},
    {**WINDOWS},
    {**WINDOWS, "cpu": 512, "memory": 1024, "round_up_resources": True},
    {**WINDOWS, "cpu": 4096, "memory": 8192},
    {**WINDOWS, "launch_type": "EC2", "cpu": 512, "memory": 1024},
    {"volumes": [{"name": "scratch", "mount_path": "/scratch", "host": {}}]},
    {"container_patch": {"stopTimeout": 120}, "env": {f"A{n}": "a" * 900 for n in range(20)}},
]


@pytest.mark.parametrize(("variables", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_what_the_embedded_aws_refuses_is_told_before(variables: dict[str, Any], sentence: str) -> None:
    made = job(variables)
    assert refused_by_ecs(made), "the table is out of date"
    told(made, sentence)


@pytest.mark.parametrize(
    ("variables", "sentence"), REFUSED_BY_AWS_ALONE, ids=[sentence for _, sentence in REFUSED_BY_AWS_ALONE]
)
def test_what_aws_refuses_is_told_before(variables: dict[str, Any], sentence: str) -> None:
    told(job(variables), sentence)


def told(made: Job, sentence: str) -> None:
    found = problems_of(made)
    assert any(sentence in problem for problem in found), found
    assert all(problem.endswith(".") for problem in found)


@pytest.mark.parametrize("variables", ACCEPTED, ids="-".join)
def test_what_is_right_is_accepted_by_both(variables: dict[str, Any]) -> None:
    made = job(variables)
    assert problems_of(made) == []
    assert not refused_by_ecs(made)
