"""`ecs-worker deploy`: what is shown, asked, done and told."""

from __future__ import annotations

import json
import sys
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import typer

from ecs_worker.aws.ecs import AWS_ENDPOINT
from ecs_worker.aws.session import Aws
from ecs_worker.cli.pool import ecs_pool, of_type_ecs
from ecs_worker.cli.server import prefect_api, prefect_settings
from ecs_worker.deploy import arrival, credentials, pool, stack, trouble, which
from ecs_worker.deploy.asked import check
from ecs_worker.deploy.credentials import WORDS, Step
from ecs_worker.deploy.plan import Here, changed, find, restored, wanted
from ecs_worker.deploy.pool import Facts
from ecs_worker.deploy.story import Story
from ecs_worker.errors import AwsError, PrefectError, UserError
from ecs_worker.job.variables import default_base_job_template
from ecs_worker.model import AwsCredentials, AwsTarget

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from ecs_worker.aws.cloudformation import Stack, StackEvent
    from ecs_worker.deploy.plan import Plan
    from ecs_worker.deploy.pool import Filling
    from ecs_worker.deploy.stack import Proposal
    from ecs_worker.deploy.wishes import Where, Which, Wishes
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import WorkPool
    from ecs_worker.settings import PrefectSettings

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104 - compared, not listened on
_MARKS = {"Add": "+", "Remove": "-"}
# Output of the stack → what stands for it until the stack is made.
_STILL_UNKNOWN = {
    "ClusterArn": "the stack's cluster",
    "ExecutionRoleArn": "the stack's execution role",
    "RunTaskRoleArn": "the stack's task role for flow runs",
    "VpcId": "the stack's network",
    "SubnetIds": "the stack's subnets",
}


@dataclass(frozen=True, slots=True)
class How:
    """How far a command goes."""

    yes: bool = False
    dry_run: bool = False
    wait: bool = True


@dataclass(frozen=True, slots=True)
class Desk:
    """What a command works with: AWS at one place, and the Prefect API."""

    aws: Aws
    target: AwsTarget
    here: Here
    api: PrefectClient
    prefect: PrefectSettings


@asynccontextmanager
async def at_aws(where: Where) -> AsyncIterator[tuple[Aws, AwsTarget, Here]]:
    """AWS in the account and Region that are meant. What goes wrong within becomes a UserError of one sentence."""
    profile = AwsCredentials(profile_name=where.profile) if where.profile else None
    target = AwsTarget(profile, where.region)
    async with Aws() as aws:
        await aws.check(target)
        region = aws.region(target) or ""
        try:
            here = Here(
                region=region,
                account=await aws.account(target),
                partition=aws.partition(region),
                cloudformation=await aws.cloudformation(target),
                ecs=await aws.ecs(target),
                ec2=await aws.ec2(target),
                secrets=await aws.secrets(target),
            )
            yield aws, target, here
        except AwsError as error:
            raise UserError(trouble.of_aws(error, region)) from None


@asynccontextmanager
async def at_desk(where: Where, prefect: PrefectSettings) -> AsyncIterator[Desk]:
    """AWS and Prefect."""
    async with prefect_api(prefect) as api, at_aws(where) as (aws, target, here):
        yield Desk(aws, target, here, api, prefect)


def deploy(wishes: Wishes, how: How) -> None:
    """Make or change a stack. Raises UserError."""
    check(wishes)
    anyio.run(_deploy, wishes, how)


def upgrade(wishes: Wishes, named: str | None, how: How) -> None:
    """Change a stack. Raises UserError."""
    check(wishes)
    anyio.run(_upgrade, wishes, named, how)


def diff(wishes: Wishes, named: str | None) -> None:
    """Show what `upgrade` would change; exits with 1 if anything. Raises UserError."""
    check(wishes)
    if anyio.run(_upgrade, wishes, named, How(dry_run=True)):
        raise typer.Exit(1)


def rollback(asked: Which, named: str | None, how: How) -> None:
    """Bring a stack back to what it was before its last change. Raises UserError."""
    anyio.run(_rollback, asked, named, how)


