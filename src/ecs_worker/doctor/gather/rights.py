"""What IAM says of the worker's rights, and of the roles that jobs name."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from ecs_worker.doctor.asking import all_of
from ecs_worker.doctor.checks.rights import PrincipalFacts, RightsFacts, RoleFacts, Simulated, concrete
from ecs_worker.doctor.finding import Untold
from ecs_worker.doctor.gather.account import target_of
from ecs_worker.iam import rights
from ecs_worker.iam.compare import together
from ecs_worker.iam.jobs import OWN, PoolNeeds, launches, starts
from ecs_worker.iam.rights import ECS, ECS_TASKS
from ecs_worker.model import AwsTarget

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ecs_worker.aws.iam import Verdict
    from ecs_worker.aws.session import Aws
    from ecs_worker.aws.sts import Identity
    from ecs_worker.doctor.asking import Asking
    from ecs_worker.doctor.gather.account import AccountGatherer
    from ecs_worker.iam.policy import Statement
    from ecs_worker.iam.rights import Scope
    from ecs_worker.job.job import Job

_SESSION = re.compile(r"arn:(?P<partition>[\w-]+):sts::(?P<account>\d+):assumed-role/(?P<role>[^/]+)/.*")


@dataclass(frozen=True)
class _Asked:
    """One question to IAM's simulator: each action on each resource, in requests with these condition keys."""

    principal: str
    target: AwsTarget
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    context: tuple[tuple[str, str], ...]


class RightsGatherer:
    """Asks IAM."""

    def __init__(self, aws: Aws, asking: Asking, account: AccountGatherer) -> None:
        self._aws = aws
        self._asking = asking
        self._account = account

    async def gather(self, pool: str, jobs: Mapping[str, Job], identity: Identity, worker: str | None) -> RightsFacts:
        """The rights of whoever launches the jobs, and their roles. `worker`: its role, if not whoever asks."""
        needs, notes = PoolNeeds(), list[str]()
        places: dict[str, tuple[Scope, Job]] = {}
        for name, job in jobs.items():
            scope = await self._account.scope(job, identity.account)
            if isinstance(scope, Untold):
                notes.append(f"what {name} needs can't be told: {scope.why}")
                continue
            places[name] = scope, job
            needs.add(name, job, scope)
        principals = [
            await self._principal(launcher, rights.worker(needed), identity, worker)
            for launcher, needed in needs.launchers.items()
            if rights.worker(needed)
        ]
        return RightsFacts(pool, "", tuple(principals), tuple(await self._roles(places)), (*notes, *needs.notes))

    async def _principal(
        self, launcher: str, statements: Sequence[Statement], identity: Identity, worker: str | None
    ) -> PrincipalFacts | Untold:
        """The rights of the worker's own role or user, or of a role that it assumes."""
        arn: str | Untold = launcher
        if launcher == OWN:
            arn = await self._arn_of(worker or identity.arn)
        if isinstance(arn, Untold):
            return arn
        return PrincipalFacts(arn, await self._simulated(arn, AwsTarget(), statements))

    async def _arn_of(self, principal: str) -> str | Untold:
        """What IAM simulates: a user's or a role's ARN, in place of a role's name or the ARN of its session."""
        session = _SESSION.fullmatch(principal)
        name = session["role"] if session else principal
        if name.startswith("arn:"):
            if name.endswith(":root"):
                return Untold(
                    f"{name} is the account's root user, whose rights IAM doesn't simulate",
                    remedy="Name the worker's role with --worker-role.",
                )
            return name
        found = await self._account.role(name)
        if found is None:
            return Untold(f"there is no role {name} in this account", remedy="Correct --worker-role, or AWS_PROFILE.")
        if not isinstance(found, Untold):
            return found.arn
        # Without a path that is its ARN; and most have none.
        return f"arn:{session['partition']}:iam::{session['account']}:role/{name}" if session else found

    async def _roles(self, places: Mapping[str, tuple[Scope, Job]]) -> list[RoleFacts]:
        """The roles that jobs name, what ECS does with them, and for which deployments."""
        named: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        reads: dict[str, rights.ExecutionNeeds] = {}
        for name, (scope, job) in places.items():
            needed = launches(job, scope)
            for service, arns in ((ECS_TASKS, needed.task_roles), (ECS, needed.volume_roles)):
                for arn in sorted(arns):
                    named[arn, service].append(name)
            if (started := starts(job, scope)) is not None:
                arn, more = started
                reads[arn] = reads.get(arn, rights.ExecutionNeeds()) | more

        async def facts(role: tuple[str, str]) -> RoleFacts:
            return await self._role(*role, reads.get(role[0]), places[named[role][0]], tuple(named[role]))

        return list((await all_of(list(named), facts)).values())

    async def _role(
        self,
        arn: str,
        service: str,
        reads: rights.ExecutionNeeds | None,
        place: tuple[Scope, Job],
        about: tuple[str, ...],
    ) -> RoleFacts:
        scope, job = place
        target = target_of(job)
        role = await self._account.role(arn, target) if arn.split(":")[4] == scope.account else None
        there = role is not None and reads is not None and service == ECS_TASKS
        statements = rights.execution(reads) if there and reads is not None else []
        simulated = await self._simulated(arn, target, statements)
        return RoleFacts(arn, service, scope.region, scope.account, role, simulated, about)

    async def _simulated(self, arn: str, target: AwsTarget, statements: Sequence[Statement]) -> tuple[Simulated, ...]:
        """What IAM would say to all that the statements allow."""
        asked = [(each, list(_questions(arn, target, each))) for each in statements]
        answers = await self._asking.each({one for _, ones in asked for one in ones}, lambda one: one, self._ask)
        return tuple(Simulated(each, _joined(answers[one] for one in ones)) for each, ones in asked)

    async def _ask(self, asked: _Asked) -> list[Verdict]:
        context: defaultdict[str, list[str]] = defaultdict(list)
        for key, value in asked.context:
            context[key].append(value)
        iam = await self._aws.iam(asked.target)
        return await iam.simulate(asked.principal, asked.actions, asked.resources, context)


def _questions(principal: str, target: AwsTarget, statement: Statement) -> Iterable[_Asked]:
    """A question for each set of values that the conditions' keys may have, about the resources that go with it."""
    keys = [(key, list(values)) for each in statement.conditions.values() for key, values in each.items()]
    for values in product(*(values for _, values in keys)):
        context = {key: value for (key, _), value in zip(keys, values, strict=True)}
        fitting = [resource for resource in statement.resources if together(resource, context)]
        if fitting:
            concrete_context = tuple((key, concrete(value)) for key, value in context.items())
            resources = tuple(dict.fromkeys(map(concrete, fitting)))
            yield _Asked(principal, target, statement.actions, resources, concrete_context)


def _joined(answers: Iterable[list[Verdict] | Untold]) -> tuple[Verdict, ...] | Untold:
    found: list[Verdict] = []
    for each in answers:
        if isinstance(each, Untold):
            return each
        found += each
    return tuple(found)
