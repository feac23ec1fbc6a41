"""Examine: all checks of a work pool, side by side. One that can't be made says why, and the others go on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ecs_worker.doctor.asking import Asking, all_of, side_by_side
from ecs_worker.doctor.checks import account, image, job, network, prefect, rights
from ecs_worker.doctor.checks.prefect import PrefectFacts
from ecs_worker.doctor.checks.rights import RightsFacts
from ecs_worker.doctor.finding import Finding, Group, Line, Untold, merged
from ecs_worker.doctor.gather.account import AccountGatherer
from ecs_worker.doctor.gather.image import ImageGatherer
from ecs_worker.doctor.gather.jobs import NOT_TOLD, JobGatherer
from ecs_worker.doctor.gather.network import NetworkGatherer
from ecs_worker.doctor.gather.prefect import PoolFound, PrefectGatherer
from ecs_worker.doctor.gather.rights import RightsGatherer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ecs_worker.aws.session import Aws
    from ecs_worker.doctor.checks.account import AccountFacts
    from ecs_worker.doctor.checks.job import JobFacts
    from ecs_worker.doctor.gather.jobs import Deployed
    from ecs_worker.job.job import Job
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import Deployment, WorkPool

    MakeJobs = Callable[[WorkPool, str | None, Sequence[Deployment]], Sequence[tuple[Deployment | None, Deployed]]]

DEFAULTS = "the pool's defaults"
"""What the job of a pool without deployments is called."""


@dataclass(frozen=True)
class Patient:
    """What is looked at. `deployment` None: all of the pool. `role`: the worker's, if it isn't that of whoever asks."""

    pool: str | None = None
    deployment: str | None = None
    role: str | None = None


@dataclass(frozen=True)
class Examined:
    """What was found, and the jobs of the deployments that were looked at."""

    findings: list[Finding]
    jobs: Sequence[JobFacts]


class Examination:
    """One look at everything. `api` None: there is no URL to ask at. `make`: the jobs of deployments, not yet rendered.

    `url`: what the API is called.
    """

    def __init__(
        self, api: PrefectClient | None, aws: Aws, url: str, make: MakeJobs, asking: Asking | None = None
    ) -> None:
        self._api = api
        self._aws = aws
        self._url = url
        self._make = make
        self._asking = asking or Asking()
        self._account = AccountGatherer(aws, self._asking)

    async def examine(self, patient: Patient) -> Examined:
        """Look at everything. Raises UserError if the deployment isn't there, or is another pool's."""
        found, facts = await side_by_side(lambda: self._prefect(patient), self._account.gather)
        jobs, because = await self._jobs(found, facts)
        made = {each.name: each.job for each in jobs if each.job is not None}
        if jobs and not made:
            because = "of no deployment a job could be made"
        pool = found.facts.pool
        limit = None if pool is None or isinstance(pool, Untold) else pool.concurrency_limit
        facts = replace(facts, limit=limit, jobs_untold=because)
        facts, (allowed, placed) = await side_by_side(
            lambda: self._with_jobs(facts, made),
            lambda: side_by_side(
                lambda: self._rights(patient, made, facts, because), lambda: self._networks_and_images(made, because)
            ),
        )
        told = [
            *prefect.findings(found.facts),
            *account.findings(facts),
            *rights.findings(allowed),
            *placed,
            *_of_jobs(jobs, because),
        ]
        return Examined(merged(told), jobs)

    async def _with_jobs(self, facts: AccountFacts, made: Mapping[str, Job]) -> AccountFacts:
        uses, quotas = await side_by_side(lambda: self._account.uses(made), lambda: self._account.quotas(made))
        return replace(facts, uses=uses, quotas=quotas)

    async def _prefect(self, patient: Patient) -> PoolFound:
        if self._api is None:
            untold = Untold("PREFECT_API_URL is not set, and the active Prefect profile has none")
            return PoolFound(PrefectFacts("", untold, wanted=patient.pool))
        return await PrefectGatherer(self._api, self._url, self._asking).gather(patient.pool, patient.deployment)

    async def _jobs(self, found: PoolFound, facts: AccountFacts) -> tuple[list[JobFacts], str]:
        """The deployments' jobs; or why there are none."""
        if because := found.facts.pool_obstacle or facts.obstacle:
            return [], because
        if isinstance(found.deployments, Untold):
            return [], f"the pool's deployments can't be read: {found.deployments.why}"
        pool, version = found.facts.pool, found.facts.version
        assert self._api is not None, "pool_obstacle tells"
        assert pool is not None, "likewise"
        assert not isinstance(pool, Untold), "likewise"
        assert not isinstance(version, Untold), "likewise"
        names = {each.id: name for name, each in found.deployments.items()}
        wanted = {
            names[each.id] if each is not None else DEFAULTS: job
            for each, job in self._make(pool, version, list(found.deployments.values()))
        }
        gatherer = JobGatherer(self._api, self._aws, self._asking, await self._account.ecs_endpoint())
        made = await all_of(wanted, lambda name: gatherer.gather(name, wanted[name]))
        return list(made.values()), ""

    async def _rights(
        self, patient: Patient, made: Mapping[str, Job], facts: AccountFacts, because: str
    ) -> RightsFacts:
        if because:
            return RightsFacts(obstacle=because)
        if facts.identity is None or isinstance(facts.identity, Untold):
            return RightsFacts(obstacle="STS doesn't say whose the credentials are")
        pool = next(iter(made.values())).context.pool_name
        gatherer = RightsGatherer(self._aws, self._asking, self._account)
        return await gatherer.gather(pool, made, facts.identity, patient.role)

    async def _networks_and_images(self, made: Mapping[str, Job], because: str) -> list[Finding]:
        if because:
            return [Line(group, "of jobs").skipped(because) for group in (Group.NETWORK, Group.IMAGE)]
        networks, images = await side_by_side(
            lambda: NetworkGatherer(self._aws, self._asking).gather(made),
            lambda: ImageGatherer(self._aws, self._asking).gather(made),
        )
        found = [finding for facts in networks for finding in network.findings(facts)]
        for name, each in made.items():
            subnets = each.network.get("subnets")
            if not subnets:
                line = Line(Group.NETWORK, "of instances", (name,))
                found.append(line.skipped("the task has the network of its instance, which isn't looked at"))
            elif NOT_TOLD in subnets:
                found.append(Line(Group.NETWORK, "of jobs", (name,)).skipped("AWS doesn't tell which subnets it has"))
        return found + [finding for facts in images for finding in image.findings(facts)]


def _of_jobs(jobs: Sequence[JobFacts], because: str) -> Iterator[Finding]:
    if not jobs:
        yield Line(Group.JOB, "requests").skipped(because)
    for facts in jobs:
        yield from job.findings(facts)
