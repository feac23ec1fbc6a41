"""Every job variable, once: its meaning, its form in the Prefect UI, how it is read, and what it acts on.

The default base job template, the job configuration (`configuration.py`) and the docs follow from it.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from ecs_worker.job.shapes import (
    AwsCredentials,
    CapacityProvider,
    Container,
    Credentials,
    Definition,
    DefinitionPatch,
    Network,
    RunTask,
    Seconds,
    Switch,
    Text,
    Texts,
    Volume,
    shown_as,
)
from ecs_worker.job.sizes import EPHEMERAL_STORAGE
from ecs_worker.job.template import placeholders

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")

_CHANGES_DEFINITION, _IN_REQUESTS = "changes the definition", "in the requests"
ChangesDefinition = Annotated[T, _CHANGES_DEFINITION]
"""A variable that changes the task definition: it has no effect where the job reuses one as it is."""
InRequests = Annotated[T, _IN_REQUESTS]
"""A variable that the templates put only into the ECS requests: the configuration has no value of it."""


class JobVariables(BaseModel):
    """What a work pool, a deployment or a flow run may set for an ECS job."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    name: Text = Field(
        default=None,
        title="Name",
        description="Accepted for compatibility, without effect: ECS tasks have no names, and log streams, which the "
        "first 0.4 versions named so, have cloudwatch_logs_prefix.",
    )
    env: Texts = Field(
        default_factory=dict,
        repr=False,
        title="Environment Variables",
        description="Set in the flow's container. null unsets a variable that the worker or the definition would set.",
    )
    labels: Annotated[Texts, shown_as(dict[str, str])] = Field(
        default_factory=dict,
        title="Labels",
        description="Tags of the ECS task; characters that ECS doesn't allow in tags become hyphens.",
    )
    command: Text = Field(
        default=None,
        title="Command",
        description="Command of the flow's container, split like a shell's words. Default: prefect flow-run execute.",
    )
    task_definition_arn: InRequests[str | None] = Field(
        default=None,
        title="Task Definition ARN",
        description="ARN or family of an existing task definition, used as it is. Variables that change the task "
        "definition then have no effect.",
    )
    aws_credentials: Annotated[Credentials, shown_as(AwsCredentials)] = Field(
        default_factory=dict,
        repr=False,
        title="AWS Credentials",
        description="Account, role and Region to use. Default: the worker's own.",
    )
    cluster: Text = Field(
        default=None,
        title="Cluster",
        description="Name or ARN of the ECS cluster. Default: the worker's --cluster, else the account's default one.",
    )
    family: ChangesDefinition[InRequests[str | None]] = Field(
        default=None,
        title="Family",
        description="Family of the task definition; characters that ECS doesn't allow become hyphens. Default: made "
        "from the work pool's name and the deployment's id.",
    )
    launch_type: InRequests[Literal["FARGATE", "EC2", "EXTERNAL", "FARGATE_SPOT"] | None] = Field(
        default="FARGATE",
        title="Launch Type",
        description="Where tasks run. FARGATE_SPOT is cheaper, and AWS may interrupt it at any time. null: where the "
        "worker's --launch-type says, else where the cluster's default strategy does.",
    )
    capacity_provider_strategy: InRequests[list[CapacityProvider]] = Field(
        default_factory=list,
        title="Capacity Provider Strategy",
        description="Capacity providers to use, in place of a launch type. On other instances than Fargate's, launch "
        "type FARGATE beside it still means: a network (awsvpc) and a size of the task's own.",
    )
    image: ChangesDefinition[InRequests[str | None]] = Field(
        default=None,
        title="Image",
        description="Image of the flow's container. Default: the Prefect image of the server's version.",
    )
    cpu: InRequests[int | str | None] = Field(
        default=None,
        title="CPU",
        description='CPU of the task: units, of which 1024 are one vCPU, or "1 vcpu". Default: the task definition\'s, '
        "else 1024.",
    )
    memory: InRequests[int | str | None] = Field(
        default=None,
        title="Memory",
        description='Memory of the task: MiB, or "2 GB". Default: the task definition\'s, else 2048.',
    )
    container_name: Text = Field(
        default=None,
        title="Container Name",
        description="Container that runs the flow. Default: prefect, else the task definition's first.",
    )
    prefect_api_key_secret_arn: ChangesDefinition[Text] = Field(
        default=None,
        title="Prefect API Key Secret ARN",
        description="Secret that gives the container PREFECT_API_KEY, in place of the worker's own key.",
    )
    prefect_api_auth_string_secret_arn: ChangesDefinition[Text] = Field(
        default=None,
        title="Prefect API Auth String Secret ARN",
        description="Secret that gives the container PREFECT_API_AUTH_STRING, in place of the worker's own.",
    )
    task_role_arn: InRequests[str | None] = Field(
        default=None, title="Task Role ARN", description="Role of the flow's code while the task runs."
    )
    execution_role_arn: ChangesDefinition[Text] = Field(
        default=None,
        title="Execution Role ARN",
        description="Role with which ECS starts the task: pulls the image, reads secrets, writes logs.",
    )
    vpc_id: Text = Field(
        default=None,
        title="VPC ID",
        description="VPC whose subnets the task may use. Default: the account's default VPC.",
    )
    configure_cloudwatch_logs: ChangesDefinition[Switch] = Field(
        default=None,
        title="Configure CloudWatch Logs",
        description="Send the flow container's output to CloudWatch Logs; needs an execution role that may write it.",
    )
    cloudwatch_logs_options: Annotated[Texts, shown_as(dict[str, str])] = Field(
        default_factory=dict,
        title="CloudWatch Logs Options",
        description="Options of the awslogs driver, over the default ones.",
    )
    cloudwatch_logs_prefix: Text = Field(
        default=None,
        title="CloudWatch Logs Prefix",
        description="Prefix of the log streams. Default: made from the work pool's name and the deployment's id.",
    )
    network_configuration: Annotated[Network, shown_as(dict[str, Any])] = Field(
        default_factory=dict,
        title="Network Configuration",
        description="The task's awsvpcConfiguration: subnets, securityGroups, assignPublicIp. With vpc_id, the "
        "subnets must be in that VPC.",
    )
    stream_output: Switch = Field(
        default=None,
        title="Stream Output",
        description="Repeat the container's CloudWatch lines in the worker's output while it runs.",
    )
    task_start_timeout_seconds: Annotated[Seconds | None, shown_as(Annotated[int, Field(ge=0)] | None)] = Field(
        default=None,
        title="Task Start Timeout Seconds",
        description="Stop a task that hasn't started to run after this many seconds. Default, and 0: never.",
    )
    task_watch_poll_interval: Seconds | None = Field(
        default=None,
        title="Task Watch Poll Interval",
        description="Seconds between two looks at the task while it runs. Default, and 0: the worker's own.",
    )
    auto_deregister_task_definition: bool = Field(
        default=False,
        title="Auto Deregister Task Definition",
        description="Deregister the task definition when its task has stopped. Never done to one given by ARN.",
    )
    match_latest_revision_in_family: bool = Field(
        default=False,
        title="Match Latest Revision In Family",
        description="Reuse only the family's newest revision, and register a new one if it differs.",
    )
    secrets: ChangesDefinition[dict[str, str]] = Field(
        default_factory=dict,
        repr=False,
        title="Secrets",
        description="Environment variables from Secrets Manager or the SSM Parameter Store: name → ARN.",
    )
    environment_files: list[str] = Field(
        default_factory=list,
        title="Environment Files",
        description="S3 ARNs of .env files for the flow's container; env wins over them, and earlier files win.",
    )
    subnets: list[str] = Field(
        default_factory=list,
        title="Subnets",
        description="Subnets of the task, at most 16; no vpc_id is needed.",
    )
    security_groups: list[str] = Field(
        default_factory=list,
        title="Security Groups",
        description="Security groups of the task, at most 5. Default: the VPC's own.",
    )
    assign_public_ip: bool | None = Field(
        default=None,
        title="Assign Public IP",
        description="Give the task a public IP address. Default: yes for Fargate's tasks in subnets that the worker "
        "looks up; not where the cluster's default strategy decides.",
    )
    inherit_network: bool | None = Field(
        default=None,
        title="Inherit Network",
        description="Without subnets and vpc_id: use the subnet and the security groups of the worker, which must run "
        "on ECS. Default: the worker's --inherit-network, else no.",
    )
    ephemeral_storage_gib: int | None = Field(
        default=None,
        ge=EPHEMERAL_STORAGE[0],
        le=EPHEMERAL_STORAGE[1],
        title="Ephemeral Storage GiB",
        description="Temporary disk of a Fargate task in GiB. Default: Fargate's 20.",
    )
    cpu_architecture: ChangesDefinition[Literal["X86_64", "ARM64"] | None] = Field(
        default=None, title="CPU Architecture", description="Default: X86_64."
    )
    operating_system_family: ChangesDefinition[Text] = Field(
        default=None,
        title="Operating System Family",
        description="LINUX or one of the Windows families. Default: LINUX.",
    )
    gpu: ChangesDefinition[int | None] = Field(
        default=None, ge=1, title="GPU", description="GPUs of the flow's container; not on Fargate."
    )
    platform_version: Text = Field(
        default=None, title="Platform Version", description="Fargate platform version. Default: LATEST."
    )
    propagate_tags: Literal["TASK_DEFINITION", "NONE"] | None = Field(
        default=None, title="Propagate Tags", description="Copy the task definition's tags to the task."
    )
    enable_execute_command: bool | None = Field(
        default=None,
        title="Enable Execute Command",
        description="Allow ECS Exec into the containers; needs a task role.",
    )
    group: Text = Field(default=None, title="Group", description="Task group. Default: family:<family>.")
    placement_constraints: list[dict[str, Any]] = Field(
        default_factory=list,
        title="Placement Constraints",
        description="RunTask's placementConstraints; not on Fargate.",
    )
    placement_strategy: list[dict[str, Any]] = Field(
        default_factory=list,
        title="Placement Strategy",
        description="RunTask's placementStrategy; not on Fargate.",
    )
    volumes: ChangesDefinition[Annotated[list[Volume], shown_as(list[dict[str, Any]])]] = Field(
        default_factory=list,
        title="Volumes",
        description="Volumes of the flow's container: name, mount_path, read_only, and ECS's efsVolumeConfiguration or "
        "host, or managedEBSVolume for an EBS volume made at launch.",
    )
    stop_timeout_seconds: ChangesDefinition[int | None] = Field(
        default=None,
        ge=0,
        title="Stop Timeout Seconds",
        description="Seconds between SIGTERM and SIGKILL when the task is stopped; on Fargate 2 to 120. Default: 30.",
    )
    linux_init: ChangesDefinition[bool | None] = Field(
        default=None,
        title="Linux Init",
        description="Run an init process in the flow's container that forwards signals and reaps processes.",
    )
    readonly_root_filesystem: ChangesDefinition[bool | None] = Field(
        default=None, title="Readonly Root Filesystem", description="Give the flow's container no writable root."
    )
    max_runtime_seconds: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        title="Max Runtime Seconds",
        description="Stop a task that has been running for this many seconds. Default: never.",
    )
    start_attempts: int = Field(
        default=3,
        ge=1,
        le=20,
        title="Start Attempts",
        description="Tasks to try when one fails to start for a reason that may pass.",
    )
    launch_timeout_seconds: float = Field(
        default=900,
        gt=0,
        allow_inf_nan=False,
        title="Launch Timeout Seconds",
        description="Seconds to wait for capacity or through throttling until the launch is given up.",
    )
    spot_fallback: bool = Field(
        default=False,
        title="Spot Fallback",
        description="Run on FARGATE when FARGATE_SPOT has no capacity.",
    )
    stream_output_to: Literal["worker", "prefect", "both"] | None = Field(
        default=None,
        title="Stream Output To",
        description="Where the container's CloudWatch lines are repeated: the worker's output, the run's logs on the "
        "server, or both. Default: the worker's with stream_output, else nowhere.",
    )
    stream_containers: list[str] = Field(
        default=[],
        title="Stream Containers",
        description="Side-cars whose output is treated as the flow container's: repeated like it, and shown in the "
        "run's logs when the run ends before it could begin.",
    )
    round_up_resources: bool = Field(
        default=False,
        title="Round Up Resources",
        description="Take the next CPU and memory that Fargate runs instead of refusing others.",
    )
    derive_task_definition: bool = Field(
        default=False,
        title="Derive Task Definition",
        description="With task_definition_arn: register a changed copy where variables need one, in its own family.",
    )
    task_definition: ChangesDefinition[Annotated[Definition, shown_as(dict[str, Any])]] = Field(
        default_factory=dict,
        repr=False,
        title="Task Definition",
        description="A task definition to start from. The flow runs in its container named container_name, flow or "
        "prefect; if there is none, one is added.",
    )
    task_definition_path: ChangesDefinition[Text] = Field(
        default=None,
        title="Task Definition Path",
        description="The same, from a YAML or JSON file: s3://bucket/key, or one under the worker's --documents-dir.",
    )
    run_task_kwargs: Annotated[RunTask, shown_as(dict[str, Any])] = Field(
        default_factory=dict,
        repr=False,
        title="Run Task Kwargs",
        description="Arguments of RunTask, merged over the pool's; container overrides are paired by name.",
    )
    run_task_kwargs_path: Text = Field(
        default=None,
        title="Run Task Kwargs Path",
        description="The same, from a YAML or JSON file: s3://bucket/key, or one under the worker's --documents-dir.",
    )
    task_definition_patch: ChangesDefinition[Annotated[DefinitionPatch, shown_as(dict[str, Any])]] = Field(
        default_factory=dict,
        repr=False,
        title="Task Definition Patch",
        description="Merged deeply over the task definition; containers, volumes, variables are paired by name, null "
        "removes.",
    )
    container_patch: ChangesDefinition[Annotated[Container, shown_as(dict[str, Any])]] = Field(
        default_factory=dict,
        repr=False,
        title="Container Patch",
        description="Merged deeply over the definition of the flow's container.",
    )
    run_task_patch: Annotated[RunTask, shown_as(dict[str, Any])] = Field(
        default_factory=dict,
        repr=False,
        title="Run Task Patch",
        description="Merged deeply over the RunTask request; container overrides are paired by name.",
    )


