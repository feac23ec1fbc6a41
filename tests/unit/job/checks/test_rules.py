"""What is refused before AWS is asked."""

from __future__ import annotations

from typing import Any

import pytest

from ecs_worker.settings import JobDefaults
from support.jobs import ROLE, build, context, problems

AWSLOGS = {"logDriver": "awslogs", "options": {}}


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"cpu": 300}, {}, "cpu 300 (from the deployment's job variables) with memory 2048 is no pair"),
    ({"cpu": 65536}, {}, "take less, or another launch type"),
    ({"cpu": "much"}, {}, "cpu is 'much' (from the deployment's job variables), which is no amount"),
    ({"run_task_patch": {"count": 2}}, {}, "RunTask's count is 2"),
    ({"memory": "0.0001 GB"}, {}, "memory is '0.0001 GB' (from the deployment's job variables), which is"),
    ({"configure_cloudwatch_logs": True}, {}, "set execution_role_arn"),
    ({"cloudwatch_logs_options": {"a": "b"}}, {}, "configure_cloudwatch_logs is off"),
    ({"stream_output": "perhaps"}, {}, "stream_output is 'perhaps' (from the deployment's job variables)"),
    ({"command": "a 'b"}, {}, "command (from the deployment's job variables) can't be split into words: no closing"),
    ({"env": "A=1"}, {}, "input should be a valid dictionary"),
    ({"ephemeral_storage_gib": 5}, {}, "ephemeral_storage_gib is 5"),
    ({"ephemeral_storage_gib": 50, "launch_type": "EC2"}, {}, "is only for Fargate"),
    ({"gpu": 1}, {}, "gpu (from the deployment's job variables) has no use on Fargate"),
    ({"enable_execute_command": True}, {}, "needs a task role"),
    ({"task_role_arn": "arn:aws:iam:role"}, {}, "task_role_arn is 'arn:aws:iam:role'"),
    ({"cluster": "a b"}, {}, "cluster is 'a b'"),
    ({"environment_files": ["s3://b/x.env"]}, {}, "environment_files is 's3://b/x.env'"),
    ({"secrets": {"S": "arn:aws:s3:::x"}, "execution_role_arn": ROLE}, {}, "The secret S does not come from"),
    ({"labels": {"aws:x": "1"}}, {}, "'aws:x' (from the deployment's job variables), which starts with 'aws:'"),
    ({"labels": {f"l{n}": "1" for n in range(40)}}, {}, "would have 52 tags"),
    (
        {"subnets": [f"subnet-{n}" for n in range(17)]},
        {},
        "has 17 subnets (from the deployment's job variables), but ECS allows 16; name fewer.",
    ),
    ({"subnets": ["s"], "security_groups": ["g"] * 6}, {}, "has 6 securityGroups (from the deployment"),
    (
        {"vpc_id": "vpc-1", "network_configuration": {"securityGroups": "sg-1"}},
        {},
        "network_configuration.securityGroups is 'sg-1' (from the deployment's job variables): input should be a valid",
    ),
    (
        {"run_task_patch": {"networkConfiguration": {"awsvpcConfiguration": {"subnets": "subnet-1"}}}},
        {},
        "awsvpcConfiguration.subnets is 'subnet-1' (from the deployment's job variables): input should be a valid list",
    ),
    ({"capacity_provider_strategy": [{"capacityProvider": "FARGATE", "weight": 0}]}, {}, "no item with a weight"),
    (
        {"capacity_provider_strategy": [{"capacityProvider": p, "weight": 1, "base": 1} for p in ("FARGATE", "asg")]},
        {},
        "mixes Fargate with asg",
    ),
    (
        {"capacity_provider_strategy": [{"capacityProvider": p, "weight": 1, "base": 1} for p in ("a", "b")]},
        {},
        "several items with a base",
    ),
    ({"capacity_provider_strategy": [{"capacityProvider": "a", "weight": 1}] * 21}, {}, "has 21 items"),
    ({"capacity_provider_strategy": [{"weight": 1}]}, {}, "has an item without capacityProvider; name one"),
    ({"capacity_provider_strategy": [{"capacityProvider": "a", "weight": "1"}]}, {}, "weight '1'; write a number from"),
    ({"capacity_provider_strategy": [{"capacityProvider": "a", "weight": 1001}]}, {}, "a number from 0 to 1000."),
    ({"launch_type": "fargate"}, {}, "launch_type is 'fargate' (from the deployment's job variables), which ECS"),
    ({"launch_type": ["FARGATE"]}, {}, "choose FARGATE, EC2, EXTERNAL or FARGATE_SPOT."),
    (
        {"run_task_patch": {"launchType": "EC2", "capacityProviderStrategy": [{"capacityProvider": "a", "weight": 1}]}},
        {},
        "has both launchType and capacityProviderStrategy",
    ),
    (
        {"launch_type": "EC2", "subnets": ["s"], "assign_public_ip": True},
        {},
        "The task gets a public address (from the deployment's job variables), which ECS gives only to",
    ),
    (
        {"launch_type": "EC2", "capacity_provider_strategy": [{"capacityProvider": "FARGATE", "weight": 1}]},
        {"task_definition": {"networkMode": "bridge"}},
        "capacity_provider_strategy (from the deployment's job variables) is for Fargate, which needs network mode",
    ),
    (
        {"run_task_patch": {"launchType": "EXTERNAL"}},
        {"task_definition": {"requiresCompatibilities": ["EC2"]}},
        "run_task_patch (from the deployment's job variables) chooses EXTERNAL, but the task definition requires",
    ),
    (
        {"launch_type": "MANAGED_INSTANCES"},
        {},
        "but Managed Instances are reached by a capacity provider: leave launch_type out, and name theirs in capacity",
    ),
    (
        {"launch_type": "FARGATE_SPOT", "operating_system_family": "WINDOWS_SERVER_2022_CORE"},
        {},
        "The task may run on FARGATE_SPOT (from the deployment's job variables), which has no Windows",
    ),
    (
        {"ephemeral_storage_gib": 50, "launch_type": None},
        {"task_definition": {"requiresCompatibilities": ["EC2"]}},
        "is only for Fargate",
    ),
    (
        {"ephemeral_storage_gib": 50, "capacity_provider_strategy": [{"capacityProvider": "asg", "weight": 1}]},
        {},
        "is only for Fargate",
    ),
    ({"image": ["a"]}, {}, "image is a list (from the deployment's job variables): input should be"),
    ({"family": ["a"]}, {}, "family is a list (from the deployment's job variables): input should be"),
    ({"task_definition_arn": {"a": 1}}, {}, "task_definition_arn is a dict (from the deployment's job variables)"),
    (
        {"task_definition": {"containerDefinitions": {}}},
        {},
        "task_definition.containerDefinitions is a dict (from the deployment's job variables): input should be",
    ),
    ({}, {"task_definition": {"networkMode": "bridge"}}, "needs network mode 'awsvpc'"),
    ({"launch_type": "EC2"}, {"task_definition": {"requiresCompatibilities": ["EXTERNAL"]}}, "requires EXTERNAL"),
    (
        {"launch_type": "EC2", "subnets": ["s"]},
        {"task_definition": {"networkMode": "host"}},
        "need network mode 'awsvpc', but the task definition has 'host'",
    ),
    (
        {},
        {"task_definition": {"containerDefinitions": [{"name": "prefect", "essential": False}]}},
        "No container of the task definition is essential",
    ),
    (
        {},
        {"task_definition": {"containerDefinitions": [{"name": "prefect", "logConfiguration": AWSLOGS}]}},
        "Container 'prefect' logs to CloudWatch",
    ),
    (
        {"container_name": "コンテナ"},
        {"task_definition": {"containerDefinitions": [{"name": "y"}]}},
        "container_name is 'コンテナ' (from the deployment's job variables), but the task definition has only y",
    ),
    ({"container_name": "x"}, {"task_definition": {"containerDefinitions": [{"name": "y"}]}}, "container_name is 'x'"),
    (
        {},
        {"task_definition": {"containerDefinitions": [{"name": f"c{n}", "image": "i"} for n in range(11)]}},
        "The task definition (from the work pool's template) has 11 containers, but ECS allows 10; leave some out.",
    ),
    (
        {},
        {"task_definition": {"containerDefinitions": ["prefect"]}},
        "task_definition.containerDefinitions.0 is 'prefect': input",
    ),
    (
        {"task_definition_patch": {"containerDefinitions": None}},
        {},
        "task_definition_patch.containerDefinitions (from the deployment's job variables): input should be a",
    ),
    (
        {"network_configuration": {"awsvpcConfiguration": "x"}},
        {},
        "network_configuration.awsvpcConfiguration is 'x' (from the deployment's job variables): input should be a",
    ),
    ({"network_configuration": {"subnets": "subnet-1"}}, {}, "network_configuration.subnets is 'subnet-1'"),
    ({"run_task_patch": {"networkConfiguration": "x"}}, {}, "run_task_patch.networkConfiguration is 'x'"),
    ({"aws_credentials": {"assume_role_kwargs": "x"}}, {}, "aws_credentials.assume_role_kwargs (from the"),
    ({"aws_credentials": {"aws_client_parameters": [1]}}, {}, "aws_credentials.aws_client_parameters (from the"),
    ({}, {"task_definition": {"volumes": ["d"]}}, "task_definition.volumes.0 is 'd': input should be a valid"),
    ({}, {"task_definition": {"tags": [{"value": "x"}]}}, "task_definition.tags.0.key: field required"),
    ({"container_patch": {"resourceRequirements": ["x"]}}, {}, "container_patch.resourceRequirements.0 is 'x' (from"),
    ({"container_patch": {"linuxParameters": "x"}}, {}, "container_patch.linuxParameters is 'x'"),
    (
        {"container_patch": {"command": {}}},
        {},
        "container_patch.command is a dict (from the deployment's job variables):",
    ),
    ({}, {"task_definition": {"requiresCompatibilities": "FARGATE"}}, "requiresCompatibilities is 'FARGATE'"),
    (
        {"run_task_kwargs": {"overrides": {"containerOverrides": [{"environmentFiles": 5}]}}},
        {},
        "run_task_kwargs.overrides.containerOverrides.0.environmentFiles (from the deployment's job variables)",
    ),
    ({"cpu": "9" * 400}, {}, "(from the deployment's job variables), which is no amount"),
    ({"task_definition_patch": {"containerDefinitions": 5}}, {}, "task_definition_patch.containerDefinitions is 5"),
    ({"container_patch": {"dockerLabels": {"a": "b" * 66000}}}, {}, "bytes; ECS allows 65536"),
    (
        {"run_task_patch": {"networkConfiguration": {"awsvpcConfiguration": {"subnets": []}}}},
        {},
        "The task needs subnets",
    ),
]


