"""Which rights the worker and the tasks' execution roles need: from resources to statements.

Source of what an action is checked against: the Service Authorization Reference. These know no resources, so only `*`
does for them: ecs:DescribeTaskDefinition, ecs:ListTaskDefinitions, ecs:DeregisterTaskDefinition, ec2:Describe… and
ecr:GetAuthorizationToken. ecs:RegisterTaskDefinition is checked against the family, with `*` as its revision.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from ecs_worker.iam.policy import VERSION, Statement, allow

if TYPE_CHECKING:
    from collections.abc import Iterable

ECS = "ecs.amazonaws.com"
"""Who assumes the infrastructure role with which ECS makes a task's EBS volumes."""
ECS_TASKS = "ecs-tasks.amazonaws.com"
"""Who assumes task roles and execution roles."""

_FULL_SECRET = re.compile(r"-(?=\w*[A-Z0-9])[A-Za-z0-9]{6}$", re.ASCII)
_MAYBE_FULL_SECRET = re.compile(r"-[a-z]{6}$")
_REVISION = re.compile(r":(\d+|\*)$")


@dataclass(frozen=True, slots=True)
class Scope:
    """An account and Region, from whose names of things ARNs are made. Each part may be a pattern or a parameter."""

    partition: str
    region: str
    account: str

    def arn(self, service: str, resource: str) -> str:
        """The ARN of a resource of the Region."""
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{resource}"

    def cluster(self, name: str) -> str:
        """A cluster's ARN. Of an ARN, itself; as with the methods below."""
        return name if name.startswith("arn:") else self.arn("ecs", f"cluster/{name}")

    def definition(self, name: str) -> str:
        """A task definition's ARN; of a family, that of all its revisions."""
        arn = name if name.startswith("arn:") else self.arn("ecs", f"task-definition/{name}")
        return arn if _REVISION.search(arn.partition("task-definition/")[2]) else f"{arn}:*"

    def role(self, name: str) -> str:
        """A role's ARN."""
        return name if name.startswith("arn:") else f"arn:{self.partition}:iam::{self.account}:role/{name}"

    def secrets(self, reference: str) -> tuple[str, ...]:
        """What a secret's or parameter's `valueFrom` may be checked against.

        Secrets Manager adds six random characters to a secret's name, which the reference may lack.
        """
        if ":secretsmanager:" in reference:
            arn = ":".join(reference.split(":")[:7])  # what follows chooses a key or a version
            if _FULL_SECRET.search(arn):
                return (arn,)
            return (arn, f"{arn}-??????") if _MAYBE_FULL_SECRET.search(arn) else (f"{arn}-??????",)
        return (reference if reference.startswith("arn:") else self.arn("ssm", f"parameter/{reference.lstrip('/')}"),)


class _Needs:
    """Sets of ARNs (or patterns of them) and flags, which add up."""

    __slots__ = ()

    def __or__(self, other: Self) -> Self:
        """What both need."""
        return type(self)(**{each.name: getattr(self, each.name) | getattr(other, each.name) for each in fields(self)})  # type: ignore[arg-type] # every subclass is a dataclass


_Arns = frozenset[str]
_NONE: _Arns = frozenset()


@dataclass(frozen=True, slots=True)
class WorkerNeeds(_Needs):
    """What one principal works on when it launches tasks and looks after them.

    `runs`: task definitions that it runs; `registers`: those of them that it makes. `volume_roles` are passed to ECS
    for EBS volumes, `task_roles` to the tasks. `logs` are log groups, `documents` S3 objects.
    """

    clusters: _Arns = _NONE
    runs: _Arns = _NONE
    registers: _Arns = _NONE
    task_roles: _Arns = _NONE
    volume_roles: _Arns = _NONE
    assumed_roles: _Arns = _NONE
    logs: _Arns = _NONE
    documents: _Arns = _NONE
    queues: _Arns = _NONE
    deregisters: bool = False
    finds_network: bool = False
    inherits_network: bool = False