async def _deploy(wishes: Wishes, how: How) -> None:
    prefect = reaching_prefect(wishes)
    async with at_desk(wishes, prefect) as desk:
        name, existing = await find(desk.here, wishes)
        pool_name = wishes.pool or (existing.parameters["PoolName"] if existing else "")
        work_pool = await work_pool_of(desk.api, pool_name)
        plan = await wanted(desk.here, wishes, name, existing, work_pool, prefect)
        if await carry_out(desk, plan, work_pool, how) and how.dry_run:
            typer.echo("\nNothing was done (--dry-run).")


async def _upgrade(wishes: Wishes, named: str | None, how: How) -> bool:
    async with at_desk(wishes, reaching_prefect(wishes)) as desk:
        existing = await _meant(desk, wishes, named)
        plan = await changed(desk.here, wishes, existing.name, existing)
        return await carry_out(desk, plan, await work_pool_of(desk.api, plan.pool), how)


async def _rollback(asked: Which, named: str | None, how: How) -> None:
    async with at_desk(asked, prefect_settings()) as desk:
        existing = await _meant(desk, asked, named)
        plan = await restored(desk.here, existing.name, existing)
        await carry_out(desk, plan, await work_pool_of(desk.api, plan.pool), how)


async def _meant(desk: Desk, asked: Which, named: str | None) -> Stack:
    found = await which.meant(desk.here.cloudformation, asked, named, desk.here.place)
    stack.check_changeable(found)
    return found


def reaching_prefect(wishes: Wishes) -> PrefectSettings:
    """How this machine reaches the Prefect API: as always, else as the worker is told to."""
    try:
        return prefect_settings()
    except UserError:
        if not wishes.prefect_api_url:
            raise
    given: dict[str, Any] = {"api_key": wishes.prefect_api_key, "api_auth_string": wishes.prefect_auth_string}
    return prefect_settings(api_url=wishes.prefect_api_url, **given)


async def work_pool_of(api: PrefectClient, name: str) -> WorkPool | None:
    """The work pool; None if it is still to be made. Raises UserError if it is of another type."""
    found = await api.read_pool(name) if name else None
    return of_type_ecs(found) if found is not None else None


# -- from the plan to its end


async def carry_out(desk: Desk, plan: Plan, work_pool: WorkPool | None, how: How) -> bool:
    """Show what is planned, ask, do it, and tell what came of it. False: there is nothing to do. Raises UserError."""
    _check_reachable(desk.here, plan)
    work = _Work(desk, how)
    async with _proposed(desk.here, plan) as proposal:
        defaults = pool.fillings(_template(work_pool), _expected(plan), _given_before(plan))
        steps = [each for each in plan.credentials if each.step is not Step.NONE]
        if proposal is None and not steps and not defaults and work_pool is not None:
            typer.echo(f"The stack {plan.stack} of the work pool {plan.pool} is already up to date.")
            return False
        _show(desk.here, plan, proposal, work_pool, defaults)
        if how.dry_run:
            return True
        confirm("\nDo this?", yes=how.yes)
        if not any(each.step is Step.MAKE for each in steps):
            with work.telling_what_is_left():
                await work.do(plan, proposal, work_pool)
            return True
    # The secrets that the stack is to name are made only now; then the change set names them.
    with work.telling_what_is_left():
        plan = await work.make_secrets(plan)
        async with _proposed(desk.here, plan) as proposal:
            await work.do(plan, proposal, work_pool)
    return True


@asynccontextmanager
async def _proposed(here: Here, plan: Plan) -> AsyncIterator[Proposal | None]:
    """The plan's change set; None if the stack needs none."""
    if plan.existing is not None and plan.same:
        yield None
        return
    new = plan.existing is None
    async with stack.proposed(
        here.cloudformation, plan.stack, plan.template, plan.parameters, pool=plan.pool, new=new
    ) as proposal:
        yield proposal


