"""A session of tests: one or several processes, with a directory and with servers that all of them use."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_ALIVE = "alive"  # a FIFO: who reads it sees its end when the session has ended, however it ended
_started: list[object] = []  # a Popen that goes would complain that its process goes on


@contextmanager
def session() -> Iterator[Path]:
    """The directory of a test session; what was started for it ends with it."""
    directory = Path(tempfile.mkdtemp(prefix="ecs-worker-tests-"))
    os.mkfifo(directory / _ALIVE)
    alive = os.open(directory / _ALIVE, os.O_RDWR)  # for reading too, as nobody else may be there to read yet
    try:
        yield directory
    finally:
        os.close(alive)
        shutil.rmtree(directory, ignore_errors=True)


def started(directory: Path, command: list[str], env: Mapping[str, str] | None = None) -> str:
    """Start a process for the whole session; the line that it writes when it is ready. It ends with standard input."""
    with (directory / _ALIVE).open("rb") as alive:
        process = subprocess.Popen(
            command,
            env=env,
            stdin=alive,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is the tests' to handle
        )
    _started.append(process)
    assert process.stdout is not None  # a pipe was asked for
    line = process.stdout.readline().strip()
    assert line, f"{command} did not start; what it wrote to standard error says why."
    return line


def once(directory: Path, name: str, start: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `start` has given to the first process of the session that asked."""
    record = directory / f"{name}.json"
    with (directory / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the others wait until it serves
        if not record.exists():
            record.write_text(json.dumps(start()))
    known: dict[str, Any] = json.loads(record.read_text())
    return known
