"""The soak: three workers on one pool, killed at random, while every fifth call of theirs goes wrong."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from support.arena import WORKERS, Arena
from support.simulator import FlowScript, TaskScript, What, fault

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.servers.prefect import PrefectServer
    from support.servers.worker import WorkerProcess

    Show = Callable[[str, str], None]

SEED = 20_261
SECONDS_PER_RUN = 1.0  # at the most, with all else that the machine does; SQLite's server alone needs a tenth
_BAD_WEATHER = (
    What.THROTTLE,
    What.SERVER_ERROR,
    What.SERVER_ERROR_AFTER,
    What.LOST_BEFORE,
    What.LOST_AFTER,
    What.TRUNCATED,
    What.HANG_AFTER,
)


class Workers:
    """Three of them, always: who is killed is followed by another of a new name."""

    def __init__(self, arena: Arena, chance: random.Random) -> None:
        self._arena = arena
        self._chance = chance
        self._alive: list[WorkerProcess] = []
        self.started = 0
        self.kills = 0

    def start(self) -> None:
        self.started += 1
        self._alive.append(self._arena.worker(f"worker-{self.started}"))

    async def run(self) -> None:
        for _ in range(3):
            self.start()
        while True:
            await anyio.sleep(self._chance.uniform(2, 5))
            doomed = self._alive.pop(self._chance.randrange(3))
            assert doomed.running, f"{doomed.log.stem} ended by itself:\n{doomed.output}"
            await doomed.kill()
            self.kills += 1
            self.start()


@pytest.mark.anyio
@pytest.mark.timeout(3600)
async def test_every_run_ends_once(
    prefect3: PrefectServer, tmp_path: Path, show: Show, pytestconfig: pytest.Config
) -> None:
    number: int = pytestconfig.getoption("--soak-runs")
    bound = 60 + number * SECONDS_PER_RUN
    async with Arena(prefect3, tmp_path, seed=SEED) as arena:
        arena.aws.ecs.scripts.default = TaskScript(
            missing=1, provisioning=0.5, pending=0.3, activating=0.2, flow=FlowScript(seconds=10)
        )
        runs = await arena.runs(number)
        arena.aws.fault(fault(*_BAD_WEATHER, What.DISGUISED_THROTTLE, probability=0.2, delay=2))
        arena.proxy.fault(fault(*_BAD_WEATHER, caller=WORKERS, probability=0.2, delay=2))
        workers = Workers(arena, random.Random(SEED))  # noqa: S311 - a script of events, not a secret
        began = time.monotonic()
        async with anyio.create_task_group() as meanwhile:
            meanwhile.start_soon(workers.run)
            with anyio.move_on_after(bound):
                await _until_final(arena, number)
            meanwhile.cancel_scope.cancel()
        took = time.monotonic() - began
        _show(show, arena, workers, number, took)
        await _judge(arena, runs)


async def _until_final(arena: Arena, number: int) -> None:
    final = {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}}
    body: dict[str, Any] = {"work_pools": {"name": {"any_": [arena.pool]}}, "flow_runs": final}
    while await arena.admin.post("/flow_runs/count", body) < number:  # noqa: ASYNC110 - it grows on the server
        await anyio.sleep(1)


def _show(show: Show, arena: Arena, workers: Workers, number: int, took: float) -> None:
    aws, prefect = arena.aws.director, arena.proxy.director
    lines = [
        f"{number} runs, {took:.0f} s, seed {SEED}",
        f"{workers.kills} kills, {workers.started} workers",
        f"{len(arena.aws.launched)} tasks launched; {arena.aws.ecs.replays} repeated RunTask calls were known",
        f"AWS: {len(aws.calls)} calls, faults: {_counts(aws.struck())}",
        f"Prefect: {prefect.count('*', WORKERS)} calls, faults: {_counts(prefect.struck())}",
    ]
    show("soak", "\n".join(lines))


def _counts(struck: Counter[str]) -> str:
    return f"{struck.total()} ({', '.join(f'{kind} {times}' for kind, times in sorted(struck.items()))})"


async def _judge(arena: Arena, runs: list[str]) -> None:
    states = Counter(f"{run['state_type']}: {run['state']['message']}" for run in await arena.admin.runs(arena.pool))
    assert states.total() == len(runs)
    assert all(state.startswith("COMPLETED") for state in states), states
    effective = {run: len(arena.effective(run)) for run in runs}
    assert set(effective.values()) == {1}, {run: number for run, number in effective.items() if number != 1}
    launched = Counter(task.flow_run_id for task in arena.aws.launched)
    assert max(launched.values()) == 1, {run: number for run, number in launched.items() if number != 1}