class _Work:
    """Does what is planned, and tells it."""

    def __init__(self, desk: Desk, how: How) -> None:
        self._desk = desk
        self._here = desk.here
        self._how = how
        self._made: list[str] = []  # sentences about what stays if the rest fails

    @contextmanager
    def telling_what_is_left(self) -> Iterator[None]:
        """Should this fail, say what was made, and how to remove it."""
        try:
            yield
        except BaseException:
            for sentence in self._made:
                typer.echo(f"Left behind: {sentence}", err=True)
            raise

    async def make_secrets(self, plan: Plan) -> Plan:
        """See to the credentials' secrets. The plan with their ARNs."""
        arns = {}
        for credential in plan.credentials:
            if credential.step is Step.NONE:
                continue
            arn = await credentials.ensure(self._here.secrets, plan.stack, plan.pool, credential)
            arns[credential.parameter] = arn
            typer.echo(f"{_SECRET_DONE[credential.step]} the secret {credential.name}.")
            if credential.step is Step.REPLACE:
                self._made.append(f"the new value of the secret {credential.name}, which new tasks take up.")
            else:
                self._made.append(
                    f"the secret {credential.name}, which the next deploy takes up. To remove it: "
                    f"aws secretsmanager delete-secret --region {self._here.region} --secret-id {credential.name}"
                )
        return replace(
            plan,
            parameters={**plan.parameters, **arns},
            values={**plan.values, **arns},
            credentials=tuple(replace(each, step=Step.NONE) for each in plan.credentials),
        )

    async def do(self, plan: Plan, proposal: Proposal | None, work_pool: WorkPool | None) -> None:
        """All of it. Raises UserError.

        Should the process die on the way, AWS goes on with the stack; the same command again does what is left to do.
        """
        renewed = any(each.step is not Step.NONE for each in plan.credentials)
        before = facts(plan.existing)
        if renewed:
            await self.make_secrets(plan)
        if work_pool is None:
            work_pool = await self._desk.api.create_pool(plan.pool, default_base_job_template())
            typer.echo(f"Created the work pool {plan.pool}.")
            self._made.append(f"the work pool {plan.pool}. To remove it: prefect work-pool delete {plan.pool}")
        living = {worker.name for worker in await arrival.online(self._desk.api, plan.pool)}
        story = Story(
            self._here.ecs,
            await self._desk.aws.logs(self._desk.target),
            plan.stack,
            typer.echo,
            cluster=plan.values["ClusterArn"] or (before.outputs["ClusterArn"] if before else ""),
            log_group=before.outputs["LogGroupName"] if before else "",
        )
        await story.begin()
        now = await self._change(plan, proposal, story) if proposal is not None else plan.existing
        if now is None:
            return
        more = int(plan.values["DesiredCount"]) > int(plan.before.get("DesiredCount", "0"))
        new_tasks = more or (proposal is not None and proposal.touches("TaskDefinition"))
        if renewed and not (proposal is not None and proposal.touches("TaskDefinition")):
            new_tasks = True
            await self._here.ecs.renew_service(now.outputs["ClusterArn"], now.outputs["ServiceArn"])
            typer.echo("New tasks of the worker take up the new value.")
        if self._how.wait and plan.values["DesiredCount"] != "0":
            await self._arrive(plan, now, living if new_tasks else set(), story)
        await self._fill(plan, now, _given_before(plan))
        _tell_end(self._here, plan, now)

    async def _change(self, plan: Plan, proposal: Proposal, story: Story) -> Stack | None:
        """Execute the change set, and tell its events. None: nobody waits for its end. Raises UserError if it fails."""
        cloudformation = self._here.cloudformation
        after = await cloudformation.last_event(plan.stack)
        await stack.execute(cloudformation, proposal)
        if not self._how.wait:
            typer.echo(
                f"The stack {plan.stack} is being changed; `ecs-worker deploy status {plan.stack}` tells how far it "
                f"is. The work pool gets its defaults when `ecs-worker deploy --pool {plan.pool}` is given again."
            )
            return None

        def tell(event: StackEvent) -> None:
            story.hear(event)
            show_event(event)

        with _going_on(plan.stack):
            now, events = await stack.follow(cloudformation, plan.stack, after, tell, story.look)
        if now is not None and now.status in {"CREATE_COMPLETE", "UPDATE_COMPLETE"}:
            return now
        raise UserError(_failure(plan, now, events))

    async def _arrive(self, plan: Plan, now: Stack, before: set[str], story: Story) -> None:
        typer.echo(f"Waiting until the worker serves the work pool {plan.pool} …")
        found = await arrival.arrives(self._desk.api, plan.pool, before)
        if found is not None:
            typer.echo(f"The worker {found.name} is ONLINE.")
            return
        await story.look()
        service = await self._here.ecs.service(now.outputs["ClusterArn"], now.outputs["ServiceArn"])
        for at, text in service.events[:5] if service else ():
            typer.echo(f"  {at:%H:%M:%S} {text}")
        raise UserError(
            f"The service {now.outputs['ServiceName']} runs, but Prefect has seen no new worker of the pool "
            f"{plan.pool} within {arrival.ARRIVES:.0f} s. Is {plan.values['PrefectApiUrl']} the server that this "
            f"machine uses ({self._desk.prefect.shown_url})? The worker's log tells more: aws logs tail "
            f"{now.outputs['LogGroupName']} --region {self._here.region}"
        )

    async def _fill(self, plan: Plan, now: Stack, before: Facts | None) -> None:
        """Fill the pool's defaults. What somebody has set meanwhile stays."""
        api = self._desk.api
        given = facts(now)
        assert given is not None, "there is a stack"
        try:
            found = await ecs_pool(api, plan.pool)
            changes = pool.fillings(found.base_job_template, given, before)
            if changes:
                await api.update_pool(plan.pool, base_job_template=pool.filled(found.base_job_template, changes))
        except PrefectError as error:
            raise UserError(
                f"The stack {plan.stack} is as it should be, but the defaults of the work pool {plan.pool} could not "
                f"be set: {error}. Give `ecs-worker deploy --pool {plan.pool}` again: it sets what is missing."
            ) from None
        if changes:
            names = ", ".join(each.variable for each in changes)
            typer.echo(f"Set the defaults of the work pool {plan.pool}: {names}.")


