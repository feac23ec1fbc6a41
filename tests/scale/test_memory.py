"""Many short runs, one after the other: the worker's memory stays flat. SOAK_MINUTES sets how long it goes on."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.outside import POOL
from support.servers.canned import FINAL
from support.servers.worker import command, environment
from support.simulator import TaskScript

if TYPE_CHECKING:
    from support.outside import Outside
    from support.servers.canned import CannedApi

MINUTES = float(os.environ.get("SOAK_MINUTES", "1.2"))
WARM_UP = 0.25  # of the time: caches fill, and the allocator finds its size
PER_SECOND = 20
GROWTH = 0.02  # of the heap, from the first half's median to the second's
QUICK = {
    # Everything that repeats, repeats often: an hour of a worker's life in a few minutes.
    "ECS_WORKER_QUERY_SECONDS": "0.5",
    "ECS_WORKER_WATCH_SECONDS": "0.5",
    "ECS_WORKER_REPORT_GRACE_SECONDS": "0.2",
    "ECS_WORKER_HEARTBEAT_SECONDS": "1",
    "ECS_WORKER_ADOPT_SECONDS": "1",
    "ECS_WORKER_CANCEL_SECONDS": "1",
    "ECS_WORKER_LOG_LEVEL": "WARNING",
}


@pytest.mark.anyio
async def test_memory_stays_flat_over_many_runs(outside: Outside, tmp_path: Path) -> None:
    script = TaskScript(provisioning=0.2, pending=0.2, activating=0.2, running=0.5, exit_code=1)
    outside.portal.call(setattr, outside.aws.ecs.scripts, "default", script)
    env = environment(tmp_path, api_url=outside.api.url, aws_url=outside.aws.url, extra=QUICK)
    arguments = ["start", "--pool", POOL, "--name", "soak"]
    samples: list[float] = []
    ended = 0
    async with command(tmp_path, arguments, env, log=tmp_path / "soak.log") as worker:
        began = time.monotonic()
        while (age := time.monotonic() - began) < 60 * MINUTES:
            ended += outside.portal.call(renew, outside.api)
            assert worker.running, worker.output
            if age > 60 * MINUTES * WARM_UP:
                samples.append(heap(worker.pid))
            await asyncio.sleep(1)
    middle = len(samples) // 2
    first, second = statistics.median(samples[:middle]), statistics.median(samples[middle:])
    figures = f"{ended} runs in {MINUTES:g} minutes; heap {first / 1e6:.1f} MB, then {second / 1e6:.1f} MB"
    print(figures)  # noqa: T201 - for `pytest -s`
    assert ended > 0.5 * PER_SECOND * 60 * MINUTES, figures
    assert second < first * (1 + GROWTH), figures


def renew(api: CannedApi) -> int:
    """The next second's runs instead of those that have ended; how many have."""
    gone = [run_id for run_id, run in api.runs.items() if run["state_type"] in FINAL]
    for run_id in gone:
        del api.runs[run_id], api.history[run_id]
    for _ in range(PER_SECOND if len(api.runs) < 10 * PER_SECOND else 0):
        api.add_run()
    api.calls.clear()
    return len(gone)


def heap(pid: int) -> float:
    """Memory that is the process's own, in bytes: no files, no shared pages."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("Linux tells it in /proc/<pid>/status")
