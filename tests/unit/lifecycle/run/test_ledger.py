from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest

from ecs_worker.lifecycle.run.ledger import Ledger
from ecs_worker.model import Phase, TaskFacts
from support.builders import launch_request, run_in, task_arn

if TYPE_CHECKING:
    from ecs_worker.lifecycle.run.run import Run


def launch(run: Run) -> None:
    run.rendered(launch_request())
    run.launched_as(TaskFacts(task_arn()))


def test_the_limit_counts_a_task_until_it_has_stopped() -> None:
    ledger = Ledger(limit=2, max_launching=10)
    first, second = run_in(Phase.CLAIMED), run_in(Phase.RUNNING)
    ledger.take(first)
    ledger.take(second)
    assert ledger.free == 0
    launch(first)
    assert ledger.free == 0
    second.gone()  # its end is still to be told, but it occupies nothing
    assert ledger.free == 1
    ledger.drop(second)
    assert ledger.free == 1
    ledger.drop(first)
    assert ledger.free == 2


def test_a_run_whose_task_failed_to_start_keeps_its_slot_for_the_next_one() -> None:
    ledger = Ledger(limit=1, max_launching=10)
    run = run_in(Phase.STARTING)
    ledger.take(run)
    assert run.task is not None
    run.seen(replace(run.task, last_status="STOPPED"))
    assert (run.phase, ledger.free) == (Phase.STOPPED, 0)
    run.again()
    assert ledger.free == 0
    ledger.drop(run)
    assert ledger.free == 1


def test_launching_runs_are_bounded_apart_from_the_limit() -> None:
    ledger = Ledger(limit=None, max_launching=2)
    first, second = run_in(Phase.CLAIMED), run_in(Phase.LAUNCHING)
    ledger.take(first)
    ledger.take(second)
    assert ledger.free == 0
    launch(second)
    assert ledger.free == 1


def test_free_is_never_negative() -> None:
    ledger = Ledger(limit=1, max_launching=1)
    for _ in range(3):
        ledger.take(run_in(Phase.CLAIMED))  # adopted runs don't ask for a slot
    assert ledger.free == 0


def test_dropping_a_run_that_was_taken_anew_leaves_the_new_one() -> None:
    ledger = Ledger(limit=None, max_launching=5)
    old = run_in(Phase.CLAIMED)
    new = run_in(Phase.RUNNING, claim=old.claim)
    ledger.take(old)
    ledger.take(new)
    ledger.drop(old)
    assert ledger.get(old.id) is new
    assert ledger.phases == {Phase.CLAIMED: 0, Phase.RUNNING: 1}


@pytest.mark.anyio
async def test_waiters_are_told_when_a_slot_frees() -> None:
    ledger = Ledger(limit=1, max_launching=1)
    only = run_in(Phase.CLAIMED)
    ledger.take(only)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(ledger.wait_freed)
            await anyio.lowlevel.checkpoint()
            ledger.drop(only)
    assert ledger.free == 1
