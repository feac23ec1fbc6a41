"""The Prefect server's database: PostgreSQL if its programs are here, else SQLite. A fresh copy for each repetition."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import asyncpg

from benchmarks.processes import measured, output_of
from support.servers.prefect import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

_START_SECONDS = 30
_USER = "postgres"


class Database:
    """Gives out migrated, empty databases. `kind`: what the report calls it."""

    def __init__(self, directory: Path, port: int | None, env: Mapping[str, str]) -> None:
        self.kind = "SQLite" if port is None else "PostgreSQL"
        self._directory = directory
        self._port = port
        self._env = env

    async def migrate(self) -> None:
        """Make the template: migrations take some ten seconds, so they are done once."""
        url = await self._new("template", None)
        command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
        env = {**self._env, "PREFECT_HOME": str(self._directory), "PREFECT_API_DATABASE_CONNECTION_URL": url}
        await asyncio.to_thread(output_of, command, env)

    async def fresh(self) -> str:
        """A new copy's connection URL; the last copy is gone."""
        return await self._new("copy", "template")

    async def _new(self, name: str, template: str | None) -> str:
        if self._port is None:
            path = self._directory / f"{name}.db"
            for old in self._directory.glob(f"{name}.db*"):
                old.unlink()
            if template is not None:
                shutil.copy(self._directory / f"{template}.db", path)
            return f"sqlite+aiosqlite:///{path}"
        connection = await asyncpg.connect(host="127.0.0.1", port=self._port, user=_USER, database="postgres")
        try:
            await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            await connection.execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        finally:
            await connection.close()
        return f"postgresql+asyncpg://{_USER}@127.0.0.1:{self._port}/{name}"


@asynccontextmanager
async def database(directory: Path, env: Mapping[str, str]) -> AsyncIterator[Database]:
    """A database server for the time of the bench, migrated."""
    async with AsyncExitStack() as stack:
        port: int | None = None
        if shutil.which("initdb") and shutil.which("postgres"):
            port = free_port()
            await _postgres(stack, directory, port)
        made = Database(directory, port, env)
        await made.migrate()
        yield made


async def _postgres(stack: AsyncExitStack, directory: Path, port: int) -> None:
    """A PostgreSQL of the bench's own. It refuses to run as root, so root runs it as the user postgres."""
    user = _USER if os.geteuid() == 0 else None
    data = Path(stack.enter_context(TemporaryDirectory(prefix="bench-postgres-")))  # not in ours: it is private to us
    if user is not None:
        shutil.chown(data, user, user)
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    init = ["initdb", "--pgdata", str(data), "--username", _USER, "--auth", "trust", "--no-sync"]
    process = await asyncio.create_subprocess_exec(
        *init, env=env, stdout=asyncio.subprocess.DEVNULL, cwd=data, user=user, group=user
    )
    if await process.wait():
        raise RuntimeError("initdb failed: see its words above.")
    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": "200",
    }
    command = ["postgres", "-D", str(data)]
    for name, value in options.items():
        command += ["-c", f"{name}={value}"]
    log = directory / "postgres.log"
    server = await stack.enter_async_context(measured(command, env, log, user=user, end=signal.SIGQUIT))
    async with asyncio.timeout(_START_SECONDS):
        while not await _answers(port):
            server.ensure_alive()
            await asyncio.sleep(0.1)


async def _answers(port: int) -> bool:
    try:
        connection = await asyncpg.connect(host="127.0.0.1", port=port, user=_USER, database="postgres")
    except (OSError, asyncpg.PostgresError):
        return False
    await connection.close()
    return True
