"""`ecs-worker deploy events`: a queue of task events, for a worker that runs elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import typer

from ecs_worker.aws.cloudformation import IN_REVIEW
from ecs_worker.cli.deploy import at_aws, confirm, show_changes, show_event, told_failures
from ecs_worker.deploy import exports, stack, template
from ecs_worker.deploy.plan import active_cluster
from ecs_worker.deploy.template import document
from ecs_worker.errors import UserError

if TYPE_CHECKING:
    from ecs_worker.aws.cloudformation import Stack
    from ecs_worker.cli.deploy import How
    from ecs_worker.deploy.plan import Here
    from ecs_worker.deploy.wishes import EventsWishes


def make(wishes: EventsWishes, how: How) -> None:
    """Make or change the stack of a queue. Raises UserError."""
    anyio.run(_make, wishes, how)


async def _make(wishes: EventsWishes, how: How) -> None:
    async with at_aws(wishes) as (_, _, here):
        name, existing = await _find(here, wishes)
        # Without --cluster: all clusters of the Region, or what the stack has.
        cluster = (await active_cluster(here, wishes.cluster, "--cluster")).arn if wishes.cluster else None
        given = {"ClusterArn": cluster if cluster or existing else "", "QueueName": None if existing else ""}
        body = exports.as_yaml(exports.events_only(document(template.text())))
        pool = wishes.pool or ""
        new = existing is None
        async with stack.proposed(here.cloudformation, name, body, given, pool=pool, new=new) as proposal:
            if proposal is None:
                typer.echo(f"The stack {name} is already up to date.")
                _tell_end(here, wishes, existing)
                return
            typer.echo(f"Stack {name} in {here.place} ({existing.status if existing else 'new'})")
            typer.echo(f"  ClusterArn: {cluster or (existing and existing.parameters['ClusterArn']) or '(all)'}")
            show_changes(proposal)
            if how.dry_run:
                return
            confirm("\nDo this?", yes=how.yes)
            after = await here.cloudformation.last_event(name)
            await stack.execute(here.cloudformation, proposal)
        if how.wait:
            _tell_end(here, wishes, await _followed(here, name, after, new=new))
        else:
            typer.echo(f"The stack {name} is being {'made' if new else 'changed'}; its outputs will name the queue.")


async def _find(here: Here, wishes: EventsWishes) -> tuple[str, Stack | None]:
    """The stack's name, and the stack if there is one. Raises UserError."""
    if not wishes.pool:
        raise UserError("--pool is missing: name the work pool whose workers are to listen.")
    name = wishes.stack_name or stack.events_stack_name(wishes.pool)
    found = await here.cloudformation.stack(name)
    if found is None or found.status == IN_REVIEW:
        return name, None
    if not stack.of_events(found):
        raise UserError(
            f"The stack {name} is there already, and is no queue that `ecs-worker deploy events` has made: give "
            "another --stack-name."
        )
    stack.check_changeable(found)
    return name, found


async def _followed(here: Here, name: str, after: str | None, *, new: bool) -> Stack:
    """The stack, once it is as it is to be. Raises UserError if it doesn't come to that."""

    async def nothing() -> None:
        pass

    now, events = await stack.follow(here.cloudformation, name, after, show_event, nothing)
    if now is not None and now.status in {"CREATE_COMPLETE", "UPDATE_COMPLETE"}:
        return now
    raise UserError(
        f"The stack {name} could not be {'made' if new else 'changed'}. {told_failures(events)} To remove what is left "
        f"of it: {_removal(here, name)}"
    )


def _tell_end(here: Here, wishes: EventsWishes, found: Stack | None) -> None:
    assert found is not None, "there is nothing to change only in a stack that there is"
    queue = found.outputs["EventsQueueName"]
    typer.echo(f"The queue: {queue}")
    typer.echo(
        f"Next: `ecs-worker start --pool {wishes.pool} --events-queue {queue}`. What the worker's role needs for it: "
        f"`ecs-worker iam policy worker --pool {wishes.pool} --events-queue {queue}`."
    )
    typer.echo(f"To remove it: {_removal(here, found.name)}")


def _removal(here: Here, name: str) -> str:
    return f"aws cloudformation delete-stack --region {here.region} --stack-name {name}"
