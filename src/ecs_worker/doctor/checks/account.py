"""The AWS account: whose credentials these are, clusters and their capacity, and what Fargate gives."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ecs_worker.doctor.asking import code
from ecs_worker.doctor.finding import Finding, Group, Line, Untold
from ecs_worker.job.requests import DEFAULT_CPU, MANAGED_INSTANCES
from ecs_worker.job.sizes import cpu_units
from ecs_worker.model import DEFAULT_CLUSTER, FARGATE_PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ecs_worker.aws.ecs import Cluster
    from ecs_worker.aws.iam import Role
    from ecs_worker.aws.sts import Identity
    from ecs_worker.job.job import Job

SERVICE_ROLE = "AWSServiceRoleForECS"
_CPU_OF_ONE = 1024  # CPU units of a vCPU
_SPOT = "FARGATE_SPOT"
_NO_CREDENTIALS = frozenset(
    {
        "AccessDenied",
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)


@dataclass(frozen=True)
class Capacity:
    """What a job asks its cluster for. Neither launch type nor providers: what the cluster does by itself."""

    launch_type: str = ""
    providers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.launch_type or "+".join(self.providers) or "the cluster's default"


@dataclass(frozen=True)
class Use:
    """A cluster of a Region, as jobs name it; `capacity` → the deployments that ask for it there."""

    name: str
    region: str
    cluster: Cluster | Untold | None
    capacity: Mapping[Capacity, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Quota:
    """How many Fargate vCPUs the account may have at once in a Region. `largest`: the vCPUs of the largest job."""

    spot: bool
    region: str
    value: float | Untold
    largest: float
    about: tuple[str, ...] = ()


@dataclass(frozen=True)
class AccountFacts:
    """What AWS says. `unusable`: why it can't be asked at all.

    `limit`: most runs of the pool at once, if it has one. `jobs_untold`: why it isn't known what jobs ask for.
    """

    unusable: str = ""
    region: str | None = None
    partition: str | Untold = ""
    identity: Identity | Untold | None = None
    service_role: Role | Untold | None = None
    uses: tuple[Use, ...] = ()
    quotas: tuple[Quota, ...] = ()
    limit: int | None = None
    jobs_untold: str = ""

    @property
    def obstacle(self) -> str:
        """Why nothing can be asked of AWS; empty: it can."""
        if self.unusable:
            return "AWS can't be asked"
        if not self.region:
            return "there is no Region"
        if isinstance(self.partition, Untold):
            return f"there is no Region {self.region}"
        return "AWS refuses the credentials" if code(self.identity) in _NO_CREDENTIALS else ""


def findings(facts: AccountFacts) -> Iterator[Finding]:
    """Of all checks of the group."""
    yield identity(facts)
    yield region(facts)
    line = Line(Group.AWS, "service-linked role")
    yield line.skipped(facts.obstacle) if facts.obstacle else service_role(line, facts.service_role)
    because = facts.obstacle or facts.jobs_untold
    if because:
        for check in ("cluster", "capacity", "quota"):
            yield Line(Group.AWS, check).skipped(because)
        return
    for use in facts.uses:
        yield cluster(use)
        for wanted, about in use.capacity.items():
            yield capacity(use, wanted, about)
    for quota in facts.quotas:
        yield vcpus(quota, facts.limit)


def identity(facts: AccountFacts) -> Finding:
    """Whose credentials these are."""
    line = Line(Group.AWS, "identity")
    if facts.unusable:
        told, _, remedy = facts.unusable.partition(": ")
        return line.failed(told, _sentence(remedy) if remedy else "Correct the AWS settings.")
    found = facts.identity
    if found is None:
        return line.skipped(facts.obstacle)
    if not isinstance(found, Untold):
        return line.ok(f"{found.arn}, of the account {found.account}")
    if facts.obstacle:
        return line.failed(
            found.why.rstrip("."), "Set AWS_PROFILE, or other credentials: `aws sts get-caller-identity`."
        )
    return line.untold(found)


def region(facts: AccountFacts) -> Finding:
    """Whether there is such a Region."""
    line = Line(Group.AWS, "Region")
    if not facts.region:
        if facts.unusable:
            return line.skipped(facts.obstacle)
        return line.failed("there is none", "Set AWS_REGION, as for the worker.")
    if isinstance(facts.partition, Untold):
        return line.failed(f"there is no Region {facts.region}", "Correct AWS_REGION, or the profile's region.")
    return line.ok(facts.region)


def service_role(line: Line, role: Role | Untold | None) -> Finding:
    """Whether ECS may attach networks and volumes."""
    if role is None:
        return line.failed(
            f"there is no role {SERVICE_ROLE}, with which ECS attaches networks to tasks",
            "Make it: `aws iam create-service-linked-role --aws-service-name ecs.amazonaws.com`.",
        )
    return line.untold(role) if isinstance(role, Untold) else line.ok(SERVICE_ROLE)


def cluster(use: Use) -> Finding:
    """Whether tasks can be run there."""
    about = tuple(sorted({name for each in use.capacity.values() for name in each}))
    line = Line(Group.AWS, f"cluster {use.name or DEFAULT_CLUSTER}", about)
    if isinstance(use.cluster, Untold):
        return line.untold(use.cluster)
    if use.cluster is None or use.cluster.status != "ACTIVE":
        status = f"is {use.cluster.status}" if use.cluster is not None else "is not there"
        name = (use.name or DEFAULT_CLUSTER).rpartition("/")[2]
        return line.failed(
            f"{status} in {use.region}",
            f"Make it (`aws ecs create-cluster --cluster-name {name}`), or correct the job variable cluster, or "
            "AWS_REGION.",
        )
    return line.ok(f"ACTIVE in {use.region}")


def capacity(use: Use, wanted: Capacity, about: tuple[str, ...]) -> Finding:
    """Whether the cluster has what jobs ask for."""
    line = Line(Group.AWS, f"capacity {wanted} on {use.name or DEFAULT_CLUSTER}", about)
    found = use.cluster
    if found is None or isinstance(found, Untold) or found.status != "ACTIVE":
        return line.skipped("the cluster isn't there" if not isinstance(found, Untold) else "the cluster isn't known")
    providers = wanted.providers or (() if wanted.launch_type else found.default_strategy)
    if missing := [name for name in providers if name not in found.capacity_providers]:
        every = " ".join(sorted({*found.capacity_providers, *missing}))
        return line.failed(
            f"the cluster has no capacity provider {', '.join(missing)}",
            f"Add it: `aws ecs put-cluster-capacity-providers --cluster {found.name} --capacity-providers {every} "
            "--default-capacity-provider-strategy …`; or correct launch_type or capacity_provider_strategy.",
        )
    if providers or wanted.launch_type == "FARGATE":
        return line.ok("is there")
    if found.instances == 0:
        said = "asks for nothing, and the cluster has no default strategy; so it" if not wanted.launch_type else "it"
        return line.failed(
            f"{said} takes instances, and none is registered with the cluster",
            "Start instances that register with it, or set launch_type to FARGATE.",
        )
    return line.ok(f"{found.instances} instances are registered")


def vcpus(quota: Quota, limit: int | None) -> Finding:
    """Whether Fargate gives as much as is asked for."""
    kind = "Spot" if quota.spot else "On-Demand"
    line = Line(Group.AWS, f"quota of Fargate {kind} vCPUs", quota.about)
    if isinstance(quota.value, Untold):
        return line.untold(quota.value)
    has = f"{quota.value:g} in {quota.region}"
    remedy = "Ask for more: the console's Service Quotas, AWS Fargate."
    if quota.largest > quota.value:
        return line.failed(f"{has}, but a task is to have {quota.largest:g}", remedy)
    tasks = math.floor(quota.value / quota.largest)
    if limit is not None and limit > tasks:
        return line.warning(
            f"{has}: that is {tasks} tasks of {quota.largest:g} vCPU at once, and the pool's limit is {limit} runs",
            remedy,
        )
    return line.ok(f"{has}: that is {tasks} tasks of {quota.largest:g} vCPU at once")


def asked_by(job: Job) -> Capacity:
    """What the job asks its cluster for."""
    strategy = job.run_task.get("capacityProviderStrategy") or ()
    providers = tuple(dict.fromkeys(str(item.get("capacityProvider")) for item in strategy))
    return Capacity(str(job.run_task.get("launchType") or ""), providers)


def fargate_vcpus(job: Job) -> tuple[bool, float] | None:
    """Whether the job is for Spot, and its vCPUs; None: it isn't for Fargate."""
    wanted = asked_by(job)
    if wanted.launch_type != "FARGATE" and not FARGATE_PROVIDERS.issuperset(wanted.providers or {MANAGED_INSTANCES}):
        return None
    units = cpu_units(job.overrides.get("cpu") or job.definition.get("cpu") or DEFAULT_CPU)
    return wanted.providers == (_SPOT,), units / _CPU_OF_ONE


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
