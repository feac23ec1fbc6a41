"""The requests of one run."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

from ecs_worker.errors import JobInvalid
from ecs_worker.job.requests import (
    FoundNetwork,
    default_image,
    definition_digest,
    log_streams,
    network_configuration,
    network_need,
    overrides_length,
    prepare_requests,
    without_spot,
)
from ecs_worker.model import LogStream
from ecs_worker.settings import JobDefaults
from support.jobs import ROLE, SUBNETS, TEMPLATES, build, context, flow_override, load, problems, tags


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


PLACES = {"launchType", "capacityProviderStrategy"}


@pytest.mark.parametrize(
    ("variables", "changes"),
    [
        ({"launch_type": None}, {}),
        ({"run_task_patch": {"launchType": None}}, {}),
        ({}, {"task_run_request": {"launchType": None}}),
    ],
    ids=["variable", "patch", "template"],
)
def test_launch_type_null_lets_the_cluster_s_default_strategy_decide(
    variables: dict[str, Any], changes: dict[str, Any]
) -> None:
    definition, request = build(variables, **changes)
    assert not request.keys() & PLACES
    assert "requiresCompatibilities" not in definition, "it may run anywhere"
    assert (definition["cpu"], definition["memory"], definition["networkMode"]) == ("1024", "2048", "awsvpc")
    assert request["networkConfiguration"]["awsvpcConfiguration"]["assignPublicIp"] == "DISABLED"


def test_launch_type_null_leaves_it_to_the_worker_first() -> None:
    _, request = build({"launch_type": None}, about=context(defaults=JobDefaults(launch_type="EC2")))
    assert request["launchType"] == "EC2"


def test_a_template_that_says_nothing_of_the_launch_type_means_fargate_as_in_prefect_aws() -> None:
    definition, request = build({}, task_run_request={})
    assert (request["launchType"], definition["requiresCompatibilities"]) == ("FARGATE", ["FARGATE"])


def test_launch_type_null_beside_what_the_definition_or_the_strategy_says() -> None:
    definition, request = build({"launch_type": None}, task_definition={"requiresCompatibilities": ["EC2"]})
    assert not request.keys() & PLACES
    assert "networkMode" not in definition
    definition, request = build({"launch_type": None, "capacity_provider_strategy": INSTANCES})
    assert request["capacityProviderStrategy"] == INSTANCES
    assert not definition.keys() & {"requiresCompatibilities", "networkMode"}


INSTANCES = [{"capacityProvider": "my-instances", "weight": 1}]


def test_providers_of_instances_beside_the_default_launch_type_get_no_definition_for_fargate() -> None:
    """It keeps the task's own size and network, which prefect-aws's users have there; sizes may be any."""
    odd = {"cpu": 3000, "memory": 10_000, "round_up_resources": True}
    definition, request = build({"capacity_provider_strategy": INSTANCES, **odd})
    assert "requiresCompatibilities" not in definition
    assert (definition["cpu"], definition["memory"], definition["networkMode"]) == ("3000", "10000", "awsvpc")
    assert (request["capacityProviderStrategy"], "launchType" in request) == (INSTANCES, False)
    patched, _ = build({"run_task_patch": {"capacityProviderStrategy": INSTANCES}})
    assert "requiresCompatibilities" not in patched


@pytest.mark.parametrize("written", [["MANAGED_INSTANCES"], ["EC2"], ["EC2", "MANAGED_INSTANCES"]])
@pytest.mark.parametrize("launch_type", ["FARGATE", None])
def test_nothing_is_added_to_what_the_user_requires_of_instances(written: list[str], launch_type: str | None) -> None:
    job = {"launch_type": launch_type, "capacity_provider_strategy": INSTANCES}
    patched, _ = build({**job, "task_definition_patch": {"requiresCompatibilities": written}})
    assert patched["requiresCompatibilities"] == written
    given, _ = build(job, task_definition={"requiresCompatibilities": written})
    assert given["requiresCompatibilities"] == written


@pytest.mark.parametrize("launch_type", ["FARGATE", "MANAGED_INSTANCES", None])
def test_managed_instances_get_a_network_of_the_task_s_own(launch_type: str | None) -> None:
    job = {"launch_type": launch_type, "capacity_provider_strategy": INSTANCES}
    definition, request = build({**job, "task_definition_patch": {"requiresCompatibilities": ["MANAGED_INSTANCES"]}})
    assert definition["networkMode"] == "awsvpc"
    assert request["networkConfiguration"]["awsvpcConfiguration"]["subnets"] == SUBNETS


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
    definition, request = build({"task_definition_arn": "family:3", "launch_type": "EC2"}, described=described)
    assert definition == described
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


@pytest.mark.parametrize("variables", [{}, {"task_definition_arn": "f:1"}])
def test_arguments_are_not_changed(variables: dict[str, Any]) -> None:
    configuration, about = load({"env": {"A": "1" * 9000}, "container_patch": {"user": "me"}, **variables}), context()
    described = {"containerDefinitions": [{"name": "prefect", "environment": [{"name": "A", "value": "1" * 9000}]}]}
    before = configuration.model_dump_json(), json.dumps(described)
    _, request = prepare_requests(configuration, about, described)
    assert "A" not in flow_override(request)["environment"], "the definition has it"
    assert (configuration.model_dump_json(), json.dumps(described)) == before


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
    assert problem == "network_configuration: subnet-9 not in VPC vpc-1; correct subnets or vpc_id."


def test_a_network_without_subnets_is_refused() -> None:
    configuration = load({})
    definition, _ = prepare_requests(configuration, context())
    need = network_need(configuration, context(), definition)
    assert need is not None
    with pytest.raises(JobInvalid, match=r"No subnets were found in the default VPC: set vpc_id"):
        network_configuration(need, FoundNetwork([]))
    found = network_configuration(need, FoundNetwork([f"subnet-{n}" for n in range(20)]))
    assert len(found["awsvpcConfiguration"]["subnets"]) == 16


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


def test_images_fit_the_server() -> None:
    assert default_image("2.20.26", "3.11") == "prefecthq/prefect:2.20.26-python3.11"
    assert default_image("3.9.0+4.gabc", "3.12") == "prefecthq/prefect:3.9.0-python3.12"
    assert default_image("", "3.12") == "prefecthq/prefect:3-latest"


def test_a_name_is_accepted_and_changes_nothing() -> None:
    assert build({"name": "{{ ctx.flow.name }}"}) == build({})
