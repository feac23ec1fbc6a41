"""The requests of one run, and what is refused before AWS is asked."""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import Any
from uuid import UUID

import pytest

from ecs_worker.errors import JobInvalid
from ecs_worker.job import rules
from ecs_worker.job.configuration import (
    JobConfiguration,
    merge_job_variables,
    origins,
    render_configuration,
)
from ecs_worker.job.context import FlowRunContext, option_origins
from ecs_worker.job.names import ecs_name, generated_family, tag_text
from ecs_worker.job.requests import (
    FoundNetwork,
    default_image,
    definition_digest,
    log_streams,
    network_configuration,
    network_need,
    overrides_length,
    prepare_definition,
    prepare_run_task,
    without_spot,
)
from ecs_worker.job.variables import default_base_job_template
from ecs_worker.model import AwsCredentials, LogStream, Output
from ecs_worker.settings import JobDefaults
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
    configuration, unusable = rules.usable(load(variables, run_variables, template), came_from)
    if unusable:
        raise JobInvalid(unusable)
    definition = prepare_definition(configuration, about)
    if definition is None:
        assert described is not None
        definition = described
    need = network_need(configuration, about, definition)
    network = network_configuration(need, FoundNetwork(SUBNETS)) if need else None
    request = prepare_run_task(configuration, about, definition, network)
    rules.check(rules.Job(configuration, about, definition, request, came_from))
    return definition, request


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


@pytest.mark.parametrize("name", TEMPLATES)
def test_defaults_give_a_fargate_task(name: str) -> None:
    definition, request = build({}, template=TEMPLATES[name])
    assert definition == {
        "containerDefinitions": [{"name": "prefect", "image": "prefecthq/prefect:3.8.8-python3.12"}],
        "family": f"prefect_pool_{UUID(int=3)}",
        "cpu": "1024",
        "memory": "2048",
        "requiresCompatibilities": ["FARGATE"],
        "networkMode": "awsvpc",
    }
    assert request["launchType"] == "FARGATE"
    assert request["networkConfiguration"] == {"awsvpcConfiguration": {"subnets": SUBNETS, "assignPublicIp": "ENABLED"}}
    flow = flow_override(request)
    assert (flow["name"], flow["command"]) == ("prefect", ["prefect", "flow-run", "execute"])
    assert flow["environment"] == {
        "PREFECT_API_KEY": "pnu_1",
        "PREFECT_API_URL": "http://127.0.0.1/api",
        "PREFECT__DEPLOYMENT_ID": str(UUID(int=3)),
        "PREFECT__DEPLOYMENT_NAME": "nightly",
        "PREFECT__FLOW_ID": str(UUID(int=2)),
        "PREFECT__FLOW_NAME": "my flow",
        "PREFECT__FLOW_RUN_ID": str(UUID(int=1)),
        "PREFECT__WORKER_NAME": "w1",
    }
    assert tags(request) == {
        "ecs-worker/claim-id": str(UUID(int=9)),
        "prefect.io/deployment-id": str(UUID(int=3)),
        "prefect.io/deployment-name": "nightly",
        "prefect.io/deployment-updated": "2025-01-02T00:00:00+00:00",
        "prefect.io/flow-id": str(UUID(int=2)),
        "prefect.io/flow-name": "my-flow",
        "prefect.io/flow-run-id": str(UUID(int=1)),
        "prefect.io/flow-run-name": "run-one",
        "prefect.io/version": "3.8.8",
        "prefect.io/work-pool-id": str(UUID(int=4)),
        "prefect.io/work-pool-name": "pool",
        "prefect.io/worker-name": "w1",
    }


PEERS_VARIABLES: list[dict[str, Any]] = [
    {"image": "a/b:1", "cpu": 2048, "memory": 4096},
    {"launch_type": "EC2", "cpu": 512, "memory": 1024, "command": "sh -c 'a b'"},
    {"launch_type": "FARGATE_SPOT", "env": {"A": 1, "B": None, "C": "x"}, "labels": {"a b": "c d!"}},
    {"configure_cloudwatch_logs": True, "execution_role_arn": ROLE, "cloudwatch_logs_options": {"mode": "blocking"}},
    {"capacity_provider_strategy": [{"capacityProvider": "asg", "weight": 1, "base": 0}], "cluster": "c"},
    {"vpc_id": "vpc-1", "network_configuration": {"subnets": ["subnet-2"], "securityGroups": ["sg-1"]}},
    {"task_role_arn": ROLE, "family": "My_Family", "container_name": "main"},
]


