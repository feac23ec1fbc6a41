"""The container's output, repeated in the worker's."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from support.waiting import until
from support.world import ROLE, World

pytestmark = pytest.mark.anyio
STREAMED = {"configure_cloudwatch_logs": True, "stream_output": True, "execution_role_arn": ROLE}


async def test_every_line_comes_once_and_in_order(world: World) -> None:
    """A burst that fills CloudWatch's answers many times over, read while it is written."""
    lines = 1500
    async with world.worker("--log-format", "json", whole=True) as process:
        run_id = await world.run("RUNNING", "print=" + str(lines), "COMPLETED", **STREAMED)
        await world.admin.wait_for_state(run_id, "COMPLETED")
        await process.wait_for_output(f"line {lines - 1:04}")
        await process.wait_for_output('"ended"')  # the task's end is seen after its flow's
        assert await process.stop() == 0
    entries = [json.loads(line) for line in process.output.splitlines()]
    (launched,) = [entry["late_seconds"] for entry in entries if "late_seconds" in entry]
    assert 0 <= launched < 60, "how late it was launched, for metric filters"
    assert [entry["ended"] for entry in entries if "ended" in entry] == ["completed"]
    repeated = [entry for entry in entries if re.search(r"line \d{4}$", entry["message"])]
    assert [int(entry["message"][-4:]) for entry in repeated] == list(range(lines))
    assert {entry["flow_run_id"] for entry in repeated} == {run_id}


async def test_lines_come_while_the_container_runs(world: World) -> None:
    async with world.worker() as process:
        run_id = await world.run("RUNNING", "print=1", "sleep=120", **STREAMED)
        await process.wait_for_output("line 0000")
        assert (await world.task_of(run_id))["lastStatus"] == "RUNNING"


async def test_a_restart_repeats_seconds_at_most_and_loses_nothing(world: World) -> None:
    """The worker is killed, and starts again with the same name."""
    async with world.worker() as process:
        run_id = await world.run("RUNNING", "tick=150", "COMPLETED", **STREAMED)
        await process.wait_for_output("line 0060")
        await process.kill()
        before = Counter(re.findall(r"line \d{4}", process.output))
    async with world.worker() as process:
        await process.wait_for_output("line 0149", 60)
        await world.admin.wait_for_state(run_id, "COMPLETED")
        shown = Counter(re.findall(r"line \d{4}", process.output))  # by both: they have one log file
    after = shown - before
    assert set(shown) == {f"line {number:04}" for number in range(150)}
    assert {*before.values(), *after.values()} == {1}
    assert (before & after).total() <= 50  # of ten a second


async def test_nothing_is_streamed_unless_asked_for(world: World) -> None:
    async with world.worker() as process:
        run_id = await world.run("RUNNING", "print=5", "COMPLETED", **(STREAMED | {"stream_output": False}))
        await world.admin.wait_for_state(run_id, "COMPLETED")
        await process.wait_for_output("the run is Completed")
        assert await process.stop() == 0
    assert "line 0000" not in process.output


async def test_task_status_is_told_in_the_runs_logs(world: World) -> None:
    async with world.worker():
        run_id = await world.run("RUNNING", "sleep=2", "COMPLETED")
        told: list[str] = []

        async def stopped() -> bool:
            told[:] = [line["message"] for line in await world.admin.logs(run_id)]
            return any("STOPPED" in message for message in told)

        await until(stopped)
    task_id = (await world.task_of(run_id))["taskArn"].rpartition("/")[2]
    assert any("RUNNING" in message and task_id in message for message in told)
    assert len(told) == len(set(told))
