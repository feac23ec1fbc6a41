"""Which stack a command means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecs_worker.deploy.stack import of_events, ours
from ecs_worker.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ecs_worker.aws.cloudformation import CloudFormation, Stack
    from ecs_worker.deploy.wishes import Which


async def meant(cloudformation: CloudFormation, which: Which, named: str | None, place: str) -> Stack:
    """The stack of that name, else the pool's, else the only one. Raises UserError. `place`: where, for messages."""
    name = named or which.stack_name
    if name:
        found = await cloudformation.stack(name)
        if found is None:
            raise UserError(
                f"There is no stack {name!r} in {place}: `ecs-worker deploy list` shows those that there are."
            )
        if of_events(found):
            raise UserError(
                f"The stack {name} has a queue of task events, and no worker. To remove it: aws cloudformation "
                f"delete-stack --stack-name {name}"
            )
        if not ours(found):
            raise UserError(f"The stack {name} is none that `ecs-worker deploy` has made: it is left alone.")
        if which.pool and pool_of(found) != which.pool:
            raise UserError(f"The stack {name} serves the work pool {pool_of(found)!r}, not {which.pool!r}: name one.")
        return found
    there = [each for each in await all_of_ours(cloudformation) if not which.pool or pool_of(each) == which.pool]
    if len(there) == 1:
        return there[0]
    of_pool = f" of the work pool {which.pool!r}" if which.pool else ""
    if not there:
        raise UserError(f"There is no deployed worker{of_pool} in {place}: `ecs-worker deploy --pool POOL` makes one.")
    raise UserError(f"There are several stacks{of_pool} in {place}, {_listed(there)}: name one.")


async def all_of_ours(cloudformation: CloudFormation) -> list[Stack]:
    """All stacks of deployed workers, by name."""
    return sorted((each for each in await cloudformation.stacks() if ours(each)), key=lambda each: each.name)


def pool_of(stack: Stack) -> str:
    """The work pool that the stack's worker serves."""
    return stack.parameters.get("PoolName", "")


def _listed(stacks: Sequence[Stack]) -> str:
    return ", ".join(each.name for each in stacks)
