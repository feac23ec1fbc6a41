from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from ecs_worker.lifecycle.adopt import mine, ranking
from ecs_worker.lifecycle.colleagues import Colleagues
from ecs_worker.lifecycle.run.claims import ClaimRecord
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.prefect_api.schemas import FlowRun, StateType, Worker
from ecs_worker.settings import PrefectSettings, WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

SETTLE = 30.0
names = st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=6, unique=True)


@given(st.uuids(), names, st.randoms(use_true_random=False))
def test_all_workers_choose_in_the_same_order(run_id: UUID, workers: list[str], random: object) -> None:
    shuffled = sorted(workers, key=lambda _: random.random())  # type: ignore[attr-defined] # hypothesis's Random
    assert ranking(run_id, workers) == ranking(run_id, shuffled)
    assert sorted(ranking(run_id, workers)) == sorted(workers)


@given(st.uuids(), names)
def test_a_death_moves_only_the_dead_workers_runs(run_id: UUID, workers: list[str]) -> None:
    order = ranking(run_id, workers)
    for dead in workers:
        assert ranking(run_id, [name for name in workers if name != dead]) == [name for name in order if name != dead]


def run(kind: StateType, label: str | None = None, pid: str | None = None) -> FlowRun:
    labels = {"prefect.worker.name": label} if label else {}
    return FlowRun(uuid4(), "run", uuid4(), state_type=kind, labels=labels, infrastructure_pid=pid)


kinds = st.sampled_from([StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
workers = st.sampled_from([None, "a", "b", "dead"])
LIVE = ("a", "b")


@given(kinds, workers, workers, st.sampled_from([None, "default::arn"]))
def test_every_orphan_is_taken_up_by_somebody(
    kind: StateType, label: str | None, claimed_by: str | None, pid: str | None
) -> None:
    orphan = run(kind, label, pid)
    claim = ClaimRecord(uuid4(), claimed_by, age=SETTLE + 1)
    takers = [name for name in LIVE if mine(orphan, claim, LIVE, name, settle=SETTLE)]
    holders = {claimed_by, label} & set(LIVE)
    if not holders:
        assert takers == ranking(orphan.id, LIVE)[:1]
        assert all(mine(orphan, claim, LIVE, name, settle=SETTLE, waited=SETTLE) for name in LIVE)  # not for ever
    else:
        assert takers
        assert set(takers) <= holders


@given(workers, workers)
def test_a_live_claimant_is_left_to_launch(label: str | None, claimed_by: str | None) -> None:
    claim = ClaimRecord(uuid4(), claimed_by, age=SETTLE + 1)
    for me in LIVE:
        if claimed_by in LIVE and claimed_by != me:
            assert not mine(run(StateType.PENDING, label), claim, LIVE, me, settle=SETTLE)


@given(kinds, workers, workers)
def test_a_fresh_claim_without_a_task_is_left_alone(kind: StateType, label: str | None, claimed_by: str | None) -> None:
    claim = ClaimRecord(uuid4(), claimed_by, age=SETTLE - 1)
    assert not any(mine(run(kind, label), claim, LIVE, me, settle=SETTLE) for me in LIVE)


def worker(name: str, beat: float, status: str = "ONLINE") -> Worker:
    return Worker(uuid4(), name, status, datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=beat))


class NoBeat:
    """A worker that has not beaten yet."""

    beat_at: float | None = None
    before: Mapping[str, datetime] = {}


def test_colleagues_are_doubted_until_they_beat_again() -> None:
    api = PrefectClient(PrefectSettings(api_url="http://127.0.0.1:1/api"))
    colleagues = Colleagues(api, WorkerSettings(pool="pool", name="me"), NoBeat(), lambda _: None)
    colleagues.saw([worker("a", 0), worker("b", 0), worker("me", 0), worker("gone", 0, "OFFLINE")])
    assert (colleagues.gone, colleagues.doubtful) == (True, frozenset("ab"))
    colleagues.saw([worker("a", 10), worker("b", 0)])
    assert (colleagues.gone, colleagues.doubtful, colleagues.online) == (
        False,
        frozenset("b"),
        frozenset({"a", "b", "me"}),
    )
    colleagues.saw([worker("a", 10)])
    assert (colleagues.gone, colleagues.doubtful) == (True, frozenset())
