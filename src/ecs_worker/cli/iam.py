"""`ecs-worker iam`: the rights that a pool needs, and how those of a role differ."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import typer

from ecs_worker.aws.session import Aws
from ecs_worker.cli.jobs import Jobs
from ecs_worker.cli.preview import Preview
from ecs_worker.cli.server import prefect_api, prefect_settings
from ecs_worker.deploy.stack import events_stack_name, stack_name
from ecs_worker.errors import AwsError, UserError
from ecs_worker.iam import deploying, examples, rights
from ecs_worker.iam.compare import Difference, Policy, difference
from ecs_worker.iam.deploying import DeployerNeeds
from ecs_worker.iam.jobs import OWN, PoolNeeds, launcher, named_account
from ecs_worker.iam.policy import LONGEST_INLINE, LONGEST_MANAGED, as_terraform, document
from ecs_worker.iam.rights import ExecutionNeeds, Scope, WorkerNeeds
from ecs_worker.job.requests import FoundNetwork
from ecs_worker.lifecycle.rendering.render import assemble

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ecs_worker.aws.iam import RolePolicies
    from ecs_worker.iam.policy import Statement
    from ecs_worker.job.job import Job
    from ecs_worker.job.requests import NetworkNeed
    from ecs_worker.model import AwsTarget
    from ecs_worker.settings import JobDefaults

WORKER, EXECUTION, DEPLOYER, DOCTOR = "worker", "execution", "deployer", "doctor"
_GENERAL = {
    WORKER: examples.worker,
    EXECUTION: examples.execution,
    DEPLOYER: examples.deployer,
    DOCTOR: examples.doctor,
}
_PROBE = (
    "`ecs-worker doctor --probe` launches a task, which takes the worker's rights, too, and "
    "ecs:DeregisterTaskDefinition: `ecs-worker iam policy worker` prints them."
)
_ROLE_ARN = re.compile(r"arn:[\w-]+:(iam::\d*:role|sts::\d*:assumed-role)/(?P<path>\S+)")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line gives. Without `pool`: the general policies. `queue` is the worker's --events-queue."""

    pool: str | None
    role: str | None
    queue: str | None
    defaults: JobDefaults


def print_policy(asked: Asked, whose: str, *, as_terraform: bool) -> None:
    """Print the least rights. Raises UserError."""
    if whose == DOCTOR and asked.role:
        raise UserError(f"--role {asked.role!r} chooses one of several, but doctor looks at all: leave it out.")
    if asked.pool is None:
        if asked.role:
            raise UserError(f"--role {asked.role!r} is one of a work pool's: name the pool with --pool.")
        statements, notes = _general(asked, whose), [_PROBE] * (whose == DOCTOR)
    elif whose == DEPLOYER:
        statements, notes = anyio.run(_of_deployer, asked), list[str]()
    else:
        needs = anyio.run(_needs, asked)
        statements, notes = _of_pool(needs, whose, asked)
    notes += _too_long(statements)
    for note in notes:
        typer.echo(f"Note: {note}", err=True)
    typer.echo(_terraform(whose, statements) if as_terraform else json.dumps(document(statements), indent=2))


def print_difference(asked: Asked, whose: str | None) -> None:
    """Print how the role's rights differ from what is needed; exits with 1 if some are missing. Raises UserError."""
    needed, notes, found = anyio.run(_compared, asked, whose)
    for note in notes:
        typer.echo(f"Note: {note}", err=True)
    told = _told(found, needed, anywhere=asked.pool is None)
    for kind, texts in (("missing", told.missing), ("can't tell", told.unsure), ("more", told.more)):
        for text in texts:
            typer.echo(f"{kind}: {text}")
    typer.echo(
        f"{found.arn}: {len(told.missing)} missing, {len(told.unsure)} that can't be told, {len(told.more)} more than "
        "needed.",
        err=True,
    )
    if told.missing:
        raise typer.Exit(1)


def _terraform(whose: str, statements: list[Statement]) -> str:
    return as_terraform("ecs_worker" if whose == WORKER else f"ecs_worker_{whose}", statements)


def _general(asked: Asked, whose: str) -> list[Statement]:
    if asked.queue:
        raise UserError("--events-queue adds to the rights of a work pool: name the pool with --pool.")
    return _GENERAL[whose]()


async def _of_deployer(asked: Asked) -> list[Statement]:
    """What whoever deploys the pool's worker needs. Raises UserError."""
    if asked.role or asked.queue:
        raise UserError("--role and --events-queue say nothing about a deployer's rights: leave them out.")
    async with Aws() as aws:
        return await _deployer_of(aws, asked.pool or "")


async def _deployer_of(aws: Aws, pool: str) -> list[Statement]:
    scope = await _Accounts(aws, ()).own()
    return deploying.deployer(DeployerNeeds(scope, (stack_name(pool), events_stack_name(pool))))