@pytest.mark.parametrize("variables", PEERS_VARIABLES, ids="-".join)
def test_our_template_sends_what_prefect_aws_s_template_sends(variables: dict[str, Any]) -> None:
    assert (
        build(variables) == build(variables, template=TEMPLATES["0_7"]) == build(variables, template=TEMPLATES["0_4"])
    )


def test_ec2_sizes_the_container_and_needs_no_subnets() -> None:
    definition, request = build({"launch_type": "EC2", "cpu": 512, "memory": 1024})
    assert (definition["containerDefinitions"][0]["cpu"], definition["containerDefinitions"][0]["memory"]) == (
        512,
        1024,
    )
    assert "networkMode" not in definition
    assert "networkConfiguration" not in request
    assert (request["launchType"], request["overrides"]["cpu"]) == ("EC2", "512")


def test_spot_is_a_capacity_provider_with_a_fallback() -> None:
    _, request = build({"launch_type": "FARGATE_SPOT"})
    assert request["capacityProviderStrategy"] == [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]
    assert "launchType" not in request
    on_demand = without_spot(request)
    assert on_demand["launchType"] == "FARGATE"
    assert "capacityProviderStrategy" not in on_demand


def test_launch_type_null_is_fargate_unless_the_definition_or_the_strategy_says_otherwise() -> None:
    definition, request = build({"launch_type": None})
    assert (request["launchType"], definition["networkMode"]) == ("FARGATE", "awsvpc")
    _, request = build({"launch_type": None}, task_definition={"requiresCompatibilities": ["EC2"]})
    assert "launchType" not in request
    asg = [{"capacityProvider": "asg", "weight": 1}]
    definition, request = build({"launch_type": None, "capacity_provider_strategy": asg})
    assert request["capacityProviderStrategy"] == asg
    assert "requiresCompatibilities" not in definition


def test_a_strategy_of_fargate_makes_a_definition_for_fargate_whatever_the_launch_type() -> None:
    spot = [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]
    definition, request = build({"launch_type": "EC2", "capacity_provider_strategy": spot, "platform_version": "1.4.0"})
    assert (definition["requiresCompatibilities"], definition["networkMode"]) == (["FARGATE"], "awsvpc")
    assert (request["capacityProviderStrategy"], "launchType" in request) == (spot, False)
    _, request = build({"run_task_patch": {"capacityProviderStrategy": spot}})
    assert (request["capacityProviderStrategy"], "launchType" in request) == (spot, False)
    _, request = build({"capacity_provider_strategy": spot, "run_task_patch": {"launchType": "FARGATE"}})
    assert (request["launchType"], "capacityProviderStrategy" in request) == ("FARGATE", False)
    definition, request = build({"run_task_patch": {"launchType": "EC2"}})
    assert (request["launchType"], "requiresCompatibilities" in definition) == ("EC2", False)


def test_a_strategy_of_instances_makes_a_task_for_instances() -> None:
    asg = [{"capacityProvider": "asg", "weight": 1}]
    spread = [{"type": "spread", "field": "host"}]
    _, request = build({"capacity_provider_strategy": asg, "placement_strategy": spread})
    assert request["placementStrategy"] == spread
    assert request["networkConfiguration"]["awsvpcConfiguration"]["assignPublicIp"] == "DISABLED"


def test_only_fargate_gives_public_addresses() -> None:
    awsvpc = {"networkMode": "awsvpc"}
    for launch_type, given in (("EC2", "DISABLED"), ("FARGATE", "ENABLED"), ("FARGATE_SPOT", "ENABLED")):
        _, request = build({"launch_type": launch_type}, task_definition=awsvpc)
        assert request["networkConfiguration"]["awsvpcConfiguration"]["assignPublicIp"] == given


def test_env_null_unsets_what_the_worker_and_the_definition_would_set() -> None:
    container = {"name": "prefect", "environment": {"A": "1", "B": "2"}}
    definition, request = build(
        {"env": {"A": None, "PREFECT_API_KEY": None, "C": 3}}, task_definition={"containerDefinitions": [container]}
    )
    assert definition["containerDefinitions"][0]["environment"] == [{"name": "B", "value": "2"}]
    assert "PREFECT_API_KEY" not in flow_override(request)["environment"]
    assert flow_override(request)["environment"]["C"] == "3"


