"""A stack's change, from the change set to its end, with the events on the way."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

import anyio

from ecs_worker.aws.cloudformation import IN_REVIEW
from ecs_worker.errors import AwsError, UserError
from ecs_worker.job.names import LONGEST_TAG_VALUE, ecs_name, tag_text
from ecs_worker.verdicts.classify import Kind, classify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from ecs_worker.aws.cloudformation import Change, ChangeSet, CloudFormation, Stack, StackEvent

POOL_TAG = "ecs-worker:pool"
"""The tag by which our stacks are told from others."""

_LONGEST = 128  # characters of a stack's name
_FIRST_LOOK, _LAST_LOOK, _SLOWER = 0.2, 5.0, 1.3  # seconds between two looks: from, to, and how it grows
_WORKED_OUT = 300.0  # seconds; CloudFormation works out a change set of ours in a few
_DROPPED = 30.0  # seconds for leaving nothing of a proposal
_ENDS = 3600.0  # seconds; a service has its circuit breaker, and all else takes minutes
# In these a stack can be changed. Any other one is on its way, or was never made.
_STEADY = frozenset({"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE"})


def stack_name(pool: str) -> str:
    """The name of a pool's stack, where nobody gives another."""
    clean = re.sub(r"-+", "-", ecs_name(pool).replace("_", "-")).strip("-")
    return f"ecs-worker-{clean}"[:_LONGEST].rstrip("-")


def tags(pool: str) -> dict[str, str]:
    """The stack's tags. They never change, as CloudFormation puts them on each resource."""
    return {POOL_TAG: tag_text(pool, LONGEST_TAG_VALUE)}


def events_stack_name(pool: str) -> str:
    """The name of the stack of a pool's queue of task events alone."""
    return f"ecs-worker-events-{stack_name(pool).removeprefix('ecs-worker-')}"[:_LONGEST].rstrip("-")


def ours(stack: Stack) -> bool:
    """Whether it is a stack of a deployed worker."""
    return POOL_TAG in stack.tags and "PoolName" in stack.parameters


def of_events(stack: Stack) -> bool:
    """Whether it is the stack of a queue of task events alone."""
    return POOL_TAG in stack.tags and "QueueName" in stack.parameters


def check_changeable(stack: Stack) -> None:
    """Raise UserError if the stack can't be changed now: with what it waits for, or what to do."""
    if stack.status in _STEADY:
        return
    if stack.moving:
        raise UserError(
            f"The stack {stack.name} is being changed ({stack.status}): wait until that has ended; "
            f"`ecs-worker deploy status {stack.name}` tells."
        )
    if stack.status == "UPDATE_ROLLBACK_FAILED":
        raise UserError(
            f"The stack {stack.name} could not be brought back after a failed change ({stack.status}): mend what its "
            f"events name, then `aws cloudformation continue-update-rollback --stack-name {stack.name}`."
        )
    raise UserError(
        f"The stack {stack.name} is in {stack.status}, in which CloudFormation only deletes it: "
        f"`ecs-worker deploy delete {stack.name}`, then deploy again."
    )


def looks() -> Callable[[], Awaitable[None]]:
    """A pause between two looks: short at first, then longer and longer."""
    seconds = _FIRST_LOOK

    async def pause() -> None:
        nonlocal seconds
        await anyio.sleep(seconds)
        seconds = min(seconds * _SLOWER, _LAST_LOOK)

    return pause


@dataclass(slots=True)
class Proposal:
    """A change set that waits to be executed, or to be dropped. `new`: so is the stack."""

    stack: str
    id: str
    new: bool
    changes: tuple[Change, ...]
    executed: bool = False

    def touches(self, logical_id: str) -> bool:
        """Whether that resource is made or changed."""
        return any(change.logical_id == logical_id for change in self.changes)