@dataclass(frozen=True, slots=True)
class ExecutionNeeds(_Needs):
    """What ECS does with an execution role before a task starts, and for its output.

    `new_logs`: those of the log groups that it may make. `keys`: KMS keys of secrets that are not AWS's own.
    """

    repositories: _Arns = _NONE
    logs: _Arns = _NONE
    new_logs: _Arns = _NONE
    secrets: _Arns = _NONE
    parameters: _Arns = _NONE
    keys: _Arns = _NONE
    environment_files: _Arns = _NONE


def worker(needs: WorkerNeeds) -> list[Statement]:
    """The worker's rights for tasks: all that every worker needs, then what only some jobs need."""
    return [*launching(needs), *optional(needs), *listening(needs)]


def launching(needs: WorkerNeeds) -> list[Statement]:
    """To launch tasks, watch and stop them, and read their output."""
    tasks = [cluster.replace(":cluster/", ":task/") + "/*" for cluster in needs.clusters]
    in_cluster = {"ArnEquals": {"ecs:cluster": sorted(needs.clusters)}}
    return _granted(
        allow("RunTasks", "ecs:RunTask", needs.runs, in_cluster),
        allow("WatchAndStopTasks", ("ecs:DescribeTasks", "ecs:StopTask"), tasks, in_cluster),
        # AWS's own form: of the narrower one, by container instances, some accounts are denied it.
        allow("FindTasks", "ecs:ListTasks", ["*"] if needs.clusters else [], in_cluster),
        allow("TagTasks", "ecs:TagResource", tasks, _created_by("RunTask")),
        allow("RegisterTaskDefinitions", "ecs:RegisterTaskDefinition", needs.registers),
        allow("TagTaskDefinitions", "ecs:TagResource", needs.registers, _created_by("RegisterTaskDefinition")),
        allow(
            "FindTaskDefinitions",
            ("ecs:DescribeTaskDefinition", "ecs:ListTaskDefinitions"),
            ["*"] if needs.runs else [],
        ),
        allow("GiveTasksTheirRoles", "iam:PassRole", needs.task_roles, passed_to(ECS_TASKS)),
        allow(
            "FindTheDefaultNetwork",
            ("ec2:DescribeVpcs", "ec2:DescribeSubnets"),
            ["*"] if needs.finds_network else [],
        ),
        allow("ReadContainerOutput", ("logs:FilterLogEvents", "logs:GetLogEvents"), _with_streams(needs.logs)),
    )


def optional(needs: WorkerNeeds) -> list[Statement]:
    """For jobs that ask for more."""
    return _granted(
        allow(
            "DeregisterTaskDefinitionsThatWereUsed",
            "ecs:DeregisterTaskDefinition",
            ["*"] if needs.deregisters else [],
        ),
        allow("ReadTaskDefinitionsAndArgumentsOnS3", "s3:GetObject", needs.documents),
        allow(
            "InheritTheWorkersNetwork",
            "ec2:DescribeNetworkInterfaces",
            ["*"] if needs.inherits_network else [],
        ),
        allow("AssumeTheRolesOfCredentialsBlocks", "sts:AssumeRole", needs.assumed_roles),
        allow("GiveEcsTheRoleThatMakesVolumes", "iam:PassRole", needs.volume_roles, passed_to(ECS)),
    )


def listening(needs: WorkerNeeds) -> list[Statement]:
    """For `--events-queue`."""
    actions = ("sqs:GetQueueUrl", "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility")
    return _granted(allow("ReadTaskEvents", actions, needs.queues))


def execution(needs: ExecutionNeeds) -> list[Statement]:
    """An execution role's rights: to start tasks, then to read what they are given."""
    return [*starting(needs), *reading(needs)]