def test_secrets_replace_variables_of_the_same_name() -> None:
    arn = "arn:aws:secretsmanager:eu-west-1:1:secret:k"
    definition, request = build(
        {
            "prefect_api_key_secret_arn": arn,
            "prefect_api_auth_string_secret_arn": arn,
            "secrets": {"DB": arn},
            "env": {"PREFECT_API_AUTH_STRING": "u:p", "DB": "x"},
            "execution_role_arn": ROLE,
        }
    )
    secrets = {item["name"]: item["valueFrom"] for item in definition["containerDefinitions"][0]["secrets"]}
    assert secrets == {"PREFECT_API_KEY": arn, "PREFECT_API_AUTH_STRING": arn, "DB": arn}
    assert not secrets.keys() & flow_override(request)["environment"].keys()


ARN = "arn:aws:secretsmanager:eu-west-1:1:secret:k"
FROM_SECRETS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"task_definition": {"containerDefinitions": [{"secrets": [{"name": "A", "valueFrom": ARN}]}]}}),
    ({"container_patch": {"secrets": [{"name": "A", "valueFrom": ARN}], "environment": {"A": "2"}}}, {}),
    (
        {
            "secrets": {"A": ARN},
            "run_task_patch": {"overrides": {"containerOverrides": [{"name": "prefect", "environment": {"A": "2"}}]}},
        },
        {},
    ),
    ({"secrets": {"A": ARN}, "env": {"B": "b" * 9000}}, {}),
]


@pytest.mark.parametrize(("variables", "changes"), FROM_SECRETS, ids=["template", "patch", "run_task_patch", "large"])
def test_secrets_win_wherever_they_are_said(variables: dict[str, Any], changes: dict[str, Any]) -> None:
    env = {"A": "a" * 10_000, **variables.get("env", {})}
    definition, request = build({**variables, "env": env, "execution_role_arn": ROLE}, **changes)
    [container] = definition["containerDefinitions"]
    assert container["secrets"] == [{"name": "A", "valueFrom": ARN}]
    assert "A" not in {item["name"] for item in container.get("environment", [])}
    assert "A" not in flow_override(request)["environment"]


def test_of_a_reused_definition_only_its_own_secrets_win() -> None:
    described = {
        "networkMode": "awsvpc",
        "cpu": "256",
        "memory": "512",
        "containerDefinitions": [{"name": "prefect", "secrets": [{"name": "A", "valueFrom": ARN}]}],
    }
    variables = {"task_definition_arn": "f:1", "cpu": 256, "memory": 512, "env": {"A": "a", "B": "b"}}
    _, request = build({**variables, "secrets": {"B": ARN}, "prefect_api_key_secret_arn": ARN}, described=described)
    environment = flow_override(request)["environment"]
    assert (environment["B"], environment["PREFECT_API_KEY"]) == ("b", "pnu_1")
    assert "A" not in environment


def test_null_in_a_patch_removes_a_variable() -> None:
    container = {"name": "prefect", "environment": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}
    patched = {"overrides": {"containerOverrides": [{"name": "prefect", "environment": {"C": None}}]}}
    definition, request = build(
        {"container_patch": {"environment": {"A": None}}, "env": {"C": "3"}, "run_task_patch": patched},
        task_definition={"containerDefinitions": [container]},
    )
    assert definition["containerDefinitions"][0]["environment"] == [{"name": "B", "value": "2"}]
    assert "C" not in flow_override(request)["environment"]


def test_worker_defaults_fill_what_nobody_says() -> None:
    defaults = JobDefaults(
        cluster="dc",
        task_role_arn="task-role",
        execution_role_arn="exec-role",
        env={"A": "d", "B": "d"},
        labels={"team": "d"},
    )
    definition, request = build({"env": {"A": "job"}}, about=context(defaults=defaults))
    assert (request["cluster"], request["overrides"]["taskRoleArn"]) == ("dc", "task-role")
    assert definition["executionRoleArn"] == "exec-role"
    assert flow_override(request)["environment"] | {"A": "job", "B": "d"} == flow_override(request)["environment"]
    assert tags(request)["team"] == "d"
    _, request = build({"cluster": "mine"}, about=context(defaults=defaults))
    assert request["cluster"] == "mine"


