"""A run that ended between the poll and its claim stays ended: the server would make it Pending again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from ecs_worker.aws.session import Aws
from ecs_worker.lifecycle.claim import CLAIMABLE_FOR, DOUBTFUL_AFTER, Claim
from ecs_worker.lifecycle.run.ledger import Ledger
from ecs_worker.model import Place
from support.builders import journal_of

if TYPE_CHECKING:
    from ecs_worker.prefect_api.client import PrefectClient
    from support.servers.prefect import Admin

pytestmark = pytest.mark.anyio


def claim_of(api: PrefectClient, ledger: Ledger) -> Claim:
    return Claim(api, ledger, journal_of(api, Aws(), ledger), "worker", lambda: Place("", ""))


async def scheduled(admin: Admin) -> tuple[str, str]:
    pool = await admin.create_pool()
    return pool, await admin.create_run(await admin.create_deployment(pool))


async def test_a_run_that_ended_after_the_poll_keeps_its_end(api: PrefectClient, admin: Admin) -> None:
    pool, run_id = await scheduled(admin)
    [polled] = await api.scheduled_runs(pool)
    for state in ("PENDING", "RUNNING"):
        await admin.set_state(run_id, state)
    await admin.set_state(run_id, "COMPLETED", name="Done well")
    ledger = Ledger(limit=None, max_launching=10)
    held = await claim_of(api, ledger).take(polled, time.monotonic() - DOUBTFUL_AFTER - 1)
    assert held is None
    assert len(ledger) == 0
    run = await admin.read_run(run_id)
    assert (run["state_type"], run["state_name"]) == ("COMPLETED", "Done well")


async def test_a_slow_claim_of_a_run_that_still_waits_holds(api: PrefectClient, admin: Admin) -> None:
    pool, run_id = await scheduled(admin)
    [polled] = await api.scheduled_runs(pool)
    ledger = Ledger(limit=None, max_launching=10)
    held = await claim_of(api, ledger).take(polled, time.monotonic() - DOUBTFUL_AFTER - 1)
    assert held is not None
    assert held.id in ledger
    assert (await admin.read_run(run_id))["state_type"] == "PENDING"


async def test_a_run_of_an_old_poll_is_read_again_and_claimed(api: PrefectClient, admin: Admin) -> None:
    pool, run_id = await scheduled(admin)
    [polled] = await api.scheduled_runs(pool)
    claim = claim_of(api, Ledger(limit=None, max_launching=10))
    assert await claim.take(polled, time.monotonic() - CLAIMABLE_FOR - 1) is not None
    assert (await admin.read_run(run_id))["state_type"] == "PENDING"


async def test_what_others_took_since_an_old_poll_is_not_claimed(api: PrefectClient, admin: Admin) -> None:
    pool, run_id = await scheduled(admin)
    [polled] = await api.scheduled_runs(pool)
    for state in ("PENDING", "RUNNING", "COMPLETED"):
        await admin.set_state(run_id, state)
    ledger = Ledger(limit=None, max_launching=10)
    assert await claim_of(api, ledger).take(polled, time.monotonic() - CLAIMABLE_FOR - 1) is None
    assert ((await admin.read_run(run_id))["state_type"], len(ledger)) == ("COMPLETED", 0)
