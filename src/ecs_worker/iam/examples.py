"""The policies of `iam/`, for names that users fill in: those of `examples/`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ecs_worker.iam import deploying, rights
from ecs_worker.iam.deploying import DeployerNeeds
from ecs_worker.iam.policy import document
from ecs_worker.iam.rights import ECS, ECS_TASKS, ExecutionNeeds, Scope, WorkerNeeds

if TYPE_CHECKING:
    from ecs_worker.iam.policy import Statement

_HERE = Scope("aws", "*", "123456789012")


def _some(*arns: str) -> frozenset[str]:
    return frozenset(arns)


_FAMILIES = _some(_HERE.definition("prefect_my-ecs-pool_*"))
_WORKER = WorkerNeeds(
    clusters=_some(_HERE.cluster("my-cluster")),
    runs=_FAMILIES,
    registers=_FAMILIES,
    task_roles=_some(_HERE.role("my-task-role"), _HERE.role("my-task-execution-role")),
    volume_roles=_some(_HERE.role("my-ebs-infrastructure-role")),
    assumed_roles=_some(_HERE.role("my-launching-role")),
    logs=_some(_HERE.arn("logs", "log-group:prefect")),
    documents=_some("arn:aws:s3:::my-bucket/prefect/*"),
    queues=_some(_HERE.arn("sqs", "ecs-worker-events")),
    deregisters=True,
    finds_network=True,
    inherits_network=True,
)
# The worker's own task is started with such a role, too.
_LOGS = _some(_HERE.arn("logs", "log-group:prefect"), _HERE.arn("logs", "log-group:ecs-worker"))
_EXECUTION = ExecutionNeeds(
    repositories=_some(_HERE.arn("ecr", "repository/my-flows"), _HERE.arn("ecr", "repository/ecs-worker")),
    logs=_LOGS,
    new_logs=_LOGS,
    secrets=_some(_HERE.arn("secretsmanager", "secret:prefect-*")),
    parameters=_some(_HERE.arn("ssm", "parameter/prefect/*")),
    keys=_some(_HERE.arn("kms", "key/*")),
)

_DEPLOYER = DeployerNeeds(_HERE)


def worker() -> list[Statement]:
    """What every worker needs."""
    return rights.launching(_WORKER)


def execution() -> list[Statement]:
    """What every execution role needs."""
    return rights.starting(_EXECUTION)


def doctor() -> list[Statement]:
    """What whoever gives `ecs-worker doctor` needs."""
    everywhere = replace(_WORKER, documents=frozenset(), assumed_roles=frozenset(), inherits_network=False)
    return rights.examining(everywhere, _EXECUTION)


def deployer() -> list[Statement]:
    """What whoever deploys workers may need."""
    return deploying.deployer(_DEPLOYER)


def files() -> dict[str, dict[str, Any]]:
    """File of `iam/` → the policy in it."""
    return {
        "worker-policy.json": document(worker()),
        "worker-options-policy.json": document(rights.optional(_WORKER)),
        "events-policy.json": document(rights.listening(_WORKER)),
        "execution-policy.json": document(execution()),
        "doctor-policy.json": document(doctor()),
        "secret-policy.json": document(rights.reading(_EXECUTION)),
        "deployer-policy.json": document(deploying.deploying(_DEPLOYER)),
        "deployer-options-policy.json": document(deploying.optional(_DEPLOYER)),
        "trust-policy.json": rights.trust(ECS_TASKS, _HERE.account),
        # As in the ECS developer guide: it names no key by which the account could be told here.
        "infrastructure-trust-policy.json": rights.trust(ECS),
    }