def test_a_template_without_overrides_still_runs_the_flow() -> None:
    _, request = build({}, task_run_request={"tags": [{"key": "owner", "value": "me"}]})
    assert flow_override(request)["command"] == ["prefect", "flow-run", "execute"]
    assert tags(request)["owner"] == "me"


def test_a_reused_definition_is_left_as_it_is() -> None:
    described = {
        "networkMode": "bridge",
        "requiresCompatibilities": ["EC2"],
        "containerDefinitions": [{"name": "side"}, {"name": "prefect"}],
    }
    configuration = load({"task_definition_arn": "family:3", "launch_type": "EC2"})
    assert prepare_definition(configuration, context()) is None
    _, request = build({"task_definition_arn": "family:3", "launch_type": "EC2"}, described=described)
    assert "taskDefinition" not in request
    assert flow_override(request)["name"] == "prefect"
    [problem] = problems(
        {"task_definition_arn": "family:3", "container_name": "nope", "launch_type": "EC2"}, described=described
    )
    assert "'nope' (from the deployment's job variables)" in problem


def test_requests_are_the_same_whichever_process_builds_them() -> None:
    about = context()
    shuffled = context(inherited_env=dict(reversed(list(about.inherited_env.items()))))
    first = build({"env": {"A": "1", "B": "2"}, "labels": {"x": "1", "a": "2"}}, about=about)
    second = build({"env": {"B": "2", "A": "1"}, "labels": {"a": "2", "x": "1"}}, about=shuffled)
    assert json.dumps(first) == json.dumps(second)


def test_arguments_are_not_changed() -> None:
    configuration, about = load({"env": {"A": "1"}, "container_patch": {"user": "me"}}), context()
    before = configuration.model_dump_json()
    definition = prepare_definition(configuration, about)
    assert definition is not None
    text = json.dumps(definition)
    prepare_run_task(configuration, about, definition)
    assert (configuration.model_dump_json(), json.dumps(definition)) == (before, text)


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ({"environment": [{"name": "A"}, {"name": "B"}]}, {"environment": [{"name": "B"}, {"name": "A"}]}, True),
        (
            {"environmentFiles": [{"value": "a"}, {"value": "b"}]},
            {"environmentFiles": [{"value": "b"}, {"value": "a"}]},
            False,
        ),
        ({"command": ["a", "b"]}, {"command": ["b", "a"]}, False),
        ({"cpu": 1}, {"cpu": 2}, False),
        ({"cpu": 1, "links": []}, {"cpu": 1}, True),
    ],
)
def test_digest_heeds_order_where_ecs_does(left: dict[str, Any], right: dict[str, Any], equal: bool) -> None:
    digests = [
        definition_digest({"family": "f", "containerDefinitions": [c], "tags": [{"key": str(n), "value": ""}]})
        for n, c in enumerate((left, right))
    ]
    assert (digests[0] == digests[1]) is equal


# Network ------------------------------------------------------------------------------------------------------


def test_given_subnets_need_no_look_up() -> None:
    _, request = build({"subnets": ["subnet-9"], "security_groups": ["sg-1"], "assign_public_ip": False})
    assert request["networkConfiguration"] == {
        "awsvpcConfiguration": {"subnets": ["subnet-9"], "securityGroups": ["sg-1"], "assignPublicIp": "DISABLED"}
    }
    _, request = build({"network_configuration": {"subnets": ["subnet-9"]}})
    assert request["networkConfiguration"] == {"awsvpcConfiguration": {"subnets": ["subnet-9"]}}


def test_security_groups_alone_get_the_subnets_that_were_found() -> None:
    _, request = build({"security_groups": ["sg-1"]})
    assert request["networkConfiguration"]["awsvpcConfiguration"] == {
        "subnets": SUBNETS,
        "securityGroups": ["sg-1"],
        "assignPublicIp": "ENABLED",
    }


def test_subnets_must_be_in_the_vpc_that_is_named() -> None:
    [problem] = problems({"vpc_id": "vpc-1", "network_configuration": {"subnets": ["subnet-9", "subnet-1"]}})
    assert problem == "network_configuration: subnet-9 not in VPC vpc-1; mend subnets or vpc_id."


def test_a_network_without_subnets_is_refused() -> None:
    configuration = load({})
    definition = prepare_definition(configuration, context())
    assert definition is not None
    need = network_need(configuration, context(), definition)
    assert need is not None
    with pytest.raises(JobInvalid, match=r"No subnets were found in the default VPC: set vpc_id"):
        network_configuration(need, FoundNetwork([]))
    found = network_configuration(need, FoundNetwork([f"subnet-{n}" for n in range(20)]))
    assert len(found["awsvpcConfiguration"]["subnets"]) == 16


