"""`ecs-worker demo` as a user runs it: a process, at a terminal or not."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ecs_worker.demo.stage import isolate
from ecs_worker.job.variables import default_base_job_template
from support.servers.worker import environment
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.servers.prefect import Admin, PrefectServer

pytestmark = pytest.mark.anyio

DEMO = [sys.executable, "-m", "ecs_worker", "demo"]
POOL = "my-ecs-pool"
on_the_shared_server = pytest.mark.xdist_group("demo")  # one after the other, as the demo's pool has a fixed name
DEMOS_OWN = "Made by ecs-worker demo."


class Demo:
    """A demo process in a session of its own, and what it has written."""

    def __init__(self, process: asyncio.subprocess.Process, temporary: Path, log: Path) -> None:
        self._process = process
        self.temporary = temporary
        self._log = log

    @property
    def output(self) -> str:
        return self._log.read_text(encoding="utf-8")

    async def wait_for(self, text: str, seconds: float = 90) -> None:
        async def written() -> bool:
            assert self._process.returncode is None, f"It has ended:\n{self.output}"
            return text in self.output

        await until(written, seconds)

    async def ctrl_c(self) -> None:
        """As a terminal does it: to all processes of the foreground group."""
        os.killpg(self._process.pid, signal.SIGINT)

    async def wait(self, seconds: float = 170) -> int:
        async with asyncio.timeout(seconds):
            return await self._process.wait()

    def left_behind(self) -> list[str]:
        """The files in its temporary directory, and the processes that know that directory."""
        mark = str(self.temporary).encode()
        found = [path.name for path in self.temporary.iterdir()]
        for process in Path("/proc").iterdir():
            try:
                if process.name.isdigit() and mark in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # it has ended meanwhile
                continue
        return found


@asynccontextmanager
async def demo(
    tmp_path: Path, *options: str, server: PrefectServer | None = None, extra: dict[str, str] | None = None
) -> AsyncIterator[Demo]:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    env = environment(tmp_path, api_url=server.url if server else None, extra=extra) | {"TMPDIR": str(temporary)}
    log = tmp_path / "demo.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *DEMO, *options, env=env, stdout=output, stderr=output, cwd=tmp_path, start_new_session=True
        )
    running = Demo(process, temporary, log)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.terminate()  # so that it ends its children too
            await process.wait()


async def read_terminal(terminal: int) -> str:
    """All that is written to a pseudo-terminal until the last writer has closed it."""
    written = bytearray()
    ended = asyncio.Event()

    def read() -> None:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux's way to say that nobody has the other side open
            data = b""
        written.extend(data)
        if not data:
            asyncio.get_running_loop().remove_reader(terminal)
            ended.set()

    asyncio.get_running_loop().add_reader(terminal, read)
    await ended.wait()
    return written.decode()


async def test_at_a_terminal_it_shows_the_runs_live_and_ends_well(tmp_path: Path) -> None:
    terminal, side = pty.openpty()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    # None of these may reach the worker or its containers.
    mine = {
        "AWS_PROFILE": "missing",
        "ECS_WORKER_POOL": "mine",
        "PREFECT_API_KEY": "pnu_mine",
        "HTTP_PROXY": "http://x",
    }
    env = environment(tmp_path, extra=mine) | {"TMPDIR": str(temporary), "TERM": "xterm", "COLUMNS": "120"}
    process = await asyncio.create_subprocess_exec(*DEMO, env=env, stdin=side, stdout=side, stderr=side, cwd=tmp_path)
    os.close(side)
    try:
        async with asyncio.timeout(170):
            raw = await read_terminal(terminal)
            code = await process.wait()
    finally:
        os.close(terminal)
        if process.returncode is None:
            process.terminate()
            await process.wait()

    output = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw)
    assert code == 0, output
    assert "Traceback" not in output
    assert "$ ecs-worker start --pool my-ecs-pool" in output
    last = output.rpartition("┏━")[0].rpartition("┏━")[2]  # the last picture of the runs; the calls' table follows it
    assert re.findall(r"│ (\S+) +│ my-flow +│ .*│ STOPPED +│ +\S+ s │ Completed", last) == [
        "as-deployed",
        "larger",
        "greeting",
        "on-spot",
    ]
    assert re.search(r"│ crashing +│ crashing-flow +│ cpu=512 +│ STOPPED +│ +\S+ s │ Crashed", last)
    assert "RUNNING" in output, "the pictures before showed it"
    assert re.search(r"Why crashing is Crashed.*\s+.*exit code 137", output)
    assert "greeting | Hello from the container's output" in output
    assert "crashing | Reading far too large a file" in output
    assert re.search(r"│ ecs:RunTask +│ +5 │ +1\.0 │", output)
    assert "All as it should be: 4 runs Completed, 1 run Crashed, one ECS task for each run." in output
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("moment", ["Starting a Prefect server", "Prefect API:", "ECS task RUNNING"])
async def test_ctrl_c_cleans_up_at_any_moment(tmp_path: Path, moment: str) -> None:
    async with demo(tmp_path) as running:
        await running.wait_for(moment)
        assert running.left_behind(), "there is something to clean up"
        await running.ctrl_c()
        await running.ctrl_c()  # impatience changes nothing
        assert await running.wait(30) == 130
        assert "SIGINT: cleaning up." in running.output
        assert "Traceback" not in running.output
        assert running.left_behind() == []


@on_the_shared_server
async def test_with_the_users_server_interrupted_runs_are_cancelled(
    tmp_path: Path, prefect3: PrefectServer, admin3: Admin
) -> None:
    async with demo(tmp_path, server=prefect3) as running:
        await running.wait_for("ECS task RUNNING")
        assert f"Prefect API: {prefect3.url}" in running.output
        await running.ctrl_c()
        assert await running.wait(30) == 130
        assert running.left_behind() == []
    runs = await admin3.runs(POOL)
    assert len(runs) == 5
    assert {run["state_type"] for run in runs} == {"CANCELLED"}


@on_the_shared_server
async def test_what_differs_is_named_and_is_exit_code_1(tmp_path: Path, prefect3: PrefectServer, admin3: Admin) -> None:
    template = default_base_job_template()
    template["variables"]["properties"]["command"]["default"] = "sh -c 'exit 3'"
    pools = await admin3.post("/work_pools/filter", {})
    if POOL in {pool["name"] for pool in pools}:
        await admin3.call("PATCH", f"/work_pools/{POOL}", json={"base_job_template": template})
    else:
        await admin3.create_pool(POOL, description=DEMOS_OWN, base_job_template=template)
    try:
        async with demo(tmp_path, server=prefect3) as running:
            assert await running.wait() == 1
            assert "Not as it should be:" in running.output
            assert "- as-deployed is Crashed, not Completed: " in running.output
            assert "- crashing is Crashed, but its message does not name exit code 137: " in running.output
            assert "The worker's last lines:" in running.output
            assert running.left_behind() == []
    finally:
        await admin3.call("DELETE", f"/work_pools/{POOL}")


@on_the_shared_server
async def test_a_pool_of_somebody_elses_is_left_alone(tmp_path: Path, prefect3: PrefectServer, admin3: Admin) -> None:
    if POOL in {pool["name"] for pool in await admin3.post("/work_pools/filter", {})}:
        await admin3.call("DELETE", f"/work_pools/{POOL}")
    await admin3.create_pool(POOL, description="Production")
    try:
        async with demo(tmp_path, server=prefect3) as running:
            assert await running.wait(60) == 2
            assert "has a work pool my-ecs-pool that this demo did not make" in running.output
            assert "Traceback" not in running.output
            assert running.left_behind() == []
        assert await admin3.runs(POOL) == []
    finally:
        await admin3.call("DELETE", f"/work_pools/{POOL}")


async def test_a_server_that_does_not_answer_is_one_clear_sentence(tmp_path: Path) -> None:
    async with demo(tmp_path, extra={"PREFECT_API_URL": "http://127.0.0.1:9/api"}) as running:
        assert await running.wait(60) == 2
        said = "ecs-worker: No Prefect API answers at PREFECT_API_URL (http://127.0.0.1:9/api): start it, or unset the"
        assert said in running.output
        assert "Traceback" not in running.output


def test_its_environment_holds_nothing_of_the_users(tmp_path: Path) -> None:
    users = {
        "PATH": "/bin",
        "AWS_PROFILE": "production",
        "AWS_ENDPOINT_URL_ECS": "https://example.com",
        "ECS_WORKER_LIMIT": "1",
        "PREFECT_API_KEY": "pnu_example",
        "no_proxy": "example.com",
    }
    own = dict(users)
    isolate(own, tmp_path, 4200)
    assert {name: own.get(name) for name in users} == {
        "PATH": "/bin",
        "AWS_PROFILE": None,
        "AWS_ENDPOINT_URL_ECS": None,
        "ECS_WORKER_LIMIT": None,
        "PREFECT_API_KEY": None,
        "no_proxy": "example.com,127.0.0.1,localhost",
    }
    assert own["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    with_server = dict(users)
    isolate(with_server, tmp_path, None)
    assert with_server["PREFECT_API_KEY"] == "pnu_example"
    assert "PREFECT_API_URL" not in with_server
