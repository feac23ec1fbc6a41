"""Each job variable, set on a deployment of its own, through one worker process to the simulated AWS."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest

from ecs_worker.job.variables import JobVariables, default_base_job_template
from support.builders import quick_template
from support.servers.worker import worker
from support.simulator import AwsSimulator, FlowScript, ScriptRule, TaskScript, What, fails_to_start, fault
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from support.servers.prefect import Admin
    from support.simulator import Call, Site

pytestmark = pytest.mark.anyio

ROLE = "arn:aws:iam::123456789012:role/r"
SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:s-AbCdEf"
LOGS = {"configure_cloudwatch_logs": True, "execution_role_arn": ROLE}
CONTAINER = "definition.containerDefinitions.0"
OVERRIDE = "request.overrides.containerOverrides.0"
VPC = "request.networkConfiguration.awsvpcConfiguration"
EC2 = {"launch_type": "EC2"}
ASG = [{"capacityProvider": "FARGATE_SPOT", "weight": 2, "base": 1}]
EBS = {"roleArn": ROLE, "sizeInGiB": 10}
EFS = {"fileSystemId": "fs-12345678"}

# Variable → the job variables of a deployment that sets it, and what the requests hold then: path → value.
REQUESTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "env": ({"env": {"A": "1"}}, {f"{OVERRIDE}.environment.A": "1"}),
    "labels": ({"labels": {"team": "data eng"}}, {"request.tags.team": "data-eng"}),
    "command": ({"command": "sh -c 'echo a'"}, {f"{OVERRIDE}.command": ["sh", "-c", "echo a"]}),
    "task_definition_arn": ({"task_definition_arn": "theirs:1"}, {"request.taskDefinition": "theirs:1"}),
    "cluster": ({"cluster": "mine"}, {"request.cluster": "mine"}),
    "family": ({"family": "a family"}, {"definition.family": "a-family"}),
    "launch_type": (EC2, {"request.launchType": "EC2", f"{CONTAINER}.cpu": 1024}),
    "capacity_provider_strategy": (
        {"capacity_provider_strategy": ASG},
        {"request.capacityProviderStrategy": ASG, "request.launchType": None},
    ),
    "image": ({"image": "a/b:1"}, {f"{CONTAINER}.image": "a/b:1"}),
    "cpu": ({"cpu": "2 vcpu", "memory": 4096}, {"definition.cpu": "2048", "request.overrides.cpu": "2048"}),
    "memory": ({"memory": "4 GB"}, {"definition.memory": "4096", "request.overrides.memory": "4096"}),
    "container_name": ({"container_name": "main"}, {f"{CONTAINER}.name": "main", f"{OVERRIDE}.name": "main"}),
    "prefect_api_key_secret_arn": (
        {"prefect_api_key_secret_arn": SECRET, "execution_role_arn": ROLE},
        {f"{CONTAINER}.secrets.PREFECT_API_KEY": SECRET, f"{OVERRIDE}.environment.PREFECT_API_KEY": None},
    ),
    "prefect_api_auth_string_secret_arn": (
        {"prefect_api_auth_string_secret_arn": SECRET, "execution_role_arn": ROLE},
        {f"{CONTAINER}.secrets.PREFECT_API_AUTH_STRING": SECRET},
    ),
    "task_role_arn": ({"task_role_arn": ROLE}, {"request.overrides.taskRoleArn": ROLE}),
    "execution_role_arn": ({"execution_role_arn": ROLE}, {"definition.executionRoleArn": ROLE}),
    "vpc_id": ({"vpc_id": "vpc-0default"}, {f"{VPC}.subnets": ["subnet-0a", "subnet-0b", "subnet-0c"]}),
    "configure_cloudwatch_logs": (LOGS, {f"{CONTAINER}.logConfiguration.logDriver": "awslogs"}),
    "cloudwatch_logs_options": (
        {**LOGS, "cloudwatch_logs_options": {"awslogs-group": "mine"}},
        {f"{CONTAINER}.logConfiguration.options.awslogs-group": "mine"},
    ),
    "cloudwatch_logs_prefix": (
        {**LOGS, "cloudwatch_logs_prefix": "mine"},
        {f"{CONTAINER}.logConfiguration.options.awslogs-stream-prefix": "mine"},
    ),
    "network_configuration": (
        {"network_configuration": {"subnets": ["subnet-9"], "securityGroups": ["sg-9"]}},
        {VPC: {"subnets": ["subnet-9"], "securityGroups": ["sg-9"]}},
    ),
    "match_latest_revision_in_family": ({"match_latest_revision_in_family": True}, {"asked.maxResults": 1}),
    "secrets": ({"secrets": {"DB": SECRET}, "execution_role_arn": ROLE}, {f"{CONTAINER}.secrets.DB": SECRET}),
    "environment_files": (
        {"environment_files": ["arn:aws:s3:::b/x.env"]},
        {f"{OVERRIDE}.environmentFiles": [{"value": "arn:aws:s3:::b/x.env", "type": "s3"}]},
    ),
    "subnets": ({"subnets": ["subnet-9"]}, {VPC: {"subnets": ["subnet-9"]}}),
    "security_groups": (
        {"security_groups": ["sg-9"]},
        {f"{VPC}.securityGroups": ["sg-9"], f"{VPC}.subnets": ["subnet-0a", "subnet-0b", "subnet-0c"]},
    ),
    "assign_public_ip": ({"assign_public_ip": False}, {f"{VPC}.assignPublicIp": "DISABLED"}),
    "ephemeral_storage_gib": ({"ephemeral_storage_gib": 50}, {"request.overrides.ephemeralStorage.sizeInGiB": 50}),
    "cpu_architecture": ({"cpu_architecture": "ARM64"}, {"definition.runtimePlatform.cpuArchitecture": "ARM64"}),
    "operating_system_family": (
        {"operating_system_family": "LINUX"},
        {"definition.runtimePlatform.operatingSystemFamily": "LINUX"},
    ),
    "gpu": ({"gpu": 2, **EC2}, {f"{CONTAINER}.resourceRequirements": [{"type": "GPU", "value": "2"}]}),
    "platform_version": ({"platform_version": "1.4.0"}, {"request.platformVersion": "1.4.0"}),
    "propagate_tags": ({"propagate_tags": "TASK_DEFINITION"}, {"request.propagateTags": "TASK_DEFINITION"}),
    "enable_execute_command": (
        {"enable_execute_command": True, "task_role_arn": ROLE},
        {"request.enableExecuteCommand": True},
    ),
    "group": ({"group": "g"}, {"request.group": "g"}),
    "placement_constraints": (
        {"placement_constraints": [{"type": "distinctInstance"}], **EC2},
        {"request.placementConstraints": [{"type": "distinctInstance"}]},
    ),
    "placement_strategy": (
        {"placement_strategy": [{"type": "random"}], **EC2},
        {"request.placementStrategy": [{"type": "random"}]},
    ),
    "volumes": (
        {
            "volumes": [
                {"name": "efs", "mount_path": "/e", "efsVolumeConfiguration": EFS},
                {"name": "ebs", "mount_path": "/b", "managedEBSVolume": EBS},
            ]
        },
        {
            "definition.volumes.efs.efsVolumeConfiguration": EFS,
            "definition.volumes.ebs.configuredAtLaunch": True,
            f"{CONTAINER}.mountPoints.1.containerPath": "/b",
            "request.volumeConfigurations.ebs.managedEBSVolume": EBS,
        },
    ),
    "stop_timeout_seconds": ({"stop_timeout_seconds": 60}, {f"{CONTAINER}.stopTimeout": 60}),
    "linux_init": ({"linux_init": True}, {f"{CONTAINER}.linuxParameters.initProcessEnabled": True}),
    "readonly_root_filesystem": ({"readonly_root_filesystem": True}, {f"{CONTAINER}.readonlyRootFilesystem": True}),
    "round_up_resources": (
        {"round_up_resources": True, "cpu": 300, "memory": 600},
        {"definition.cpu": "512", "definition.memory": "1024", "request.overrides.cpu": "512"},
    ),
    "derive_task_definition": (
        {"derive_task_definition": True, "task_definition_arn": "theirs", "image": "b:2"},
        {"definition.family": "theirs-derived", f"{CONTAINER}.image": "b:2", f"{CONTAINER}.name": "app"},
    ),
    "task_definition": (
        {"task_definition": {"pidMode": "task", "containerDefinitions": [{"name": "side", "image": "s:1"}]}},
        {"definition.pidMode": "task", f"{CONTAINER}.name": "side", f"{OVERRIDE}.name": "flow"},
    ),
    "task_definition_path": (
        {"task_definition_path": "definition.yaml"},
        {"definition.ipcMode": "task", f"{CONTAINER}.user": "me"},
    ),
    "run_task_kwargs": ({"run_task_kwargs": {"referenceId": "r"}}, {"request.referenceId": "r"}),
    "run_task_kwargs_path": ({"run_task_kwargs_path": "arguments.json"}, {"request.referenceId": "by path"}),
    "task_definition_patch": ({"task_definition_patch": {"pidMode": "task"}}, {"definition.pidMode": "task"}),
    "container_patch": ({"container_patch": {"user": "me"}}, {f"{CONTAINER}.user": "me"}),
    "run_task_patch": ({"run_task_patch": {"referenceId": "r"}}, {"request.referenceId": "r"}),
    # Accepted, and seen in no request.
    "name": ({"name": "{{ ctx.flow.name }}"}, {}),
    "stream_output": ({"stream_output": True}, {}),
    "stream_output_to": ({"stream_output_to": "prefect"}, {}),
    "stream_containers": ({"stream_containers": ["side"]}, {}),
    "task_watch_poll_interval": ({"task_watch_poll_interval": 5.0}, {}),
    "spot_fallback": (
        {"spot_fallback": True, "launch_type": "FARGATE_SPOT"},
        {"request.capacityProviderStrategy": [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]},
    ),
}
# What these do shows in what becomes of a run: tested below.
BEHAVIOUR = {
    "aws_credentials",
    "task_start_timeout_seconds",
    "auto_deregister_task_definition",
    "max_runtime_seconds",
    "start_attempts",
    "launch_timeout_seconds",
}
ELSEWHERE = {"inherit_network"}  # test_jobs.py


def test_no_variable_is_left_out() -> None:
    assert REQUESTS.keys() | BEHAVIOUR | ELSEWHERE == JobVariables.model_fields.keys()


@pytest.mark.timeout(420)
async def test_each_variable_reaches_its_request(admin3: Admin, tmp_path: Path) -> None:
    """Each gets to AWS as it should."""
    (tmp_path / "definition.yaml").write_text("ipcMode: task\ncontainerDefinitions: [{name: flow, user: me}]\n")
    (tmp_path / "arguments.json").write_text('{"referenceId": "by path"}')
    async with AwsSimulator() as aws:
        recorder = Recorder(aws.site())
        aws.ecs.scripts.default = TaskScript(flow=FlowScript())
        aws.ecs.create_cluster("mine")
        for group in ("prefect", "mine"):
            aws.logs.create_group(group)
        await register(aws, family="theirs", containerDefinitions=[{"name": "app", "image": "b:1"}])
        pool = await admin3.create_pool(base_job_template=quick_template())
        flow_id = await admin3.create_flow()
        runs: dict[str, str] = {}
        for variable, (variables, _) in REQUESTS.items():
            deployment = await admin3.create_deployment(pool, name=variable, flow_id=flow_id, job_variables=variables)
            (runs[variable],) = await admin3.create_bare_runs(deployment, 1)
        documents = ("--documents-dir", ".")
        async with worker(tmp_path, pool, *documents, server=admin3.server, aws_url=aws.url) as process:

            async def all_launched() -> bool:
                assert process.running, process.output
                assert "Crashed" not in process.output, process.output
                return recorder.of_runs().keys() >= set(runs.values())

            def missing() -> str:
                names = [name for name, run in runs.items() if run not in recorder.of_runs()]
                return f"{names} were not launched:\n{process.output[-3000:]}"

            await until(all_launched, 240, told=missing)  # a definition each: ECS registers one a second
    sent = recorder.of_runs()
    wrong = []
    for variable, (_, expected) in REQUESTS.items():
        for path, value in expected.items():
            found = value_at(sent[runs[variable]], path)
            if found != value:
                wrong.append(f"{variable}: {path} is {found!r}, not {value!r}")
    assert wrong == []


async def test_both_servers_accept_all_variables(admin: Admin) -> None:
    """They hold deployments' variables against the pool's schema."""
    pool = await admin.create_pool(base_job_template=default_base_job_template())
    flow_id = await admin.create_flow()
    named = "infra_overrides" if admin.server.line == "2" else "job_variables"
    for variable, (variables, _) in REQUESTS.items():
        await admin.create_deployment(pool, name=variable, flow_id=flow_id, **{named: variables})


async def test_what_variables_do(admin3: Admin, tmp_path: Path) -> None:
    """What shows in the way of a run and not in its requests."""
    jobs: dict[str, dict[str, Any]] = {
        "task_start_timeout_seconds": {"task_start_timeout_seconds": 1},
        "max_runtime_seconds": {"max_runtime_seconds": 1},
        "start_attempts": {"start_attempts": 2},
        "launch_timeout_seconds": {"launch_timeout_seconds": 1},
        "auto_deregister_task_definition": {"auto_deregister_task_definition": True},
        "aws_credentials": {"aws_credentials": {"region_name": "eu-north-1"}},
    }
    async with AwsSimulator() as aws:
        recorder = Recorder(aws.site())
        aws.ecs.scripts.default = aws.site("eu-north-1").ecs.scripts.default = TaskScript(flow=FlowScript())
        pool = await admin3.create_pool(base_job_template=quick_template())
        flow_id = await admin3.create_flow()
        runs: dict[str, str] = {}
        for name, variables in jobs.items():
            deployment = await admin3.create_deployment(pool, name=name, flow_id=flow_id, job_variables=variables)
            runs[name] = await admin3.create_run(deployment)
        aws.script(
            ScriptRule(script=TaskScript(provisioning=None), containing=runs["task_start_timeout_seconds"]),
            ScriptRule(script=TaskScript(running=None), containing=runs["max_runtime_seconds"]),
            ScriptRule(script=fails_to_start("capacity"), containing=runs["start_attempts"]),
        )
        aws.fault(
            fault(
                What.FAILURES,
                action="RunTask",
                containing=runs["launch_timeout_seconds"],
                reason="Capacity is unavailable at this time.",
            )
        )
        ends = {}
        async with worker(tmp_path, pool, server=admin3.server, aws_url=aws.url):
            for name, run in runs.items():
                ends[name] = await admin3.wait_for_state(run, "CRASHED", "COMPLETED", "FAILED")

            async def deregistered() -> bool:
                return bool(recorder.all("DeregisterTaskDefinition"))

            await until(deregistered, 20)
    messages = {name: str(end["state"]["message"]) for name, end in ends.items() if end["state_type"] == "CRASHED"}
    assert messages.keys() == {
        "task_start_timeout_seconds",
        "max_runtime_seconds",
        "start_attempts",
        "launch_timeout_seconds",
    }
    assert "task_start_timeout_seconds" in messages["task_start_timeout_seconds"]
    assert "max_runtime_seconds" in messages["max_runtime_seconds"]
    assert "Capacity is unavailable" in messages["launch_timeout_seconds"]
    started = [request["startedBy"].split("/")[1] for request in recorder.all("RunTask")]
    assert started.count(runs["start_attempts"]) == 2
    assert [task.flow_run_id for task in aws.site("eu-north-1").ecs.fleet.launched] == [runs["aws_credentials"]]
    (deregistered_one,) = recorder.all("DeregisterTaskDefinition")
    used = recorder.of_runs()[runs["auto_deregister_task_definition"]]["request"]["taskDefinition"]
    assert deregistered_one["taskDefinition"] == used


async def register(aws: AwsSimulator, **request: Any) -> None:
    """A definition that users have registered themselves."""
    given = {"networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"], "cpu": "256", "memory": "512"}
    call = aws.director.receive("RegisterTaskDefinition", caller="somebody")
    await cast("Awaitable[Any]", aws.ecs.definitions.actions["RegisterTaskDefinition"]({**given, **request}, call))


class Recorder:
    """Every ECS request that the simulator takes, in its order."""

    def __init__(self, *sites: Site) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        for site in sites:
            for action, answer in site.ecs.actions.items():
                site.ecs.actions[action] = partial(self._record, action, answer)

    def _record(self, action: str, answer: Any, params: dict[str, Any], call: Call) -> Any:
        self.requests.append((action, copy.deepcopy(params)))
        return answer(params, call)

    def all(self, action: str) -> list[dict[str, Any]]:
        return [request for name, request in self.requests if name == action]

    def of_runs(self) -> dict[str, dict[str, Any]]:
        """Flow run → its first RunTask `request`, its family's `definition`, and how that family was `asked` for."""
        definitions = {request["family"]: request for request in self.all("RegisterTaskDefinition")}
        asked = {request["familyPrefix"]: request for request in self.all("ListTaskDefinitions")}
        found: dict[str, dict[str, Any]] = {}
        for request in self.all("RunTask"):
            run = request["startedBy"].split("/")[1]
            family = request["taskDefinition"].rpartition("/")[2].partition(":")[0]
            parts = {"request": request, "definition": definitions.get(family), "asked": asked.get(family)}
            found.setdefault(run, parts)
        return found


def value_at(value: Any, path: str) -> Any:
    """Items of lists are found by number, or by name or key; None if there is nothing."""
    for part in path.split("."):
        if isinstance(value, list):
            if part.isdigit():
                value = value[int(part)] if int(part) < len(value) else None
                continue
            items = [item for item in value if part in {item.get("name"), item.get("key")}]
            value = items[0] if items else None
            pair = {"name", "value"}, {"key", "value"}, {"name", "valueFrom"}
            if value is not None and value.keys() in pair:
                value = value.get("value", value.get("valueFrom"))
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value