# Where our template puts variables into the two requests; prefect-aws's templates do the same.
_REQUESTS: dict[str, Any] = {
    "task_definition": {
        "containerDefinitions": [{"image": "{{ image }}", "name": "{{ container_name }}"}],
        "cpu": "{{ cpu }}",
        "family": "{{ family }}",
        "memory": "{{ memory }}",
        "executionRoleArn": "{{ execution_role_arn }}",
    },
    "task_run_request": {
        "launchType": "{{ launch_type }}",
        "cluster": "{{ cluster }}",
        "overrides": {
            "containerOverrides": [
                {
                    "name": "{{ container_name }}",
                    "command": "{{ command }}",
                    "environment": "{{ env }}",
                    "cpu": "{{ cpu }}",
                    "memory": "{{ memory }}",
                }
            ],
            "cpu": "{{ cpu }}",
            "memory": "{{ memory }}",
            "taskRoleArn": "{{ task_role_arn }}",
        },
        "tags": "{{ labels }}",
        "taskDefinition": "{{ task_definition_arn }}",
        "capacityProviderStrategy": "{{ capacity_provider_strategy }}",
    },
}
# The configuration's name for the variable task_definition: its own field of that name is the request.
INLINE_DEFINITION = "inline_task_definition"


def _marked(mark: str) -> tuple[str, ...]:
    return tuple(name for name, field in JobVariables.model_fields.items() if mark in field.metadata)