@contextmanager
def _going_on(name: str) -> Iterator[None]:
    """Should this end before the stack's change does, say that AWS goes on."""
    try:
        yield
    except BaseException:
        typer.echo(
            f"AWS goes on with the stack {name}: `ecs-worker deploy status {name}` tells how far it is.", err=True
        )
        raise


_SECRET_DONE = {Step.MAKE: "Made", Step.REPLACE: "Gave a new value to", Step.RESTORE: "Brought back"}
_SECRET_STEPS = {
    Step.MAKE: "+ make",
    Step.REPLACE: "~ give another value to",
    Step.RESTORE: "~ bring back, and give a value to,",
}


def _check_reachable(here: Here, plan: Plan) -> None:
    """Raise UserError if the worker is to find Prefect on this machine, but isn't to run here."""
    url = plan.values["PrefectApiUrl"]
    if urlsplit(url).hostname in _LOOPBACK and AWS_ENDPOINT.search(urlsplit(here.ecs.endpoint).hostname or ""):
        raise UserError(
            f"The Prefect API is at {url}, which is on this machine: a worker on AWS can't reach it. Give it another "
            "URL with --prefect-api-url."
        )


def _template(work_pool: WorkPool | None) -> Mapping[str, Any]:
    return (work_pool.base_job_template if work_pool is not None else {}) or default_base_job_template()


def facts(found: Stack | None) -> Facts | None:
    """What the stack gives to the pool now."""
    if found is None:
        return None
    return Facts(found.outputs, public_ip=found.parameters.get("AssignPublicIp") == "ENABLED")


def _given_before(plan: Plan) -> Facts | None:
    """What the pool may have from before: of this stack, or of the one whose place it takes."""
    return plan.taken_over or facts(plan.existing)


def _expected(plan: Plan) -> Facts:
    """What the stack will give to the pool, in words where nobody knows yet."""
    values, now = plan.values, plan.existing.outputs if plan.existing else {}
    outputs = {name: now.get(name, words) for name, words in _STILL_UNKNOWN.items()}
    if values["ClusterArn"]:
        outputs["ClusterArn"] = values["ClusterArn"]
    elif plan.before.get("ClusterArn"):
        outputs["ClusterArn"] = _STILL_UNKNOWN["ClusterArn"]
    if values["VpcId"]:
        outputs |= {"VpcId": values["VpcId"], "SubnetIds": values["Subnets"]}
    elif plan.before.get("VpcId"):
        outputs |= {name: _STILL_UNKNOWN[name] for name in ("VpcId", "SubnetIds")}
    outputs |= {name: values[name] for name in (credentials.API_KEY, credentials.AUTH_STRING) if values[name]}
    return Facts(outputs, public_ip=values["AssignPublicIp"] == "ENABLED")