# Options ------------------------------------------------------------------------------------------------------

OPTIONS: list[tuple[dict[str, Any], str, Any]] = [
    ({"cpu_architecture": "ARM64"}, "definition.runtimePlatform.cpuArchitecture", "ARM64"),
    ({"operating_system_family": "LINUX"}, "definition.runtimePlatform.operatingSystemFamily", "LINUX"),
    ({"stop_timeout_seconds": 0, "launch_type": "EC2"}, "container.stopTimeout", 0),
    ({"linux_init": True}, "container.linuxParameters.initProcessEnabled", True),
    ({"readonly_root_filesystem": True}, "container.readonlyRootFilesystem", True),
    ({"gpu": 2, "launch_type": "EC2"}, "container.resourceRequirements", [{"type": "GPU", "value": "2"}]),
    ({"ephemeral_storage_gib": 30}, "request.overrides.ephemeralStorage.sizeInGiB", 30),
    ({"platform_version": "1.4.0"}, "request.platformVersion", "1.4.0"),
    ({"propagate_tags": "TASK_DEFINITION"}, "request.propagateTags", "TASK_DEFINITION"),
    ({"enable_execute_command": True, "task_role_arn": ROLE}, "request.enableExecuteCommand", True),
    ({"group": "g"}, "request.group", "g"),
    (
        {"placement_strategy": [{"type": "spread", "field": "host"}], "launch_type": "EC2"},
        "request.placementStrategy",
        [{"type": "spread", "field": "host"}],
    ),
    (
        {"placement_constraints": [{"type": "distinctInstance"}], "launch_type": "EC2"},
        "request.placementConstraints",
        [{"type": "distinctInstance"}],
    ),
    (
        {"environment_files": ["arn:aws-cn:s3:::b/x.env"]},
        "override.environmentFiles",
        [{"value": "arn:aws-cn:s3:::b/x.env", "type": "s3"}],
    ),
    ({"cpu": "1 vcpu", "memory": "3 GB"}, "definition.memory", "3072"),
    ({"cpu": ".5 vCPU", "memory": "1gb"}, "override.memory", 1024),
    ({"cpu": "0.25 vcpu", "memory": 600, "round_up_resources": True}, "definition.memory", "1024"),
    ({"cpu": 300, "round_up_resources": True}, "request.overrides.cpu", "512"),
    ({"memory": 600, "round_up_resources": True}, "request.overrides.memory", "2048"),
    ({"task_definition_patch": {"pidMode": "task"}}, "definition.pidMode", "task"),
    ({"task_definition_patch": {"cpu": "2048", "memory": "4096"}}, "definition.cpu", "2048"),
    ({"container_patch": {"user": "me"}}, "container.user", "me"),
    ({"run_task_patch": {"referenceId": "r"}}, "request.referenceId", "r"),
    (
        {"run_task_patch": {"overrides": {"containerOverrides": [{"name": "prefect", "memoryReservation": 5}]}}},
        "override.memoryReservation",
        5,
    ),
]


@pytest.mark.parametrize(("variables", "path", "expected"), OPTIONS, ids=lambda v: v if isinstance(v, str) else "")
def test_each_option_reaches_its_request(variables: dict[str, Any], path: str, expected: object) -> None:
    definition, request = build(variables)
    value: Any = {
        "definition": definition,
        "container": definition["containerDefinitions"][0],
        "request": request,
        "override": request["overrides"]["containerOverrides"][0],
    }
    for part in path.split("."):
        value = value[part]
    assert value == expected


def test_volumes_are_defined_mounted_and_made_at_launch() -> None:
    ebs = {"roleArn": ROLE, "sizeInGiB": 10}
    definition, request = build(
        {
            "volumes": [
                {
                    "name": "efs",
                    "mount_path": "/e",
                    "read_only": True,
                    "efsVolumeConfiguration": {"fileSystemId": "fs-1"},
                },
                {"name": "ebs", "mount_path": "/b", "managedEBSVolume": ebs},
            ]
        }
    )
    assert definition["volumes"] == [
        {"name": "efs", "efsVolumeConfiguration": {"fileSystemId": "fs-1"}},
        {"name": "ebs", "configuredAtLaunch": True},
    ]
    assert definition["containerDefinitions"][0]["mountPoints"] == [
        {"sourceVolume": "efs", "containerPath": "/e", "readOnly": True},
        {"sourceVolume": "ebs", "containerPath": "/b", "readOnly": False},
    ]
    assert request["volumeConfigurations"] == [{"name": "ebs", "managedEBSVolume": ebs}]


