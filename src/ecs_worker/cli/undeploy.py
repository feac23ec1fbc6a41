"""`ecs-worker deploy delete`: a stack goes, and what is to stay is named."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import typer

from ecs_worker.cli.deploy import at_aws, confirm, facts, show_event, told_failures
from ecs_worker.cli.server import GLANCE, prefect_api, prefect_settings
from ecs_worker.deploy import credentials, pool, stack, which
from ecs_worker.deploy.credentials import API_KEY, AUTH_STRING, RECOVERY_DAYS
from ecs_worker.errors import AwsError, UserError
from ecs_worker.prefect_api.schemas import StateType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ecs_worker.aws.cloudformation import Stack
    from ecs_worker.aws.logs import Logs
    from ecs_worker.deploy.plan import Here
    from ecs_worker.deploy.pool import Filling
    from ecs_worker.deploy.wishes import Which
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import WorkPool

# What a worker holds: their tasks start, run or are to be stopped.
_HELD = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
_GONE = "ResourceNotFoundException"


@dataclass(frozen=True, slots=True)
class Removal:
    """How `delete` goes about it. `force`: though runs are held; `everything`: logs and secrets, too."""

    yes: bool
    force: bool
    everything: bool
    wait: bool


def delete(asked: Which, named: str | None, removal: Removal) -> None:
    """Delete a stack. Raises UserError."""
    anyio.run(_delete, asked, named, removal)


async def _delete(asked: Which, named: str | None, removal: Removal) -> None:
    if not (named or asked.stack_name or asked.pool):
        raise UserError("Name the stack that is to be deleted, or its work pool with --pool.")
    async with at_aws(asked) as (aws, target, here):
        found = await which.meant(here.cloudformation, asked, named, here.place)
        if found.moving and not found.status.startswith("DELETE"):
            stack.check_changeable(found)
        pool_name = which.pool_of(found)
        others = [each for each in await which.all_of_ours(here.cloudformation) if which.pool_of(each) == pool_name]
        gives = _Gives(found, [each for each in others if each.id != found.id])
        async with _prefect(removal, pool_name) as api:
            # A stack that could not be made has no worker that holds runs.
            if api is not None and not removal.force and "ServiceArn" in found.outputs:
                await _check_held(api, found, pool_name)
            changes = gives.alone(await api.read_pool(pool_name)) if api is not None else []
            secrets = await _secrets(here, found)
            _show(found, here, changes, secrets, removal)
            confirm("\nDelete it?", yes=removal.yes)
            # First the defaults: without the stack, tasks that they describe can't start.
            if api is not None and changes:
                await _empty(api, pool_name, gives)
        await _delete_stack(here, found, removal)
        if removal.wait:
            await _rest(here, await aws.logs(target), found, secrets, removal)


@asynccontextmanager
async def _prefect(removal: Removal, pool_name: str) -> AsyncIterator[PrefectClient | None]:
    """The Prefect API; None if it can't be reached, but need not."""
    try:
        settings = prefect_settings()
        async with prefect_api(settings, GLANCE) as api:
            await api.read_pool(pool_name)
    except UserError as error:
        if not removal.force:
            raise UserError(
                f"Whether the worker holds flow runs can't be told: {error} With --force it is deleted all the same."
            ) from None
        typer.echo(f"Note: the defaults of the work pool {pool_name} stay as they are. {error}", err=True)
        yield None
        return
    async with prefect_api(settings) as api:
        yield api


async def _check_held(api: PrefectClient, found: Stack, pool_name: str) -> None:
    """Raise UserError if flow runs of the pool are under way."""
    held = await api.run_ids(pool=pool_name, states=_HELD)
    if held:
        raise UserError(
            f"The work pool {pool_name} has {len(held)} flow runs under way, such as {held[0]}: pause it and wait "
            "until they have ended, or give --force. Their tasks then go on, but nobody watches them until another "
            f"worker of the pool takes them over. The stack {found.name} was left alone."
        )


