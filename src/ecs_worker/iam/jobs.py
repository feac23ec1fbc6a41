"""What a job needs, read off its two requests."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ecs_worker.iam.rights import ExecutionNeeds, Scope, WorkerNeeds
from ecs_worker.job.attached import DERIVED, documents
from ecs_worker.job.names import generated_family
from ecs_worker.job.requests import log_streams, network_need
from ecs_worker.model import DEFAULT_CLUSTER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ecs_worker.job.job import Job

ECR = re.compile(r"(?P<account>\d{12})\.dkr\.ecr(-fips)?\.(?P<region>[\w-]+)\.amazonaws\.com(\.cn)?/(?P<name>[^:@]+)")
_S3 = "s3://"
_ACCOUNT = re.compile(r"arn:[\w-]+:(?:iam|ecs):[\w-]*:(?P<account>\d{12}):")


OWN = ""
"""The worker's own credentials, among those who launch jobs."""


@dataclass
class PoolNeeds:
    """What the jobs of a pool need: of those who launch them (by the role's ARN, or OWN), and of their execution roles.

    `notes`: what could not be told, in sentences.
    """

    launchers: defaultdict[str, WorkerNeeds] = field(default_factory=lambda: defaultdict(WorkerNeeds))
    executions: defaultdict[str, ExecutionNeeds] = field(default_factory=lambda: defaultdict(ExecutionNeeds))
    notes: dict[str, None] = field(default_factory=dict)  # in their order, each once

    def add(self, name: str, job: Job, scope: Scope) -> None:
        """What one job needs. `scope`: where it is launched; `name`: what notes call it."""
        principal = launcher(job)
        if principal is None:
            self.notes[
                f"The worker needs no rights for {name}, which is launched with its aws-credentials block's own "
                "credentials: their user or role needs those of a worker."
            ] = None
        else:
            self.launchers[principal] |= launches(job, scope)
        own = asks_for(job, scope.partition)
        if (role := assumed_role(job)) is not None:
            own |= WorkerNeeds(assumed_roles=frozenset({role}))
        self.launchers[OWN] |= own
        if (started := starts(job, scope)) is not None:
            self.executions[started[0]] |= started[1]


def launches(job: Job, scope: Scope) -> WorkerNeeds:
    """What whoever launches the job needs. `scope`: where it is launched."""
    configuration, run_task = job.configuration, job.run_task
    made = _made(job, scope)
    reused = configuration.reused_definition
    roles = (
        _at(part, name) for part in (job.definition, job.overrides) for name in ("taskRoleArn", "executionRoleArn")
    )
    volumes = (_at(volume, "managedEBSVolume", "roleArn") for volume in run_task.get("volumeConfigurations") or [])
    need = network_need(configuration, job.context, job.definition)
    own_log, side_car_logs = log_streams(configuration, job.definition, scope.region)
    read = [stream for stream in (own_log, *side_car_logs) if stream is not None]
    return WorkerNeeds(
        clusters=frozenset({scope.cluster(run_task.get("cluster") or DEFAULT_CLUSTER)}),
        runs=made | ({scope.definition(reused)} if reused else set()),
        registers=made,
        task_roles=_roles(roles, scope),
        volume_roles=_roles(volumes, scope),
        logs=frozenset(_log_group(stream.group, stream.region, scope) for stream in read),
        deregisters=bool(made) and configuration.auto_deregister_task_definition,
        finds_network=need is not None and not need.inherit,
        inherits_network=need is not None and need.inherit,
    )


def asks_for(job: Job, partition: str) -> WorkerNeeds:
    """What the worker itself needs of AWS to make the job's requests, whoever launches it."""
    paths = [document.path for document in documents(job.configuration, job.context.defaults)]
    return WorkerNeeds(
        documents=frozenset(f"arn:{partition}:s3:::{path.removeprefix(_S3)}" for path in paths if path.startswith(_S3))
    )