def _places(value: Any, *path: str) -> Iterator[tuple[str, str]]:
    """Where in a request its variables stand, and which."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, *path, str(key))
    if isinstance(value, str):
        (variable,) = placeholders(value)
        yield ".".join(path), variable


PLACES = dict(_places(_REQUESTS))
"""Place in the requests → the variable that our template puts there."""
CHANGE_DEFINITION = _marked(_CHANGES_DEFINITION)
"""The variables that have no effect on a task definition that is reused as it is."""
IN_REQUESTS = {name: next(at for at, placed in PLACES.items() if placed == name) for name in _marked(_IN_REQUESTS)}
"""The variables that only the requests hold → where they stand there."""


@cache
def _schema() -> dict[str, Any]:
    return JobVariables.model_json_schema(ref_template="#/definitions/{model}")


def default_base_job_template() -> dict[str, Any]:
    """The base job template of a new pool: each part of the configuration from the variable of its name."""
    schema = copy.deepcopy(_schema())
    named = {name: f"{{{{ {name} }}}}" for name in JobVariables.model_fields if name not in IN_REQUESTS}
    return {
        "job_configuration": named | copy.deepcopy(_REQUESTS) | {INLINE_DEFINITION: "{{ task_definition }}"},
        "variables": {
            "type": "object",
            "description": schema["description"],
            "properties": schema["properties"],
            "definitions": schema["$defs"],
        },
    }