def test_patches_pair_named_objects_and_null_removes() -> None:
    side = {"name": "side", "image": "s:1", "essential": False, "user": "u"}
    definition, _ = build(
        {"task_definition_patch": {"containerDefinitions": [{"name": "side", "image": "s:2", "user": None}]}},
        task_definition={"containerDefinitions": [{"name": "prefect", "image": "i"}, side]},
    )
    assert definition["containerDefinitions"] == [
        {"name": "prefect", "image": "i"},
        {"name": "side", "image": "s:2", "essential": False},
    ]


def test_how_the_run_is_watched() -> None:
    configuration = load({"task_start_timeout_seconds": 300, "max_runtime_seconds": 60, "start_attempts": 5})
    assert (configuration.start_timeout, configuration.max_runtime_seconds, configuration.start_attempts) == (
        300,
        60,
        5,
    )
    assert load({}, template=TEMPLATES["0_7"]).start_timeout is None
    assert load({}, template=TEMPLATES["0_4"]).start_timeout == 300
    assert load({}).output is Output.NOWHERE
    assert load({"stream_output": True}, template=TEMPLATES["0_4"]).output is Output.WORKER
    assert load({"stream_output": True, "stream_output_to": "both"}).output is Output.BOTH


def test_logs_are_found_where_the_definition_sends_them() -> None:
    variables = {"configure_cloudwatch_logs": True, "execution_role_arn": ROLE}
    definition, _ = build(variables)
    stream, _ = log_streams(load(variables), definition, "eu-west-1")
    assert stream is not None
    assert (stream.group, stream.region) == ("prefect", "eu-west-1")
    assert stream.name("t1") == f"prefect-logs_pool_{UUID(int=3)}/prefect/t1"
    definition, _ = build({})
    assert log_streams(load({}), definition) == (None, ())


def test_side_cars_streams_are_found_when_they_are_wanted() -> None:
    options = {"awslogs-group": "cars", "awslogs-stream-prefix": "p", "awslogs-region": "eu-west-1"}
    definition = {
        "containerDefinitions": [
            {"name": "prefect"},
            {"name": "proxy", "logConfiguration": {"logDriver": "awslogs", "options": options}},
            {"name": "silent"},
        ]
    }
    wanted = load({"stream_containers": ["proxy", "silent", "prefect", "unknown"]})
    assert log_streams(wanted, definition) == (None, (LogStream("cars", "p", "proxy", "eu-west-1"),))
    assert log_streams(load({}), definition) == (None, ())


def test_large_env_moves_into_the_definition_but_nothing_of_the_run_or_the_worker() -> None:
    big, small, per_run = "b" * 6000, "s" * 1000, "r" * 1500
    about = context({"env": {"RUN": per_run}})
    definition, request = build({"env": {"BIG": big, "SMALL": small}}, {"env": {"RUN": per_run}}, about=about)
    assert definition["containerDefinitions"][0]["environment"] == [{"name": "BIG", "value": big}]
    environment = flow_override(request)["environment"]
    assert "BIG" not in environment
    assert (environment["SMALL"], environment["RUN"], environment["PREFECT_API_KEY"]) == (small, per_run, "pnu_1")
    assert overrides_length(request) <= 8192
    other, _ = build(
        {"env": {"BIG": big, "SMALL": small}}, {"env": {"RUN": "q" * 1500}}, about=context({"env": {"RUN": "q"}})
    )
    assert definition_digest(other) == definition_digest(definition)


# Refusals -----------------------------------------------------------------------------------------------------

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
        {"gpu": 1, "capacity_provider_strategy": [{"capacityProvider": "asg", "weight": 1}]},
        {},
        "has no use on Fargate, which refuses it; choose launch type EC2",
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


def test_a_pool_without_a_usable_template_is_told() -> None:
    templates: list[dict[str, Any]] = [{}, {"variables": {}}, {"job_configuration": {}}]
    for template in templates:
        with pytest.raises(JobInvalid, match="has no job_configuration or no variables; reset it to the default"):
            render_configuration(template, {}, {})


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


