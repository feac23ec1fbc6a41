"""Starts Prefect servers as forks of one process that has the imports behind it: three seconds of CPU for each.

`python prefect_forks.py SOCKET` runs in an environment with Prefect 3.x or 2.20 and needs nothing else of it. Each
connection to the socket asks for one server with a line of JSON (the arguments of `_serve`), is told its process id,
and is closed when the server has ended. All servers end with standard input.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress

import uvicorn
from prefect import context
from prefect.server.api import server
from prefect.server.database import dependencies


def main(address: str) -> None:
    gc.collect()
    gc.freeze()  # what is imported stays
    started: set[int] = set()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            started.difference_update(ended())
            connection, _ = listener.accept()
            with connection:
                started.add(fork(connection))
    for pid in started.difference(ended()):
        os.kill(pid, signal.SIGKILL)


def fork(connection: socket.socket) -> int:
    """The process id of a new server, as `connection` asks for it."""
    asked = json.loads(connection.makefile().readline())
    if pid := os.fork():
        return pid
    try:
        connection.sendall(f"{os.getpid()}\n".encode())
        _serve(**asked)
    except BaseException:  # noqa: BLE001 - whatever it is, it may not go on as the first process would
        traceback.print_exc()
    finally:
        os._exit(1)  # and with it goes its side of `connection`


def ended() -> set[int]:
    """The servers that have ended since."""
    pids = set()
    with suppress(ChildProcessError):  # there is none at all
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            pids.add(pid)
    return pids


def _serve(env: dict[str, str], directory: str, port: int, core: int) -> None:
    """Be the server as if the process had begun with this environment and directory."""
    os.setsid()  # Ctrl-C is the tests' to handle
    if hasattr(os, "sched_setaffinity"):  # Linux only
        # The threads that a server hands each query to wake up for less on one core: that saves a quarter of its CPU.
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})
    os.chdir(directory)
    output = os.open("server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor, opened in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(opened, descriptor)
    os.environ.clear()
    os.environ.update(env)
    # What the imports have read of the first process's environment is read again.
    context.GLOBAL_SETTINGS_CONTEXT = None  # or 2.20 goes on from there
    context.GLOBAL_SETTINGS_CONTEXT = context.root_settings_context()
    dependencies.set_database_config(None)
    gc.set_threshold(50_000, 20, 100)  # by default its collections are a tenth of its CPU
    uvicorn.run(server.create_app(), host="127.0.0.1", port=port, timeout_keep_alive=5, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1])
