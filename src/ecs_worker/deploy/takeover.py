"""What a stack of prefect-aws's `ecs-worker deploy-service` says to `ecs-worker deploy`. Pure.

Its secrets' ARNs are parameters that AWS doesn't show (NoEcho): the worker's task definition names them.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecs_worker.deploy.pool import Facts
from ecs_worker.deploy.wishes import Wishes
from ecs_worker.settings import option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecs_worker.aws.cloudformation import Stack

# Parameter of theirs → our option.
_VALUES = {
    "WorkPoolName": "pool",
    "PrefectApiUrl": "prefect_api_url",
    "WorkQueues": "work_queues",
    "ExistingClusterIdentifier": "cluster",
    "ExistingVpcId": "vpc_id",
    "ExistingSubnetIds": "subnets",
    "DesiredCount": "desired_count",
    "TaskCpu": "cpu",
    "TaskMemory": "memory",
    "LogRetentionDays": "log_retention_days",
}
# Output of theirs → ours of the same meaning, where they fill a work pool's default with it.
_DEFAULTS = {
    "ClusterArn": "ClusterArn",
    "TaskExecutionRoleArn": "ExecutionRoleArn",
    "PrefectApiKeySecretArnOutput": "PrefectApiKeySecretArn",
    "VpcId": "VpcId",
    "SubnetIds": "SubnetIds",
}
# Variable of their worker → our option, and their output if the secret is the stack's own. Their worker is given the
# auth string under a name that Prefect doesn't read; what is meant is clear.
_SECRETS = {
    "PREFECT_API_KEY": ("prefect_api_key", "PrefectApiKeySecretArnOutput"),
    "PREFECT_AUTH_STRING": ("prefect_auth_string", "PrefectAuthStringSecretArnOutput"),
    "PREFECT_API_AUTH_STRING": ("prefect_auth_string", "PrefectAuthStringSecretArnOutput"),
}
TASK_DEFINITION = "TaskDefinitionArn"
"""The output with the worker's task definition."""


@dataclass(frozen=True, slots=True)
class TakenOver:
    """What a stack says: values of our options, and secrets of its own, whose values are to be kept elsewhere.

    `facts`: what it has given to the work pool. `notes`: what is not taken over, in sentences.
    """

    wishes: Mapping[str, str]
    own_secrets: Mapping[str, str]
    facts: Facts
    notes: tuple[str, ...]


def is_theirs(stack: Stack) -> bool:
    """Whether it is a stack of a worker that prefect-aws has deployed."""
    return {"WorkPoolName", "ExistingClusterIdentifier", "DockerImage"} <= stack.parameters.keys()


def read(stack: Stack, definition: Mapping[str, Any]) -> TakenOver:
    """What the stack and its worker's task definition (as it was registered) say."""
    given = stack.parameters
    wishes = {ours: given[theirs] for theirs, ours in _VALUES.items() if given.get(theirs)}
    own: dict[str, str] = {}
    for container in definition.get("containerDefinitions") or ():
        for secret in container.get("secrets") or ():
            if (known := _SECRETS.get(secret["name"])) is None:
                continue
            ours, output = known
            if stack.outputs.get(output) == secret["valueFrom"]:
                own[ours] = secret["valueFrom"]
            else:
                wishes[f"{ours}_secret_arn"] = secret["valueFrom"]
    notes = []
    least, most = given.get("MinCapacity", ""), given.get("MaxCapacity", "")
    if least != most:
        notes.append(
            f"The old service scales itself between {least} and {most} tasks, by their CPU. A worker waits most of the "
            "time, so ours doesn't scale: one is enough, --desired-count 2 lives through the loss of a zone."
        )
    facts = Facts(
        {ours: stack.outputs[theirs] for theirs, ours in _DEFAULTS.items() if stack.outputs.get(theirs)},
        public_ip=False,
    )
    return TakenOver(wishes, own, facts, tuple(notes))


def merged(wishes: Wishes, taken: TakenOver) -> Wishes:
    """The wishes, and where they say nothing what the stack says."""
    more: dict[str, Any] = dict(taken.wishes)
    if wishes.new_cluster:
        more.pop("cluster", None)
    if wishes.new_vpc or wishes.vpc_id or wishes.subnets:
        more = {name: value for name, value in more.items() if name not in {"vpc_id", "subnets"}}
    for credential in ("prefect_api_key", "prefect_auth_string"):
        if getattr(wishes, credential) is not None:
            more.pop(f"{credential}_secret_arn", None)
    return wishes.model_copy(
        update={name: value for name, value in more.items() if getattr(wishes, name) in (None, ())}
    )


def command(wishes: Wishes, own_secrets: Mapping[str, str], region: str) -> str:
    """The `ecs-worker deploy` with these wishes, as one would type it; secrets by where they are."""
    words = []
    for name in Wishes.model_fields:
        value = getattr(wishes, name)
        if value == Wishes.model_fields[name].default and name not in own_secrets:
            continue
        spelled = option(Wishes, name)
        if name in own_secrets:
            read = f"aws secretsmanager get-secret-value --region {region} --query SecretString --output text"
            words.append(f'{spelled} "$({read} --secret-id {own_secrets[name]})"')
        elif name in {"prefect_api_key", "prefect_auth_string"}:
            words.append(f"{spelled} …")
        elif isinstance(value, bool):
            words.append(spelled if value else spelled.replace("--", "--no-", 1))
        elif isinstance(value, tuple):
            words += [f"{spelled} {shlex.quote(each)}" for each in value]
        else:
            words.append(f"{spelled} {shlex.quote(value)}")
    return " \\\n    ".join(["ecs-worker deploy", *words])