@dataclass(frozen=True, slots=True)
class _Gives:
    """What a stack has given to its pool, beside the pool's other stacks."""

    stack: Stack
    others: Sequence[Stack]

    def alone(self, work_pool: WorkPool | None) -> list[Filling]:
        """The pool's defaults that go with the stack."""
        own = facts(self.stack)
        if work_pool is None or own is None:
            return []
        theirs = [given for each in self.others if (given := facts(each)) is not None]
        return pool.emptyings(work_pool.base_job_template, own, theirs)


async def _empty(api: PrefectClient, pool_name: str, gives: _Gives) -> None:
    work_pool = await api.read_pool(pool_name)  # somebody may have changed it while we asked
    changes = gives.alone(work_pool)
    if work_pool is not None and changes:
        await api.update_pool(pool_name, base_job_template=pool.filled(work_pool.base_job_template, changes))
        names = ", ".join(each.variable for each in changes)
        typer.echo(f"Took the stack's defaults out of the work pool {pool_name}: {names}.")


async def _secrets(here: Here, found: Stack) -> list[str]:
    """The names of the secrets that `deploy` has made for the stack."""
    names = [credentials.secret_name(found.name, parameter) for parameter in (API_KEY, AUTH_STRING)]
    kept = [await here.secrets.find(name) for name in names]
    return [each.name for each in kept if each is not None and not each.deleted]


def _show(found: Stack, here: Here, changes: list[Filling], secrets: list[str], removal: Removal) -> None:
    typer.echo(f"Stack {found.name} in {here.place} ({found.status}) of the work pool {which.pool_of(found)}")
    outputs = found.outputs
    made = [
        ("service", outputs.get("ServiceArn")),
        ("cluster", outputs.get("ClusterArn") if not found.parameters.get("ClusterArn") else None),
        ("role", outputs.get("WorkerRoleArn")),
        ("role", outputs.get("ExecutionRoleArn")),
        ("role", outputs.get("RunTaskRoleArn")),
        ("queue", outputs.get("EventsQueueUrl")),
        ("log", outputs.get("LogGroupName") if removal.everything else None),
        *(("secret", name if removal.everything else None) for name in secrets),
    ]
    for kind, name in made:
        if name:
            typer.echo(f"  - {kind} {name}")
    for change in changes:
        typer.echo(f"  - default {change.variable} of the work pool")


async def _delete_stack(here: Here, found: Stack, removal: Removal) -> None:
    cloudformation = here.cloudformation
    after = await cloudformation.last_event(found.id)
    await cloudformation.delete_stack(found.id)
    if not removal.wait:
        typer.echo(
            f"The stack {found.name} is being deleted; `ecs-worker deploy status {found.name}` tells how far it is."
        )
        if removal.everything:
            typer.echo("Its log and its secrets stay: they can go only after it, so give --wait.", err=True)
        return

    async def nothing() -> None:
        pass

    left, events = await stack.follow(cloudformation, found.id, after, show_event, nothing)
    if left is not None:
        raise UserError(
            f"The stack {found.name} could not be deleted and is in {left.status}. {told_failures(events)} Then give "
            "the command again."
        )


async def _rest(here: Here, logs: Logs, found: Stack, secrets: list[str], removal: Removal) -> None:
    """What the stack leaves: delete it, or say what it is and how to remove it."""
    group = found.outputs.get("LogGroupName", "")
    stays: list[str] = []
    at = f"--region {here.region}"
    if group and removal.everything:
        try:
            await logs.delete_group(group)
        except AwsError as error:
            if error.code != _GONE:
                raise
    elif group:
        stays.append(f"the worker's log {group}: aws logs delete-log-group {at} --log-group-name {group}")
    for name in secrets:
        if removal.everything:
            await here.secrets.delete(name, RECOVERY_DAYS)
            typer.echo(
                f"The secret {name} is deleted for good in {RECOVERY_DAYS} days; until then deploy brings it back."
            )
        else:
            stays.append(f"the secret {name}: aws secretsmanager delete-secret {at} --secret-id {name}")
    if found.outputs:
        of_runs = f"the log {found.parameters.get('RunLogGroup')} and the task definitions"
        stays.append(f"{of_runs} {found.parameters.get('RunFamilies')} of the flow runs, if there were any")
    typer.echo(f"The stack {found.name} is deleted." + (" What stays, and how to remove it:" if stays else ""))
    for each in stays:
        typer.echo(f"  {each}")
