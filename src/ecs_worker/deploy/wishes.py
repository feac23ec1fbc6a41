"""What `ecs-worker deploy` can be told: each option once. Most are parameters of the template, which explains them.

The other tool's names for them work, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from ecs_worker.deploy.template import parameters
from ecs_worker.settings import VARIABLE_ONLY, Aliases, Option


@dataclass(frozen=True, slots=True)
class Gives:
    """The template's parameter that an option gives as it is."""

    parameter: str


def _of(parameter: str, more: str = "") -> str:
    """An option's help: what the template says of the parameter, and its default."""
    declared = parameters()[parameter]
    values = f" One of {', '.join(declared.values)}." if 0 < len(declared.values) <= 8 else ""  # noqa: PLR2004
    default = f" [default: {declared.default}]" if declared.default else ""
    return f"{declared.meaning}.{values}{f' {more}' if more else ''}{default}"


class Where(BaseModel):
    """Which account and Region."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    region: str | None = Field(default=None, description="AWS Region (default: as for every AWS client).")
    profile: str | None = Field(default=None, description="AWS profile (default: as for every AWS client).")


class Which(Where):
    """Which stack."""

    pool: Annotated[str | None, Option(("--pool", "-p")), Aliases(("--work-pool-name",))] = Field(
        default=None, description="Work pool of the worker."
    )
    stack_name: str | None = Field(
        default=None,
        description="Name of the CloudFormation stack; of a new one, ecs-worker- and the pool's name by default.",
    )


class EventsWishes(Which):
    """What the stack of a queue of task events can be told."""

    stack_name: str | None = Field(
        default=None, description="Name of the CloudFormation stack (default: ecs-worker-events- and the pool's name)."
    )
    cluster: Annotated[str | None, Aliases(("--existing-cluster-arn", "--existing-cluster-identifier"))] = Field(
        default=None, description="Only tasks of this cluster (name or ARN; default: of all clusters of the Region)."
    )


class Wishes(Which):
    """All that a stack can be told. None: what it has stays; of a new stack, the template's default."""

    image: Annotated[str | None, Gives("Image"), Aliases(("--docker-image",))] = Field(
        default=None, description=_of("Image", "A new stack needs it.")
    )
    prefect_api_url: Annotated[str | None, Gives("PrefectApiUrl")] = Field(
        default=None,
        description=_of("PrefectApiUrl", "How the worker reaches it (default: as this machine does)."),
    )
    prefect_api_key: SecretStr | None = Field(
        default=None,
        description="API key of the worker and of its flow runs, kept in Secrets Manager (default: the one that this "
        "command uses itself).",
    )
    prefect_api_key_secret_arn: Annotated[str | None, Gives("PrefectApiKeySecretArn")] = Field(
        default=None, description="ARN of a secret that holds the API key already."
    )
    prefect_auth_string: SecretStr | None = Field(
        default=None,
        description="user:password for a server with basic authentication, kept in Secrets Manager (default: the one "
        "that this command uses itself).",
    )
    prefect_auth_string_secret_arn: Annotated[str | None, Gives("PrefectAuthStringSecretArn")] = Field(
        default=None, description="ARN of a secret that holds user:password already."
    )
    secrets_key_arn: Annotated[str | None, Gives("SecretsKeyArn")] = Field(
        default=None, description=_of("SecretsKeyArn")
    )
    cluster: Annotated[str | None, Aliases(("--existing-cluster-identifier",))] = Field(
        default=None,
        description="ECS cluster (name or ARN) of the worker and, by default, of its flow runs (default: the work "
        "pool's; if it names none, a new one).",
    )
    new_cluster: bool = Field(default=False, description="Make a cluster for this worker.")
    vpc_id: Annotated[str | None, Aliases(("--existing-vpc-id",))] = Field(
        default=None, description="VPC of the worker (default: the account's default one)."
    )
    subnets: Annotated[str | None, Aliases(("--existing-subnet-ids",))] = Field(
        default=None,
        description="Subnets of the worker, with commas between (default: those of the VPC with a way out).",
    )
    new_vpc: Annotated[str | None, Gives("NewVpc")] = Field(
        default=None, description="Make a network for the worker and its flow runs: public or private subnets."
    )
    vpc_endpoints: Annotated[bool | None, Option(("--vpc-endpoints/--no-vpc-endpoints",))] = Field(
        default=None, description=f"{parameters()['VpcEndpoints'].meaning}."
    )
    security_group: Annotated[str | None, Gives("SecurityGroup")] = Field(
        default=None, description=_of("SecurityGroup")
    )
    assign_public_ip: Annotated[bool | None, Option(("--assign-public-ip/--no-assign-public-ip",))] = Field(
        default=None, description="Give the worker a public address (default: in subnets that need one)."
    )
    work_queues: Annotated[str | None, Gives("WorkQueues")] = Field(default=None, description=_of("WorkQueues"))
    desired_count: Annotated[str | None, Gives("DesiredCount")] = Field(default=None, description=_of("DesiredCount"))
    cpu: Annotated[str | None, Gives("Cpu"), Aliases(("--task-cpu",))] = Field(default=None, description=_of("Cpu"))
    memory: Annotated[str | None, Gives("Memory"), Aliases(("--task-memory",))] = Field(
        default=None, description=_of("Memory")
    )
    capacity: Annotated[str | None, Gives("Capacity")] = Field(default=None, description=_of("Capacity"))
    architecture: Annotated[str | None, Gives("Architecture")] = Field(default=None, description=_of("Architecture"))
    log_retention_days: Annotated[str | None, Gives("LogRetentionDays")] = Field(
        default=None, description=_of("LogRetentionDays")
    )
    events_queue: Annotated[bool | None, Option(("--events-queue/--no-events-queue",))] = Field(
        default=None, description=f"{parameters()['EventsQueue'].meaning}."
    )
    alarms: Annotated[str | None, Gives("AlarmsTopicArn")] = Field(default=None, description=_of("AlarmsTopicArn"))
    run_families: Annotated[str | None, Gives("RunFamilies")] = Field(default=None, description=_of("RunFamilies"))
    run_log_group: Annotated[str | None, Gives("RunLogGroup")] = Field(default=None, description=_of("RunLogGroup"))
    option: tuple[str, ...] = Field(
        default=(),
        description="Option of `ecs-worker start` as KEY=VALUE, such as limit=20; repeatable. KEY= takes "
        "one out again.",
    )
    min_capacity: Annotated[str | None, VARIABLE_ONLY, Aliases(("--min-capacity", "--max-capacity"))] = Field(
        default=None,
        description="Without effect: a worker mostly waits, so its CPU tells nothing; --desired-count says how many "
        "run.",
    )
    existing_log_group_name: Annotated[str | None, VARIABLE_ONLY, Aliases(("--existing-log-group-name",))] = Field(
        default=None, description="Without effect: the worker's log is the stack's own."
    )
