"""`ecs-worker local` as a user runs it."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from ecs_worker.aws.session import Aws
from support.servers.worker import environment

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

LOCAL = [sys.executable, "-m", "ecs_worker", "local"]


async def test_it_serves_and_prints_what_a_shell_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls.jsonl"
    process = await asyncio.create_subprocess_exec(
        *LOCAL,
        f"--calls-file={calls}",
        env=environment(tmp_path),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            lines = [(await process.stdout.readline()).decode() for _ in range(4)]
        exports = dict(shlex.split(line)[1].split("=", 1) for line in lines)
        assert [line.split()[0] for line in lines] == ["export"] * 4
        assert exports["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in exports.items():
            monkeypatch.setenv(name, value)
        async with Aws() as aws:
            assert await (await aws.ecs()).list_tasks("default") == []
        assert "ecs:ListTasks" in calls.read_text()
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            _, said = await process.communicate()
        assert process.returncode == 0
        assert said.decode() == "The embedded AWS serves until Ctrl-C. In the shell that is to use it:\n"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_other_machines_are_let_in_only_when_told(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *LOCAL,
        "--host=0.0.0.0",
        env=environment(tmp_path),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, said = await process.communicate()
    assert process.returncode == 2
    assert out == b""
    assert said.decode().startswith("ecs-worker: 0.0.0.0 can be reached from other machines")
