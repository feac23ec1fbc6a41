"""Task definitions and RunTask arguments that a job brings along."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ecs_worker.errors import JobInvalid
from ecs_worker.job.attached import (
    Document,
    derived,
    documents,
    ignored_variables,
    ignored_warning,
    with_default_arguments,
    with_documents,
)
from ecs_worker.job.configuration import JobConfiguration, render_configuration
from ecs_worker.job.requests import network_need, prepare_requests
from ecs_worker.job.variables import default_base_job_template
from ecs_worker.settings import JobDefaults
from support.builders import ANY_RUN

CONTEXT = replace(ANY_RUN, run=replace(ANY_RUN.run, deployment_id=None))


def load(variables: dict[str, Any]) -> JobConfiguration:
    return JobConfiguration.load(render_configuration(default_base_job_template(), variables, {}))


def build(configuration: JobConfiguration) -> tuple[dict[str, Any], dict[str, Any]]:
    definition, request = prepare_requests(configuration, CONTEXT)
    return dict(definition), request


SIDE = {"name": "side", "image": "envoy:1", "essential": False}


@pytest.mark.parametrize(
    ("containers", "variables", "expected"),
    [
        ([SIDE, {"name": "flow", "image": "f"}], {}, [SIDE, {"name": "flow", "image": "f"}]),
        ([SIDE, {"name": "prefect", "image": "f"}], {"image": "g"}, [SIDE, {"name": "prefect", "image": "g"}]),
        ([SIDE], {}, [SIDE, {"name": "flow", "image": "prefecthq/prefect:3.8.8-python3.12"}]),
        ([], {"image": "g"}, [{"name": "flow", "image": "g"}]),
        ([{"name": "flow", "image": "f"}, SIDE], {"container_name": "side"}, [{"name": "flow", "image": "f"}, SIDE]),
    ],
)
def test_the_flow_s_container_follows_the_agent_s_rule(
    containers: list[Any], variables: dict[str, Any], expected: list[Any]
) -> None:
    document = {"family": "mine", "cpu": "512", "memory": "1024", "containerDefinitions": containers}
    flow = variables.get("container_name") or ("prefect" if "prefect" in str(containers) else "flow")
    by_path = load({"task_definition_path": "s3://b/k.yaml", **variables})
    assert documents(by_path, JobDefaults()) == [Document("s3://b/k.yaml", "task_definition_path")]
    for configuration in (
        with_documents(load({"task_definition": document, **variables}), {}, JobDefaults()),
        with_documents(by_path, {"s3://b/k.yaml": document}, JobDefaults()),
    ):
        definition, request = build(configuration)
        assert definition["containerDefinitions"] == expected
        assert (definition["family"], definition["cpu"], definition["memory"]) == ("mine", "512", "1024")
        assert [item["name"] for item in request["overrides"]["containerOverrides"]] == [flow]


def test_variables_win_over_the_document() -> None:
    document = {"family": "mine", "cpu": "512", "memory": "1024"}
    definition, _ = build(
        with_documents(load({"task_definition": document, "cpu": 256, "family": "other"}), {}, JobDefaults())
    )
    assert (definition["family"], definition["cpu"], definition["memory"]) == ("other", "256", "1024")


@pytest.mark.parametrize("named", [{"container_name": "prefect"}, {}])
@pytest.mark.parametrize("inline", [True, False])
def test_run_task_arguments_are_paired_by_name(named: dict[str, Any], inline: bool) -> None:
    arguments = {
        "cluster": "c",
        "overrides": {
            "taskRoleArn": "role",
            "containerOverrides": [
                {"name": "prefect", "memory": 64, "environment": {"B": "2"}},
                {"name": "side", "cpu": 1},
            ],
        },
    }
    variables = {**named, "task_definition": {"containerDefinitions": [SIDE, {"name": "prefect"}]}, "env": {"A": "1"}}
    variables |= {"run_task_kwargs": arguments} if inline else {"run_task_kwargs_path": "p"}
    _, request = build(with_documents(load(variables), {"p": arguments}, JobDefaults()))
    flow, side = request["overrides"]["containerOverrides"]
    assert (request["cluster"], request["overrides"]["taskRoleArn"], flow["memory"]) == ("c", "role", 64)
    assert {item["name"]: item["value"] for item in flow["environment"]}.items() >= {"A": "1", "B": "2"}.items()
    assert side == {"name": "side", "cpu": 1}


@pytest.mark.parametrize(
    ("variables", "contents", "sentence"),
    [
        ({"task_definition_path": "p"}, {"p": ["x"]}, "task_definition_path: p holds no mapping"),
        (
            {"task_definition_path": "p"},
            {"p": {"containerDefinitions": "x"}},
            "task_definition.containerDefinitions is 'x': input should be a valid list",
        ),
        ({"run_task_kwargs_path": "p"}, {}, "run_task_kwargs_path: p holds no mapping"),
        ({"task_definition_path": "p", "task_definition": {"cpu": 1}}, {}, "Both task_definition and"),
    ],
)
def test_documents_that_can_t_be_used(variables: dict[str, Any], contents: dict[str, Any], sentence: str) -> None:
    with pytest.raises(JobInvalid, match=sentence):
        with_documents(load(variables), contents, JobDefaults())


def test_launch_type_null_is_said_above_the_worker_s_own_arguments() -> None:
    strategy = [{"capacityProvider": "asg", "weight": 1}]
    defaults = JobDefaults(run_task_kwargs="p")
    for arguments, expected in (({"cluster": "c"}, None), ({"capacityProviderStrategy": strategy}, strategy)):
        configuration = with_default_arguments(load({"launch_type": None}), {"p": arguments}, defaults, None)
        _, request = build(configuration)
        assert "launchType" not in request
        assert request.get("capacityProviderStrategy") == expected


def test_a_derived_definition_changes_a_copy_in_its_own_family() -> None:
    described = {
        "family": "theirs",
        "cpu": "256",
        "memory": "512",
        "containerDefinitions": [{"name": "app", "image": "a"}],
    }
    configuration = load({"task_definition_arn": "theirs:4", "image": "b", "linux_init": True})
    assert ignored_variables(configuration) == ["image", "linux_init"]
    changed = derived(configuration, described, CONTEXT)
    assert changed is not None
    definition, request = build(changed)
    assert definition["family"] == "theirs-derived"
    assert definition["containerDefinitions"] == [
        {"name": "app", "image": "b", "linuxParameters": {"initProcessEnabled": True}}
    ]
    assert "taskDefinition" not in request
    assert ignored_variables(load({"image": "b"})) == []


@pytest.mark.parametrize(
    ("variables", "differs"),
    [
        ({}, False),
        ({"image": "a", "env": {"A": "1"}, "command": "run", "container_name": "app", "labels": {"a": "b"}}, False),
        ({"env": {"A": "x" * 9000}}, True),
        ({"image": "b"}, True),
        ({"container_name": "other"}, True),
        ({"readonly_root_filesystem": False}, True),
    ],
)
def test_only_what_differs_is_derived(variables: dict[str, Any], differs: bool) -> None:
    described = {
        "family": "theirs",
        "cpu": "256",
        "memory": "512",
        "networkMode": "awsvpc",
        "status": "ACTIVE",
        "containerDefinitions": [
            {"name": "app", "image": "a", "cpu": 0, "environment": [{"name": "B", "value": "2"}], "portMappings": []}
        ],
    }
    configuration = load({"task_definition_arn": "theirs:4", "derive_task_definition": True, **variables})
    assert (derived(configuration, described, CONTEXT) is not None) is differs


def test_variables_without_effect_are_named_also_where_they_say_no() -> None:
    said = {
        "readonly_root_filesystem": False,
        "linux_init": False,
        "stop_timeout_seconds": 0,
        "task_definition": {"cpu": 1},
    }
    reused = {"task_definition_arn": "theirs:4", **said}
    assert ignored_variables(load(reused)) == sorted(said)
    assert ignored_variables(load({"task_definition_arn": "theirs:4", "configure_cloudwatch_logs": False})) == []
    assert ignored_variables(load(reused | {"derive_task_definition": True})) == []
    assert ignored_warning(load(reused)) == (
        "The task definition theirs:4 is used as it is, without effect of linux_init, readonly_root_filesystem, "
        "stop_timeout_seconds, task_definition: leave that out, or set derive_task_definition."
    )
    assert ignored_warning(load({"task_definition_arn": "theirs:4"})) == ""


DEFAULTS = JobDefaults(task_definition="d", run_task_kwargs="k")


def with_defaults(
    variables: dict[str, Any], document: dict[str, Any] | None = None, arguments: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    contents = {"d": document or {}, "k": arguments or {}}
    configuration = with_documents(load(variables), contents, DEFAULTS)
    return build(with_default_arguments(configuration, contents, DEFAULTS, None))


def test_the_worker_s_documents_hold_where_nobody_says_anything() -> None:
    document = {"family": "worker", "cpu": "512", "memory": "1024", "containerDefinitions": [SIDE]}
    arguments = {
        "platformVersion": "1.4.0",
        "cluster": "theirs",
        "overrides": {"taskRoleArn": "role", "containerOverrides": [{"name": "flow", "cpu": 64, "memory": 128}]},
    }
    definition, request = with_defaults({}, document, arguments)
    assert (definition["family"], [item["name"] for item in definition["containerDefinitions"]]) == (
        "worker",
        ["side", "flow"],
    )
    assert (request["platformVersion"], request["cluster"]) == ("1.4.0", "theirs")
    [flow] = request["overrides"]["containerOverrides"]
    assert (flow["name"], flow["cpu"], flow["memory"]) == ("flow", 64, 128)

    definition, request = with_defaults(
        {"task_definition": {"family": "job"}, "cluster": "mine", "memory": 2048, "cpu": 1024}, document, arguments
    )
    assert definition["family"] == "job"
    assert all(item["name"] != "side" for item in definition["containerDefinitions"])
    assert (request["platformVersion"], request["cluster"]) == ("1.4.0", "mine")
    [flow] = request["overrides"]["containerOverrides"]
    assert (flow["cpu"], flow["memory"]) == (1024, 2048)


def test_the_worker_s_arguments_don_t_mix_with_what_excludes_them() -> None:
    strategy = [{"capacityProvider": "asg", "weight": 1}]
    network = {"awsvpcConfiguration": {"subnets": ["subnet-w"]}}
    arguments = {"capacityProviderStrategy": strategy, "networkConfiguration": network, "taskDefinition": "no"}
    # Our template says FARGATE: that is the pool's word.
    _, request = with_defaults({"subnets": ["subnet-j"]}, {}, arguments)
    assert request["launchType"] == "FARGATE"
    assert "capacityProviderStrategy" not in request
    assert request["networkConfiguration"] == {"awsvpcConfiguration": {"subnets": ["subnet-j"]}}
    _, request = with_defaults({"launch_type": None}, {"networkMode": "awsvpc"}, arguments)
    assert (request["capacityProviderStrategy"], request["networkConfiguration"]) == (strategy, network)
    assert "launchType" not in request


def test_a_job_that_reuses_a_definition_gets_no_other() -> None:
    variables = {"task_definition_arn": "theirs:1", "launch_type": "EC2"}
    configuration = with_documents(load(variables), {"d": {"family": "worker"}}, DEFAULTS)
    assert configuration.task_definition.get("family") is None
    described = {"containerDefinitions": [{"name": "app"}]}
    contents = {"k": {"overrides": {"containerOverrides": [{"name": "app", "memory": 64}]}}}
    configuration = with_default_arguments(configuration, contents, DEFAULTS, described)
    _, request = prepare_requests(configuration, CONTEXT, described)
    [flow] = request["overrides"]["containerOverrides"]
    assert (flow["name"], flow["memory"], flow["command"]) == ("app", 64, ["prefect", "flow-run", "execute"])


def test_a_worker_s_document_that_can_t_be_used_is_named_by_its_option() -> None:
    with pytest.raises(JobInvalid, match=r"--task-definition: d holds no mapping"):
        with_documents(load({}), {"d": "text"}, DEFAULTS)
    with pytest.raises(JobInvalid, match=r"--run-task-kwargs: k holds no mapping"):
        with_default_arguments(load({}), {"k": None}, DEFAULTS, None)


RUN_TASK_NETWORK = {"awsvpcConfiguration": {"subnets": ["subnet-k"], "securityGroups": ["sg-k"]}}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"assign_public_ip": False}, {"assignPublicIp": "DISABLED"}),
        ({"security_groups": ["sg-1"]}, {"securityGroups": ["sg-1"]}),
        ({"vpc_id": "vpc-1"}, {}),
        ({"subnets": ["subnet-j"]}, {"subnets": ["subnet-j"]}),
        (
            {"network_configuration": {"subnets": ["subnet-pool"], "assignPublicIp": "DISABLED"}},
            {"assignPublicIp": "DISABLED"},
        ),
    ],
)
def test_the_network_of_run_task_kwargs_lies_between_the_template_s_and_the_variables(
    variables: dict[str, Any], expected: dict[str, Any]
) -> None:
    given = load({"run_task_kwargs": {"networkConfiguration": RUN_TASK_NETWORK}, **variables})
    configuration = with_documents(given, {}, JobDefaults())
    definition, request = build(configuration)
    assert network_need(configuration, CONTEXT, definition) is None
    wanted = {**RUN_TASK_NETWORK["awsvpcConfiguration"], **expected}
    assert request["networkConfiguration"] == {"awsvpcConfiguration": wanted}


def test_security_groups_leave_the_worker_s_own_subnets() -> None:
    defaults = JobDefaults(run_task_kwargs="d.yaml")
    contents = {"d.yaml": {"networkConfiguration": RUN_TASK_NETWORK}}
    configuration = with_default_arguments(load({"security_groups": ["sg-1"]}), contents, defaults, None)
    _, request = build(configuration)
    wanted = {"subnets": ["subnet-k"], "securityGroups": ["sg-1"]}
    assert request["networkConfiguration"] == {"awsvpcConfiguration": wanted}