# -- what is shown


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless that was answered before. Raises UserError if there is nobody to ask, and typer.Abort for a no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError("There is nobody to ask: give --yes to do it, or --dry-run only to look.")
    typer.confirm(question, abort=True)


def _show(
    here: Here, plan: Plan, proposal: Proposal | None, work_pool: WorkPool | None, defaults: Sequence[Filling]
) -> None:
    """The whole plan."""
    state = "new" if plan.existing is None else plan.existing.status
    typer.echo(f"Stack {plan.stack} in {here.place} ({state})")
    for name, value in plan.values.items():
        before = plan.before.get(name, "") if plan.existing else ""
        if value != before:
            typer.echo(f"  {name}: {f'{_shown(before)} → ' if plan.existing else ''}{_shown(value)}")
    if proposal:
        show_changes(proposal)
    for credential in plan.credentials:
        if credential.step is not Step.NONE:
            words = WORDS[credential.parameter]
            typer.echo(f"  {_SECRET_STEPS[credential.step]} the secret {credential.name} (the Prefect {words})")
    if work_pool is None:
        typer.echo(f"Work pool {plan.pool}: will be made")
    elif defaults:
        typer.echo(f"Work pool {plan.pool}: these defaults are filled")
    for filling in defaults:
        typer.echo(f"  {filling.variable}: {_shown(filling.value)}")
    for note in plan.notes:
        typer.echo(f"Note: {note}", err=True)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("\n", " ") if text else "(empty)"


def show_changes(proposal: Proposal) -> None:
    """A line for each resource that is made, changed or deleted."""
    for change in proposal.changes:
        mark = _MARKS.get(change.action, "~")
        again = " (replaced)" if change.replaces and change.action == "Modify" else ""
        typer.echo(f"  {mark} {change.kind} {change.logical_id}{again}")


def show_event(event: StackEvent) -> None:
    """One line of what becomes of a stack."""
    reason = f"  {event.reason}" if event.reason else ""
    typer.echo(f"{event.at.astimezone():%H:%M:%S}  {event.status:<28} {event.logical_id}{reason}")


def _failure(plan: Plan, now: Stack | None, events: list[StackEvent]) -> str:
    """Which resource failed, why, and what to do."""
    status = now.status if now else "gone"
    if plan.existing is None:
        end = f"Nothing of it runs; `ecs-worker deploy delete {plan.stack}` removes what is left of the stack."
    else:
        end = "The stack is as it was before." if status == "UPDATE_ROLLBACK_COMPLETE" else f"It is in {status}."
    made = "made" if plan.existing is None else "changed"
    return f"The stack {plan.stack} could not be {made}. {told_failures(events)} {end}"


def told_failures(events: list[StackEvent]) -> str:
    """The resources that failed, each with why, and what to do."""
    told = [
        f"{event.logical_id} ({event.kind}) failed: {event.reason.rstrip('.')}. {trouble.remedy(event)}".rstrip()
        for event in stack.failures(events)
    ]
    return " ".join(told) or "CloudFormation doesn't say why: look at the stack's events in its console."


def _tell_end(here: Here, plan: Plan, now: Stack) -> None:
    """What there is now, and what to do next."""
    made = now.outputs
    runs = "runs" if plan.values["DesiredCount"] != "0" else "is deployed, but none runs (--desired-count 0),"
    typer.echo(f"\nThe worker of {plan.pool} {runs} in {here.place}:")
    for words, name in (
        ("stack", now.name),
        ("cluster", made["ClusterArn"]),
        ("service", made["ServiceName"]),
        ("image", plan.values["Image"]),
        ("role", role := made["WorkerRoleArn"].rpartition("/")[2]),
        ("log", made["LogGroupName"]),
    ):
        typer.echo(f"  {words:<8} {name}")
    typer.echo(
        f"Next: `prefect deploy` with an image and the work pool {plan.pool}. Whether its runs can start tells\n"
        f"  ecs-worker doctor --pool {plan.pool} --worker-role {role}\n"
        f"How the worker is, and its log:\n"
        f"  ecs-worker deploy status {now.name}\n"
        f"  aws logs tail {made['LogGroupName']} --follow --region {here.region}"
    )
