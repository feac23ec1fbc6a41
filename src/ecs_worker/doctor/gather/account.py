"""What AWS says of the account, of clusters, and of what Fargate gives."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ecs_worker.aws.quotas import FARGATE, ON_DEMAND_VCPUS, SPOT_VCPUS
from ecs_worker.doctor.checks.account import (
    SERVICE_ROLE,
    AccountFacts,
    Capacity,
    Quota,
    Use,
    asked_by,
    fargate_vcpus,
)
from ecs_worker.doctor.finding import Untold
from ecs_worker.errors import AwsError
from ecs_worker.iam.rights import Scope
from ecs_worker.model import AwsTarget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecs_worker.aws.ecs import Cluster
    from ecs_worker.aws.iam import Role
    from ecs_worker.aws.session import Aws
    from ecs_worker.aws.sts import Identity
    from ecs_worker.doctor.asking import Asking
    from ecs_worker.job.job import Job


class AccountGatherer:
    """Asks AWS, for jobs (by what they are called) that may be launched in several accounts and Regions."""

    def __init__(self, aws: Aws, asking: Asking) -> None:
        self._aws = aws
        self._asking = asking

    async def gather(self) -> AccountFacts:
        """Whatever the jobs are."""
        region = await self._asking.get("region", self._region)
        if isinstance(region, Untold):
            return AccountFacts(region.why)
        if not region:
            return AccountFacts()
        facts = AccountFacts(region=region)
        found = await self._asking.get("credentials", self._aws.check)
        if isinstance(found, Untold):
            return replace(facts, unusable=found.why)
        facts = replace(facts, partition=await self._partition(region))
        if facts.obstacle:
            return facts
        facts = replace(facts, identity=await self._asking.get("identity", self._identity))
        return facts if facts.obstacle else replace(facts, service_role=await self.role(SERVICE_ROLE))

    async def _region(self) -> str | None:
        return self._aws.region()

    async def _identity(self) -> Identity:
        return await (await self._aws.sts()).identity()

    async def _partition(self, region: str) -> str | Untold:
        async def ask() -> str:
            return self._aws.partition(region)

        return await self._asking.get(("partition", region), ask)

    async def ecs_endpoint(self) -> str:
        """The URL that ECS is asked at; empty: it can't be told."""
        found = await self._asking.get("ecs endpoint", self._aws.ecs_endpoint)
        return "" if isinstance(found, Untold) else found

    async def role(self, arn: str, target: AwsTarget | None = None) -> Role | Untold | None:
        """A role by its name or its ARN; None: there is none."""
        name, where = arn.rpartition("/")[2], target or AwsTarget()

        async def ask() -> Role | None:
            try:
                return await (await self._aws.iam(where)).role(name)
            except AwsError as error:
                if error.code == "NoSuchEntity":
                    return None
                raise

        return await self._asking.get(("role", where.key[0], name), ask)

    async def scope(self, job: Job, own: str) -> Scope | Untold:
        """Where a job is launched. `own`: the account of our own credentials."""
        target = target_of(job)
        partition = await self._partition(target.region or "")
        if isinstance(partition, Untold):
            return partition
        account = own if target.credentials is None else await self._aws.account(target)
        if not account:
            return Untold("STS doesn't say whose the credentials of its aws-credentials block are")
        return Scope(partition, target.region or "", account)

    async def uses(self, jobs: Mapping[str, Job]) -> tuple[Use, ...]:
        """The clusters that jobs ask for, and what they ask of them."""
        asked: dict[tuple[AwsTarget, str], dict[Capacity, list[str]]] = {}
        for name, job in jobs.items():
            place = target_of(job), str(job.run_task.get("cluster") or "")
            asked.setdefault(place, {}).setdefault(asked_by(job), []).append(name)
        found = await self._asking.each(asked, lambda place: ("cluster", *place), self._cluster)
        return tuple(
            Use(name, target.region or "", found[target, name], {each: tuple(named) for each, named in wanted.items()})
            for (target, name), wanted in asked.items()
        )

    async def _cluster(self, place: tuple[AwsTarget, str]) -> Cluster | None:
        target, name = place
        return await (await self._aws.ecs(target)).cluster(name)

    async def quotas(self, jobs: Mapping[str, Job]) -> tuple[Quota, ...]:
        """What Fargate gives, where jobs are for it."""
        asked: dict[tuple[AwsTarget, bool], dict[str, float]] = {}
        for name, job in jobs.items():
            if (found := fargate_vcpus(job)) is not None:
                spot, size = found
                asked.setdefault((target_of(job), spot), {})[name] = size
        values = await self._asking.each(asked, lambda place: ("quota", *place), self._quota)
        return tuple(
            Quota(spot, target.region or "", values[target, spot], max(sizes.values()), tuple(sizes))
            for (target, spot), sizes in asked.items()
        )

    async def _quota(self, place: tuple[AwsTarget, bool]) -> float:
        target, spot = place
        return await (await self._aws.quotas(target)).quota(FARGATE, SPOT_VCPUS if spot else ON_DEMAND_VCPUS)


def target_of(job: Job) -> AwsTarget:
    """Where a job is launched."""
    return replace(job.configuration.target, region=job.context.region or None)