def _told(found: RolePolicies, needed: Iterable[Statement], *, anywhere: bool) -> Difference:
    granted = [Policy(name, policy) for name, policy in found.policies.items()]
    limit = Policy(*found.boundary) if found.boundary else None
    return difference(granted, list(needed), limit, anywhere=anywhere)


async def _compared(asked: Asked, whose: str | None) -> tuple[list[Statement], list[str], RolePolicies]:
    assert asked.role is not None, "the command line asks for it"
    async with Aws() as aws:
        if asked.pool is None:
            notes = ["Only actions are compared: --pool says on which resources they are needed."]
            return _general(asked, whose or WORKER), notes, await _role(aws, asked.role)
        if whose == DEPLOYER:
            return await _deployer_of(aws, asked.pool), [], await _role(aws, asked.role)
        needs = await _needs(asked)
        found = await _role(aws, asked.role)
        if whose is None:
            whose = EXECUTION if _named(asked.role, needs.executions) is not None else WORKER
        if whose == EXECUTION or _named(asked.role, needs.launchers) is not None:
            statements, notes = _of_pool(needs, whose, asked)
        else:
            statements, notes = _of_pool(needs, whose, Asked(asked.pool, None, asked.queue, asked.defaults))
        return statements, notes, found


async def _role(aws: Aws, given: str) -> RolePolicies:
    name = _role_name(given)
    try:
        await aws.check()
        found = await (await aws.iam()).role_policies(name)
    except AwsError as error:
        if error.code == "NoSuchEntity" and error.operation == "GetRole":
            raise UserError(f"There is no role {name!r} in this account: correct the name, or AWS_PROFILE.") from None
        if "AccessDenied" in error.code:
            remedy = "allow iam:Get* and iam:List* on the role and its policies to whoever gives this command"
            raise UserError(f"The role {name!r} can't be read ({error}): {remedy}.") from None
        raise UserError(f"AWS did not do what was asked: {error}") from None
    if given.startswith("arn:") and (account := found.arn.split(":")[4]) != given.split(":")[4]:
        raise UserError(f"{given} is not of the account {account}, whose credentials these are: set AWS_PROFILE.")
    return found


def _role_name(given: str) -> str:
    if not given.startswith("arn:"):
        return given
    match = _ROLE_ARN.fullmatch(given)
    if match is None:
        raise UserError(f"{given!r} is no role: give its name, or an ARN like arn:aws:iam::123456789012:role/NAME.")
    parts = match["path"].split("/")
    return parts[0] if ":assumed-role/" in given else parts[-1]


def _named(role: str, known: Iterable[str]) -> str | None:
    """The one of the known roles' ARNs that is meant by a name or an ARN."""
    name = _role_name(role)
    return next((arn for arn in known if arn and (arn == role or _role_name(arn) == name)), None)


def _of_pool(needs: PoolNeeds, whose: str, asked: Asked) -> tuple[list[Statement], list[str]]:
    """The statements, and what is to be told beside them."""
    notes = list(needs.notes)
    if whose == DOCTOR:
        return _to_examine(needs), [*notes, _PROBE]
    known: Mapping[str, Any] = needs.launchers if whose == WORKER else needs.executions
    role = _named(asked.role, known) if asked.role else None
    if asked.role and role is None:
        others = ", ".join(sorted(filter(None, known))) or "none"
        raise UserError(
            f"The jobs of work pool {asked.pool} have no role {asked.role!r} of that kind (they have: {others}): "
            "correct --role, or leave it out."
        )
    if whose == WORKER:
        statements = rights.worker(needs.launchers[role or OWN])
        notes += [
            f"Some jobs are launched with the role {other} of their aws-credentials block: what that one needs, "
            f"`--role {other}` tells."
            for other in sorted(needs.launchers)
            if other != OWN and role is None
        ]
    else:
        chosen = ExecutionNeeds()
        for arn, each in needs.executions.items():
            chosen |= each if role in {None, arn} else ExecutionNeeds()
        statements = rights.execution(chosen)
        if role is None and len(needs.executions) > 1:
            notes.append(
                f"The pool has several execution roles ({', '.join(sorted(needs.executions))}): --role says which."
            )
        if chosen.secrets or chosen.parameters:
            notes.append("Secrets that are encrypted with a KMS key of your own need kms:Decrypt on that key, too.")
    if not statements:
        raise UserError(
            f"The jobs of work pool {asked.pool} have no execution role: set execution_role_arn."
            if whose == EXECUTION
            else f"The worker itself launches no job of work pool {asked.pool}."
        )
    return statements, notes


def _to_examine(needs: PoolNeeds) -> list[Statement]:
    """What `ecs-worker doctor` reads, whoever launches the jobs."""
    worker, execution = WorkerNeeds(), ExecutionNeeds()
    for launched in needs.launchers.values():
        worker |= launched
    for started in needs.executions.values():
        execution |= started
    return rights.examining(worker, execution)


