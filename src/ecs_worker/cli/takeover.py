"""`ecs-worker deploy import`: a worker of prefect-aws's, as one of ours."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import typer
from pydantic import SecretStr

from ecs_worker.cli.deploy import at_desk, carry_out, reaching_prefect, work_pool_of
from ecs_worker.deploy import takeover
from ecs_worker.deploy.plan import find, wanted
from ecs_worker.errors import UserError

if TYPE_CHECKING:
    from ecs_worker.aws.cloudformation import Stack
    from ecs_worker.cli.deploy import How
    from ecs_worker.deploy.plan import Here
    from ecs_worker.deploy.wishes import Wishes


def take_over(wishes: Wishes, named: str, how: How) -> None:
    """Deploy with a stack's values. The stack stays. Raises UserError."""
    anyio.run(_take_over, wishes, named, how)


async def _take_over(wishes: Wishes, named: str, how: How) -> None:
    prefect = reaching_prefect(wishes)
    async with at_desk(wishes, prefect) as desk:
        here = desk.here
        theirs = await _their_stack(here, named)
        definition = await here.ecs.describe_definition(theirs.outputs[takeover.TASK_DEFINITION])
        taken = takeover.read(theirs, definition.request)
        own = {name: arn for name, arn in taken.own_secrets.items() if getattr(wishes, name) is None}
        asked = takeover.merged(wishes, taken)
        typer.echo(f"The stack {theirs.name} amounts to:\n\n{takeover.command(asked, own, here.region)}\n")
        for note in taken.notes:
            typer.echo(f"Note: {note}", err=True)
        asked = asked.model_copy(update={name: await _value(here, arn) for name, arn in own.items()})
        name, existing = await find(here, asked)
        work_pool = await work_pool_of(desk.api, asked.pool or "")
        plan = await wanted(here, asked, name, existing, work_pool, prefect)
        # The pool's defaults that are the old stack's are to be the new one's: they would go with it.
        await carry_out(desk, replace(plan, taken_over=taken.facts), work_pool, how)
        if how.dry_run:
            typer.echo("\nNothing was done (--dry-run).")
        else:
            typer.echo(
                f"The old stack {theirs.name} is as it was, and both workers take runs. Once the old one's runs have "
                f"ended: aws cloudformation delete-stack --region {here.region} --stack-name {theirs.name}"
            )


async def _their_stack(here: Here, name: str) -> Stack:
    found = await here.cloudformation.stack(name)
    if found is None:
        raise UserError(f"There is no stack {name!r} in {here.place}: correct its name, or --region.")
    if not takeover.is_theirs(found):
        raise UserError(
            f"The stack {name} is none that `prefect-aws ecs-worker deploy-service` has made, so there is nothing to "
            "take over."
        )
    if takeover.TASK_DEFINITION not in found.outputs:
        raise UserError(f"The stack {name} is in {found.status} and has no worker: there is nothing to take over.")
    return found


async def _value(here: Here, arn: str) -> SecretStr:
    """The value of a secret that goes with the old stack."""
    value = await here.secrets.value(arn)
    if value is None:
        raise UserError(f"The secret {arn} of the old stack has no text in it: give --prefect-api-key, or its like.")
    return SecretStr(value)
