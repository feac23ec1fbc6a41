"""Commands as users give them: processes of their own."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.servers.worker import environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


async def ecs_worker(
    home: Path, *arguments: str, api_url: str | None = None, env: Mapping[str, str] | None = None
) -> Ended:
    """`ecs-worker ARGUMENTS…`, run to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ecs_worker",
        *arguments,
        env=environment(home, api_url=api_url, extra={"COLUMNS": "200", **(env or {})}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=home,
    )
    try:
        async with asyncio.timeout(60):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())