def assumed_role(job: Job) -> str | None:
    """The role that the worker's own credentials assume to launch the job."""
    credentials = job.configuration.target.credentials
    if credentials is None or credentials.access_key_id or credentials.profile_name:
        return None
    return credentials.assume_role_arn


def launcher(job: Job) -> str | None:
    """Who launches the job: a role's ARN; empty for the worker's own credentials; None for a block's access key."""
    credentials = job.configuration.target.credentials
    return "" if credentials is None else credentials.assume_role_arn


def starts(job: Job, scope: Scope) -> tuple[str, ExecutionNeeds] | None:
    """The job's execution role and what ECS does with it; None: the job has no such role."""
    if not job.execution_role:
        return None
    needs = ExecutionNeeds()
    overridden = {override.get("name"): override for override in job.container_overrides}
    for container in job.containers:
        needs |= _of_container(container, overridden.get(container.get("name"), {}), scope)
    return scope.role(str(job.execution_role)), needs


def named_account(job: Job) -> str | None:
    """The account that the job's roles or its cluster name by their ARNs: roles can only be passed within one."""
    given = (*_passed(job), job.run_task.get("cluster"), job.configuration.reused_definition)
    if launcher(job):
        given = (launcher(job), *given)
    found = (_ACCOUNT.match(str(arn)) for arn in given)
    return next((match["account"] for match in found if match), None)


def _passed(job: Job) -> Iterator[Any]:
    for part in (job.overrides, job.definition):
        yield from (part.get("executionRoleArn"), part.get("taskRoleArn"))


def _made(job: Job, scope: Scope) -> frozenset[str]:
    """The families that the worker registers for the job.

    Those that it names itself it names after the pool: so new deployments need no new rights.
    """
    reused = job.configuration.reused_definition
    if reused:
        if not job.configuration.derive_task_definition:
            return frozenset()
        family = reused.rpartition("/")[2].partition(":")[0] + DERIVED
    else:
        family = str(job.definition["family"])
        owner = str(job.context.run.deployment_id or job.context.run.flow_id)
        if family == generated_family(job.context.pool_name, owner):
            family = family.removesuffix(owner) + "*"
    return frozenset({scope.definition(family)})


def _of_container(container: Mapping[str, Any], override: Mapping[str, Any], scope: Scope) -> ExecutionNeeds:
    log = container.get("logConfiguration") or {}
    options = log.get("options") or {}
    groups = frozenset[str]()
    if log.get("logDriver") == "awslogs" and options.get("awslogs-group"):
        groups = frozenset({_log_group(options["awslogs-group"], options.get("awslogs-region"), scope)})
    given = [*(container.get("secrets") or []), *(log.get("secretOptions") or [])]
    references = [str(secret.get("valueFrom")) for secret in given]
    if login := _at(container, "repositoryCredentials", "credentialsParameter"):
        references.append(str(login))
    arns = {arn for reference in references for arn in scope.secrets(reference)}
    files = [*(container.get("environmentFiles") or []), *(override.get("environmentFiles") or [])]
    image = ECR.match(str(container.get("image")))
    pulled = Scope(scope.partition, image["region"], image["account"]) if image else None
    return ExecutionNeeds(
        repositories=frozenset({pulled.arn("ecr", f"repository/{image['name']}")} if image and pulled else ()),
        logs=groups,
        new_logs=groups if options.get("awslogs-create-group") == "true" else frozenset(),
        secrets=frozenset(arn for arn in arns if ":secretsmanager:" in arn),
        parameters=frozenset(arn for arn in arns if ":ssm:" in arn),
        environment_files=frozenset(str(file.get("value")) for file in files),
    )


def _log_group(group: str, region: str | None, scope: Scope) -> str:
    return Scope(scope.partition, region or scope.region, scope.account).arn("logs", f"log-group:{group}")


def _roles(given: Iterable[Any], scope: Scope) -> frozenset[str]:
    return frozenset(scope.role(str(role)) for role in given if role)


def _at(part: Mapping[str, Any], *path: str) -> Any:
    value: Any = part
    for key in path:
        value = (value or {}).get(key)
    return value
