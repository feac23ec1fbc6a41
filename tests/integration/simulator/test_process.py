"""The simulator as a process: what kill tests and benchmarks start, and how fast it is."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession

from support.clients import Clients
from support.paths import TESTS
from support.simulator.helpers import DEFINITION, code_of, run_task
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def started(*arguments: str) -> AsyncIterator[tuple[str, int]]:
    """The command's URL and process id; ended politely afterwards."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        yield json.loads(line)["url"], process.pid
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def say(http: ClientSession, method: str, url: str, what: str, body: Any = None) -> Any:
    async with http.request(method, f"{url}/__sim__/{what}", json=body) as answer:
        document = await answer.json()
        assert answer.status == 200, document
        return document


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_everything_can_be_steered_from_outside() -> None:
    async with AsyncExitStack() as stack:
        url, _ = await stack.enter_async_context(started("support.simulator", "--speed", "0", "--seed", "3"))
        http = await stack.enter_async_context(ClientSession())
        ecs = await Clients(url, stack).make("ecs")
        await say(http, "POST", url, "setup", {"clusters": ["c"], "log_groups": ["flows"], "queues": ["q"]})
        await say(http, "POST", url, "events", {"queues": ["q"]})
        await say(http, "POST", url, "script", {"running": None, "log": {"rate": 5}})
        await say(http, "POST", url, "scripts", [{"script": {"fails_in": "PENDING", "reason": "no"}, "nth": [2]}])
        await say(http, "POST", url, "faults", [{"what": ["throttle"], "action": "RunTask", "nth": [3]}])
        await ecs.register_task_definition(**DEFINITION)
        for _ in range(2):
            await ecs.run_task(**run_task(cluster="c"))
        assert await code_of(ecs.run_task(**run_task())) == "ThrottlingException"
        await say(http, "POST", url, "clock", {"advance": 60})
        tasks = await say(http, "GET", url, "tasks")
        assert [(t["lastStatus"], t.get("stoppedReason")) for t in tasks] == [("RUNNING", None), ("STOPPED", "no")]
        assert await say(http, "POST", url, "stop", {"tasks": [tasks[0]["taskArn"]], "exit_code": 4}) == {"stopped": 1}
        stats = await say(http, "GET", url, "stats")
        assert (stats["launched"], stats["stopped"], stats["faults"]) == (2, 2, {"throttle": 1})
        assert stats["calls"] == {"RegisterTaskDefinition": 1, "RunTask": 3}
        assert stats["queued"]["q"] == 8  # five statuses of the first, three of the one that fails to start


async def test_it_is_fast_enough_for_the_benchmarks() -> None:
    """Server CPU, which other load on the machine does not change: 2 ms a RunTask, 3 ms for a hundred tasks."""
    async with AsyncExitStack() as stack:
        url, pid = await stack.enter_async_context(started("support.simulator"))
        http = await stack.enter_async_context(ClientSession())
        ecs = await Clients(url, stack).make("ecs")
        await say(http, "POST", url, "setup", {"log_groups": ["flows"]})
        await say(http, "POST", url, "script", {"running": None, "log": {"rate": 5}})
        await ecs.register_task_definition(**DEFINITION)
        headers = {
            "X-Amz-Target": "AmazonEC2ContainerServiceV20141113.RunTask",
            "Content-Type": "application/x-amz-json-1.1",
        }
        before = cpu_seconds(pid)
        for n in range(500):
            async with http.post(
                url, json=run_task(startedBy="bench", clientToken=f"t-{n}"), headers=headers
            ) as answer:
                assert answer.status == 200
        launching = cpu_seconds(pid) - before
        for _ in range(950):
            async with http.post(url, json=run_task(count=10), headers=headers) as answer:
                assert answer.status == 200

        async def running() -> bool:
            return bool((await say(http, "GET", url, "stats"))["running"] == 10_000)

        await until(running, 60)
        listed = await ecs.list_tasks(startedBy="bench")
        arns = listed["taskArns"]
        headers["X-Amz-Target"] = "AmazonEC2ContainerServiceV20141113.DescribeTasks"
        before = cpu_seconds(pid)
        for _ in range(100):
            async with http.post(url, json={"tasks": arns}, headers=headers) as answer:
                assert len(await answer.read()) > 50_000
        describing = cpu_seconds(pid) - before
        assert launching / 500 < 0.002
        assert describing / 100 < 0.003


async def test_ten_thousand_log_lines_a_second() -> None:
    async with AsyncExitStack() as stack:
        url, pid = await stack.enter_async_context(started("support.simulator"))
        http = await stack.enter_async_context(ClientSession())
        ecs = await Clients(url, stack).make("ecs")
        await say(http, "POST", url, "setup", {"log_groups": ["flows"]})
        await say(http, "POST", url, "script", {"running": None, "log": {"rate": 100, "size": 120}})
        await ecs.register_task_definition(**DEFINITION)
        for _ in range(10):
            await ecs.run_task(**run_task(count=10))
        headers = {"X-Amz-Target": "Logs_20140328.FilterLogEvents", "Content-Type": "application/x-amz-json-1.1"}
        got = 0
        body: dict[str, Any] = {"logGroupName": "flows", "logStreamNamePrefix": "run/"}
        start, before = time.monotonic(), cpu_seconds(pid)
        while got < 30_000:
            assert time.monotonic() - start < 30
            async with http.post(url, json=body, headers=headers) as answer:
                page = json.loads(await answer.read())
            got += len(page["events"])
            if "nextToken" in page:
                body["nextToken"] = page["nextToken"]
            elif page["events"]:
                body.pop("nextToken", None)
                body["startTime"] = page["events"][-1]["timestamp"] + 1
        assert (cpu_seconds(pid) - before) / got < 1 / 10_000


async def test_the_proxy_is_a_command_too() -> None:
    async with AsyncExitStack() as stack:
        upstream, _ = await stack.enter_async_context(started("support.simulator", "--port", "0"))
        url, _ = await stack.enter_async_context(started("support.simulator", "proxy", "--upstream", upstream))
        http = await stack.enter_async_context(ClientSession())
        async with http.get(f"{url}/__sim__/stats") as answer:
            assert answer.status == 404  # the proxy's own control, which has no stats
        async with http.post(f"{url}/api/x", data=b"{}") as answer:
            assert answer.status == 400
        assert [call["action"] for call in await say(http, "GET", url, "calls")] == ["POST /x"]