def starting(needs: ExecutionNeeds) -> list[Statement]:
    """To pull images and to write the output of containers."""
    pull = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
    return _granted(
        allow("PullImages", pull, needs.repositories),
        allow("LogInToTheRegistry", "ecr:GetAuthorizationToken", ["*"] if needs.repositories else []),
        allow("MakeLogGroups", "logs:CreateLogGroup", _with_streams(needs.new_logs)),
        allow("WriteContainerOutput", ("logs:CreateLogStream", "logs:PutLogEvents"), _with_streams(needs.logs)),
    )


def reading(needs: ExecutionNeeds) -> list[Statement]:
    """To read secrets, parameters and environment files."""
    via = {"StringLike": {"kms:ViaService": ["secretsmanager.*.amazonaws.com", "ssm.*.amazonaws.com"]}}
    buckets = [file.partition("/")[0] for file in needs.environment_files]
    return _granted(
        allow("ReadSecretsManager", "secretsmanager:GetSecretValue", needs.secrets),
        allow("ReadParameterStore", "ssm:GetParameters", needs.parameters),
        allow("DecryptThem", "kms:Decrypt", needs.keys, via),
        allow("ReadEnvironmentFiles", "s3:GetObject", needs.environment_files),
        allow("FindTheirBuckets", "s3:GetBucketLocation", buckets),
    )


def examining(worker: WorkerNeeds, execution: ExecutionNeeds) -> list[Statement]:
    """For `ecs-worker doctor`: to look at all that the worker and the tasks work on. Nothing can be changed with it."""
    accounts = {tuple(arn.split(":")[1:5:3]) for arn in worker.clusters}
    people = [f"arn:{partition}:iam::{account}:" for partition, account in accounts]
    network = ("Vpcs", "Subnets", "RouteTables", "NatGateways", "VpcEndpoints", "SecurityGroups")
    return _granted(
        allow("LookAtClusters", "ecs:DescribeClusters", worker.clusters),
        allow("ReadTaskDefinitions", "ecs:DescribeTaskDefinition", ["*"] if worker.runs else []),
        allow("LookAtNetworks", [f"ec2:Describe{name}" for name in network], ["*"]),
        # Of roles that jobs name, of whoever launches tasks, and of ECS's own.
        allow("LookAtRoles", "iam:GetRole", [f"{each}role/*" for each in people]),
        allow(
            "AskWhatIsAllowed",
            "iam:SimulatePrincipalPolicy",
            [f"{each}{kind}/*" for each in people for kind in ("role", "user")],
        ),
        allow("LookAtImages", ("ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"), execution.repositories),
        allow("LookAtQuotas", "servicequotas:GetServiceQuota", ["*"]),
        allow("ReadTaskDefinitionsAndArgumentsOnS3", "s3:GetObject", worker.documents),
        allow("InheritTheWorkersNetwork", "ec2:DescribeNetworkInterfaces", ["*"] if worker.inherits_network else []),
        allow("AssumeTheRolesOfCredentialsBlocks", "sts:AssumeRole", worker.assumed_roles),
    )


def passed_to(service: str) -> dict[str, dict[str, list[str]]]:
    """The condition that a role is passed to that service only."""
    return {"StringEquals": {"iam:PassedToService": [service]}}


def trust(service: str, account: str | None = None) -> dict[str, Any]:
    """The trust policy of a role that the service assumes; with `account`, for that one only."""
    statement: dict[str, Any] = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    if account is not None:
        statement["Condition"] = {"StringEquals": {"aws:SourceAccount": account}}
    return {"Version": VERSION, "Statement": [statement]}


def _created_by(action: str) -> dict[str, dict[str, list[str]]]:
    return {"StringEquals": {"ecs:CreateAction": [action]}}


def _with_streams(groups: Iterable[str]) -> list[str]:
    """Some actions are checked against the log group, some against its streams."""
    return [arn for group in groups for arn in (group, f"{group}:*")]


def _granted(*statements: Statement) -> list[Statement]:
    return [statement for statement in statements if statement.resources]
