"""Commands as users give them: processes of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from support.servers.worker import command, environment

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


async def ecs_worker(
    home: Path,
    *arguments: str,
    api_url: str | None = None,
    aws_url: str | None = None,
    env: Mapping[str, str] | None = None,
    whole: bool = False,
) -> Ended:
    """`ecs-worker ARGUMENTS…`, run to its end in the directory `home`. `whole`: see servers/worker.py."""
    given = environment(home, api_url=api_url, aws_url=aws_url, extra={"COLUMNS": "200", **(env or {})})
    with TemporaryDirectory() as directory:
        out, err = Path(directory) / "out", Path(directory) / "err"
        async with command(home, list(arguments), given, log=out, errors=err, whole=whole) as process:
            code = await process.wait(60)
        return Ended(code, *(file.read_text(encoding="utf-8") if file.exists() else "" for file in (out, err)))