def test_half_a_pair_of_sizes_is_not_judged() -> None:
    fixed = {"task_definition": {"cpu": "3 apples"}}
    [problem] = problems({"memory": 300}, **fixed)
    assert problem.startswith("cpu is '3 apples'")
    assert problem.endswith('which is no amount; write CPU units, like 1024, or vCPUs, like "1 vcpu".')


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


# Names, identity, credentials ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("c d!", "c-d"),
        ("é*", ""),
        ("x&amp;y 1,000 ''q'' --z--", "x-y-1000-q-z"),
        ("a_b.c/d=e+f:g@h-i", "a_b.c/d=e+f:g@h-i"),
        ("v" * 300, "v" * 256),
    ],
)
def test_tags_are_slugs(text: str, slug: str) -> None:
    assert tag_text(text, 256) == slug


def test_names_fit_ecs() -> None:
    assert ecs_name("My_Family-1") == "My_Family-1"
    assert ecs_name("Müller & Söhne") == "Muller-Sohne"
    assert len(ecs_name("x" * 300)) == 255
    family = generated_family("p" * 300, "id-1")
    assert (len(family), family[-5:]) == (255, "_id-1")
    definition, _ = build({"family": "!!"})
    assert definition["family"] == f"prefect_pool_{UUID(int=3)}"


@pytest.mark.parametrize("name", ["Müller & Söhne", "コンテナ", "!!", "x" * 300])
def test_container_names_fit_ecs(name: str) -> None:
    definition, request = build({"container_name": name})
    [container] = definition["containerDefinitions"]
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,255}", container["name"])
    assert container["name"].strip("-")
    assert flow_override(request)["name"] == container["name"]
    other, _ = build({"container_name": f"サ{name}" if name == "コンテナ" else "other"})
    assert other["containerDefinitions"][0]["name"] != container["name"]


def test_images_fit_the_server() -> None:
    assert default_image("2.20.26", "3.11") == "prefecthq/prefect:2.20.26-python3.11"
    assert default_image("3.9.0+4.gabc", "3.12") == "prefecthq/prefect:3.9.0-python3.12"
    assert default_image("", "3.12") == "prefecthq/prefect:3-latest"


def test_a_name_is_accepted_and_changes_nothing() -> None:
    assert build({"name": "{{ ctx.flow.name }}"}) == build({})


def test_credentials_come_from_the_block() -> None:
    assert load({}).target.credentials is None
    target = load({"aws_credentials": {"region_name": "eu-north-1", "aws_client_parameters": {"use_ssl": True}}}).target
    assert (target.region, target.credentials) == ("eu-north-1", None)
    block = {
        "aws_access_key_id": "AKIA",
        "aws_secret_access_key": "hunter2",
        "assume_role_arn": ROLE,
        "assume_role_kwargs": {"ExternalId": "x", "Policy": None},
        "aws_client_parameters": {"endpoint_url": "http://127.0.0.1:1", "verify": False, "config": None},
    }
    configuration = load({"aws_credentials": block})
    assert configuration.target.credentials == AwsCredentials(
        access_key_id="AKIA",
        secret_access_key="hunter2",
        assume_role_arn=ROLE,
        assume_role_kwargs={"ExternalId": "x"},
        client_parameters={"endpoint_url": "http://127.0.0.1:1", "verify": False},
    )
    assert "hunter2" not in repr(configuration)


def test_run_variables_go_over_the_deployment_s_and_only_env_merges() -> None:
    deployment = {"env": {"A": "1", "B": "2"}, "labels": {"a": "1"}}
    merged = merge_job_variables(deployment, {"env": {"B": "3"}, "labels": {"b": "2"}})
    assert merged == {"env": {"A": "1", "B": "3"}, "labels": {"b": "2"}}
    assert merge_job_variables(deployment, {"env": None})["env"] == {"A": "1", "B": "2"}
    assert deployment["env"] == {"A": "1", "B": "2"}
    assert merge_job_variables(None, None) == {}


def test_the_template_asks_for_declared_variables_only() -> None:
    template = default_base_job_template()
    text = json.dumps(template["job_configuration"])
    for name in template["variables"]["properties"]:
        assert f'"{{{{ {name} }}}}"' in text, name
    assert all(prop.get("title") and prop.get("description") for prop in template["variables"]["properties"].values())