def _too_long(statements: list[Statement]) -> list[str]:
    length = len(json.dumps(document(statements), separators=(",", ":")))
    if length <= LONGEST_MANAGED:
        return []
    told = (
        f"The policy has {length} characters; a managed one may have {LONGEST_MANAGED}, all inline ones of a role "
        f"together {LONGEST_INLINE}: split it by its statements."
    )
    return [told]


async def _needs(asked: Asked) -> PoolNeeds:
    """What the jobs of the pool's deployments need. Raises UserError."""
    assert asked.pool is not None, "general policies have no jobs"
    settings = prefect_settings()
    needs = PoolNeeds()
    untold = list[str]()  # one that can't be used keeps nobody from the rights of the others
    async with Aws() as aws, prefect_api(settings) as api:
        sources = _Sources(api, aws=aws)
        made: dict[str, Job] = {}
        for name, wanted in (await Jobs(asked.defaults, settings).of_pool(api, asked.pool)).items():
            try:
                made[name], _ = await assemble(wanted.template, wanted.deployed, wanted.context, sources)
            except UserError as error:
                untold.append(f"What {name} needs can't be told, as it can't be rendered: {error}")
        accounts = _Accounts(aws, made.values())
        told = 0
        for name, job in made.items():
            try:
                needs.add(name, job, await accounts.of(job))
                told += 1
            except UserError as error:
                untold.append(f"What {name} needs can't be told: {error}")
        if not told:
            others = f" And so with {len(untold) - 1} others." if len(untold) > 1 else ""
            raise UserError(untold[0] + others)
        if asked.queue:
            scope = await accounts.own()
            needs.launchers[OWN] |= WorkerNeeds(queues=frozenset({_queue(asked.queue, scope)}))
        needs.notes |= dict.fromkeys(untold) | sources.notes
    return needs


class _Accounts:
    """Where jobs are launched. What their ARNs tell needn't be asked of AWS."""

    def __init__(self, aws: Aws, jobs: Iterable[Job]) -> None:
        self._aws = aws
        self._named = {account for job in jobs if launcher(job) == OWN and (account := named_account(job))}

    async def of(self, job: Job) -> Scope:
        """The job's account and Region. Raises UserError if nobody can tell them."""
        region = job.context.region
        if launcher(job) == OWN:
            return await self.own(region, named_account(job))
        account = named_account(job)
        if not account:
            raise UserError(
                "it is launched with its aws-credentials block's own credentials, and none of its roles and clusters "
                "is an ARN: name its account by one."
            )
        return Scope(self._aws.partition(region), region, account)

    async def own(self, region: str | None = None, named: str | None = None) -> Scope:
        """The account of the worker's own credentials. Raises UserError if it can't be told."""
        region = region or self._aws.region()
        if not region:
            raise UserError("There is no AWS Region: set AWS_REGION, as for the worker.")
        account = named or (next(iter(self._named)) if len(self._named) == 1 else await self._aws.account())
        if not account:
            raise UserError(
                "The AWS account can't be told: none of the pool's roles and clusters is an ARN, and STS doesn't say "
                "whose credentials these are. Set AWS_PROFILE, or other credentials of the worker's account."
            )
        return Scope(self._aws.partition(region), region, account)


@dataclass
class _Sources(Preview):
    """Reads jobs as the worker would, as far as AWS need not be asked; only reused definitions are described."""

    aws: Aws = field(default_factory=Aws)

    def region(self, target: AwsTarget) -> str:
        """The target's Region, or the one that is configured here. Raises UserError if there is none."""
        region = self.aws.region(target)
        if not region:
            raise UserError("There is no AWS Region: set AWS_REGION, as for the worker.")
        return region

    async def definition(self, target: AwsTarget, name: str) -> Mapping[str, Any] | None:
        """The reused definition, whose roles have to be passed; None, with a note, if ECS doesn't tell it."""
        if target.credentials is None:
            try:
                found = await (await self.aws.ecs(target)).describe_definition(name)
            except (AwsError, UserError) as error:
                self.note(
                    f"ECS does not describe the task definition {name}, so the roles and secrets that it names are "
                    f"missing here: {error}"
                )
                return None
            return {**found.request, "compatibilities": found.compatibilities}
        self.note(
            f"The roles and secrets that the task definition {name} names are missing here: it is another account's."
        )
        return None

    async def network(self, target: AwsTarget, need: NetworkNeed) -> FoundNetwork:  # noqa: ARG002 - the protocol's
        """Any that fits: no right depends on which one it is."""
        return FoundNetwork(need.given.get("subnets") or ["<subnet>"])


def _queue(given: str, scope: Scope) -> str:
    """The ARN of a queue: its name, or its URL, which names the account, too."""
    if not given.startswith("http"):
        return scope.arn("sqs", given)
    url = urlsplit(given)
    account, _, name = url.path.strip("/").rpartition("/")
    region = re.match(r"sqs\.([\w-]+)\.", url.hostname or "")
    place = Scope(scope.partition, region[1] if region else scope.region, account or scope.account)
    return place.arn("sqs", name)