@asynccontextmanager
async def proposed(
    cloudformation: CloudFormation,
    stack: str,
    template: str,
    parameters: Mapping[str, str | None],
    *,
    pool: str,
    new: bool,
) -> AsyncIterator[Proposal | None]:
    """A change set for these parameters (None keeps one); None if it would change nothing. Raises UserError, AwsError.

    Unless it is executed within, nothing of it stays. Should the process die here, the change set stays, and of a new
    stack its name, in REVIEW_IN_PROGRESS: they cost nothing, and the next `deploy` goes on with that name.
    """
    name = f"ecs-worker-{uuid4().hex}"
    change_set = await cloudformation.create_change_set(stack, name, template, parameters, tags=tags(pool), new=new)
    proposal = Proposal(stack, change_set, new, ())
    try:
        found = await _worked_out(cloudformation, stack, change_set)
        if found.status == "FAILED" and not found.empty:
            raise UserError(f"CloudFormation refuses the change of the stack {stack}: {found.reason}")
        proposal.changes = found.changes
        yield None if found.empty else proposal
    finally:
        if not proposal.executed:
            with anyio.move_on_after(_DROPPED, shield=True):  # Ctrl-C, too, is to leave nothing
                await _drop(cloudformation, proposal)


async def execute(cloudformation: CloudFormation, proposal: Proposal) -> None:
    """Begin to do what is proposed."""
    # Whether it has begun nobody knows if the answer is lost: then it is not dropped.
    proposal.executed = True
    await cloudformation.execute_change_set(proposal.id)


async def _worked_out(cloudformation: CloudFormation, stack: str, change_set: str) -> ChangeSet:
    pause = looks()
    try:
        with anyio.fail_after(_WORKED_OUT):
            while not (found := await cloudformation.change_set(change_set)).ready:
                await pause()
    except TimeoutError:
        raise UserError(
            f"CloudFormation has not worked out what changes in the stack {stack} within {_WORKED_OUT:.0f} s: try "
            "again."
        ) from None
    return found


async def _drop(cloudformation: CloudFormation, proposal: Proposal) -> None:
    """Leave nothing of a proposal. A stack that nothing was made of goes, too."""
    await cloudformation.delete_change_set(proposal.id)
    if proposal.new:
        stack = await cloudformation.stack(proposal.stack)
        if stack is not None and stack.status == IN_REVIEW:
            await cloudformation.delete_stack(stack.id)


async def follow(
    cloudformation: CloudFormation,
    stack_id: str,
    after: str | None,
    tell: Callable[[StackEvent], None],
    look: Callable[[], Awaitable[None]],
) -> tuple[Stack | None, list[StackEvent]]:
    """Tell the stack's events until its change has ended: the stack (None: it is gone) and all the events.

    `look` is called at each look. The end is what the stack's own last event says: its status may be that of before
    for a moment. That AWS doesn't answer for a moment is no end. Raises UserError after an hour; AWS goes on.
    """
    told: list[StackEvent] = []
    pause = looks()
    try:
        with anyio.fail_after(_ENDS):
            while True:
                try:
                    stack = await cloudformation.stack(stack_id)
                    new = await cloudformation.events(stack_id, told[-1].id if told else after)
                except AwsError as error:
                    if classify(error).kind is Kind.PERMANENT:
                        raise
                    await pause()
                    continue
                for event in new:
                    told.append(event)
                    tell(event)
                await look()
                own = next((event.status for event in reversed(told) if event.of_stack), "")
                if stack is None or (own == stack.status and not stack.moving and own != IN_REVIEW):
                    return stack, told
                await pause()
    except TimeoutError:
        raise UserError(
            f"The stack {stack_id} is still being changed after an hour. AWS goes on with it: look again with "
            "`ecs-worker deploy status`."
        ) from None


def failures(events: list[StackEvent]) -> list[StackEvent]:
    """The events that say which resource failed first, without those that were only broken off with it."""
    failed = [event for event in events if event.status.endswith("_FAILED") and not event.of_stack]
    own = [event for event in failed if "cancelled" not in event.reason.lower()]
    seen: Counter[str] = Counter()
    first = []
    for event in own or failed:
        if not seen[event.logical_id]:
            first.append(event)
        seen[event.logical_id] += 1
    return first
