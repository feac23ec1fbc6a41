"""The jobs of deployments, made as the worker makes them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from ecs_worker.doctor.checks.job import JobFacts
from ecs_worker.doctor.finding import Untold
from ecs_worker.errors import EcsWorkerError, JobInvalid, UserError
from ecs_worker.job.requests import FoundNetwork
from ecs_worker.lifecycle.rendering.render import assemble, broken_rules, warnings_of
from ecs_worker.lifecycle.rendering.sources import WorkerSources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecs_worker.aws.session import Aws
    from ecs_worker.doctor.asking import Asking
    from ecs_worker.job.context import FlowRunContext
    from ecs_worker.job.requests import NetworkNeed
    from ecs_worker.model import AwsTarget
    from ecs_worker.prefect_api.client import PrefectClient

NOT_TOLD = "<not told by AWS>"


class Deployed(Protocol):
    """What a job is made of."""

    @property
    def template(self) -> Mapping[str, Any]:
        """The pool's base job template."""

    @property
    def deployed(self) -> Mapping[str, Any]:
        """The deployment's job variables."""

    @property
    def context(self) -> FlowRunContext:
        """What is known of the run."""


class JobGatherer:
    """Makes jobs. `ecs`: the URL that ECS is asked at; empty: it can't be told."""

    def __init__(self, api: PrefectClient, aws: Aws, asking: Asking, ecs: str) -> None:
        self._api = api
        self._aws = aws
        self._asking = asking
        self._ecs = ecs

    async def gather(self, name: str, wanted: Deployed) -> JobFacts:
        """The job of a run of a deployment of that name."""
        sources = _Sources(self._api, self._aws, self._asking)
        facts = await self._made(name, wanted, sources)
        return replace(facts, troubles=tuple(sources.troubles), ecs=self._ecs)

    async def _made(self, name: str, wanted: Deployed, sources: _Sources) -> JobFacts:
        try:
            job, problems = await assemble(wanted.template, wanted.deployed, wanted.context, sources)
        except JobInvalid as error:
            return JobFacts(name, None, error.problems)
        except UserError as error:
            return JobFacts(name, None, (str(error),))
        except EcsWorkerError as error:
            return JobFacts(name, None, untold=Untold(str(error), error=error))
        problems += broken_rules(job, sources)
        return JobFacts(name, job, tuple(problems), tuple(warnings_of(job, wanted.template, wanted.deployed)))


class _Sources(WorkerSources):
    """The worker's; but what AWS doesn't tell is left open, so that the rest of the job can be judged."""

    def __init__(self, api: PrefectClient, aws: Aws, asking: Asking) -> None:
        super().__init__(api, aws)
        self._asking = asking
        self.unread = [NOT_TOLD]
        self.troubles: list[Untold] = []

    async def definition(self, target: AwsTarget, name: str) -> Mapping[str, Any] | None:  # type: ignore[override] # it may be open here
        """The description of a task definition; None if ECS doesn't tell it."""
        ask = super().definition
        found = await self._asking.get(("definition", target, name), lambda: ask(target, name))
        if isinstance(found, Untold):
            self._open(found)
            return None
        return found

    async def network(self, target: AwsTarget, need: NetworkNeed) -> FoundNetwork:
        """The VPC's subnets, or the worker's own network; a text in place of them if EC2 doesn't tell."""
        ask = super().network
        found = await self._asking.get(("network", target, need.inherit, need.vpc_id), lambda: ask(target, need))
        if isinstance(found, Untold):
            if need.inherit:  # which is the worker's, and this may be another machine
                self.troubles.append(replace(found, remedy="Give the command where the worker runs, on ECS."))
            else:
                self._open(found)
            return FoundNetwork([NOT_TOLD])
        return found

    def _open(self, trouble: Untold) -> None:
        if isinstance(trouble.error, UserError):  # only the user can help: a problem of the job
            raise trouble.error
        self.troubles.append(trouble)