@pytest.mark.parametrize(("variables", "changes", "sentence"), REFUSED, ids=[sentence for *_, sentence in REFUSED])
def test_what_aws_would_refuse_is_told_before(
    variables: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    found = problems(variables, **changes)
    assert any(sentence in problem for problem in found), found
    assert all(problem.endswith(".") for problem in found)


def test_managed_instances_as_launch_type_get_one_advice() -> None:
    [problem] = problems({"launch_type": "MANAGED_INSTANCES"})
    assert "capacity_provider_strategy" in problem


def test_a_long_command_is_told_as_such() -> None:
    [problem] = problems({"command": f"echo {'x' * 9000}"})
    assert "Most take command (9" in problem
    assert problem.endswith(" (from the deployment's job variables): shorten it, or keep it in a file.")


def test_env_that_doesn_t_fit_beside_a_reused_definition_can_go_into_a_derived_one() -> None:
    described = {
        "networkMode": "awsvpc",
        "cpu": "1024",
        "memory": "2048",
        "containerDefinitions": [{"name": "prefect"}],
    }
    [problem] = problems({"task_definition_arn": "f:1", "env": {"BIG": "b" * 9000}}, described=described)
    assert "Most take BIG (9000) (from the deployment's job variables): set derive_task_definition" in problem


STREAMS = {"awslogs-stream-prefix": "p"}
REUSED = {"networkMode": "awsvpc", "cpu": "1024", "memory": "2048", "containerDefinitions": [{"name": "prefect"}]}


@pytest.mark.parametrize(
    ("variables", "described"),
    [
        ({"configure_cloudwatch_logs": True}, {}),
        ({}, {"containerDefinitions": [{"name": "prefect", "logConfiguration": AWSLOGS | {"options": STREAMS}}]}),
    ],
    ids=["logs of the job's", "logs of the definition's"],
)
def test_a_definition_that_is_used_as_it_is_needs_a_role_of_its_own(
    variables: dict[str, Any], described: dict[str, Any]
) -> None:
    job = {"task_definition_arn": "f:1", "execution_role_arn": ROLE, **variables}
    described = {**REUSED, "requiresCompatibilities": ["FARGATE"], **described}
    [problem] = problems(job, described=described)
    assert problem.endswith(
        "; execution_role_arn has no effect, as f:1 is used as it is: register a revision of it that has an "
        "executionRoleArn, or set derive_task_definition and execution_role_arn."
    )
    build(job, described={**described, "executionRoleArn": ROLE})
    build(job | {"run_task_patch": {"overrides": {"executionRoleArn": ROLE}}}, described=described)
    definition, _ = build(job | {"derive_task_definition": True}, described=described)
    assert definition["executionRoleArn"] == ROLE
    [problem] = problems(job | {"derive_task_definition": True, "execution_role_arn": None}, described=described)[:1]
    assert problem.endswith("; set execution_role_arn.")


def test_what_the_template_fixes_or_the_worker_says_is_told_as_theirs() -> None:
    fixed = {"task_definition": {"cpu": "300", "memory": "300"}, "task_run_request": {}}
    [problem] = problems({"cpu": 256, "memory": 512}, **fixed)
    assert "cpu 300 (from the work pool's template) with memory 300 (from the work pool's template)" in problem
    defaults = JobDefaults(cluster="a b", labels={"aws:x": "1"})
    found = problems({}, about=context(defaults=defaults))
    assert found[0].startswith("cluster is 'a b' (from the worker's --cluster), which")
    assert found[1].startswith("The task has the label 'aws:x' (from the worker's --label), which")
    [problem] = problems({"cluster": "c d"}, about=context(defaults=defaults), labels={})[:1]
    assert problem.startswith("cluster is 'c d' (from the deployment's job variables)")


def test_env_that_fits_nowhere_names_the_largest() -> None:
    run = {"env": {"HUGE": "h" * 9000}}
    [problem] = problems({}, run_variables=run, about=context(run))
    assert "HUGE (9000)" in problem
    assert "(from the flow run's job variables)" in problem


def test_all_problems_are_told_at_once_and_secrets_are_not() -> None:
    found = problems({"cpu": 300, "labels": {"aws:x": "1"}, "cluster": "a b"})
    assert len(found) == 3
    found = problems({"aws_credentials": "AKIA-secret", "env": ["hunter2"], "stream_output": "x", "gpu": 0})
    assert {problem.split(" ")[0].split(".")[0].rstrip(":") for problem in found} == {
        "env",
        "aws_credentials",
        "stream_output",
        "gpu",
        "task_run_request",
    }
    assert not any(secret in problem for problem in found for secret in ("AKIA", "hunter2"))
