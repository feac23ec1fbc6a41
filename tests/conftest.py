"""Fixtures that several test folders share: real Prefect servers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.settings import PrefectSettings
from support.servers.prefect import Admin, PrefectServer, prefect_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _nobodys_prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever runs the tests may use Prefect: neither their settings nor their proxies take part."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PREFECT_")]:
            patch.delenv(name)
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect-home")))
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        yield


@pytest.fixture(scope="session")
def session_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for the whole test session, also when pytest-xdist splits it over processes."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


@pytest.fixture(scope="session")
def prefect3(session_directory: Path) -> Iterator[PrefectServer]:
    """A Prefect 3.x server."""
    with prefect_server("3", session_directory) as server:
        yield server


@pytest.fixture(scope="session")
def prefect2(session_directory: Path) -> Iterator[PrefectServer]:
    """A Prefect 2.20 server."""
    with prefect_server("2", session_directory) as server:
        yield server


@pytest.fixture(scope="session", params=["prefect3", "prefect2"])
def prefect(request: pytest.FixtureRequest) -> PrefectServer:
    """Each server in turn."""
    server: PrefectServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
async def admin(prefect: PrefectServer) -> AsyncIterator[Admin]:
    """The administrator of `prefect`."""
    async with Admin(prefect) as administrator:
        yield administrator


@pytest.fixture
async def admin3(prefect3: PrefectServer) -> AsyncIterator[Admin]:
    """The administrator of `prefect3`."""
    async with Admin(prefect3) as administrator:
        yield administrator


@pytest.fixture
async def api(prefect: PrefectServer) -> AsyncIterator[PrefectClient]:
    """The worker's client of `prefect`."""
    async with PrefectClient(PrefectSettings(api_url=prefect.url)) as client:
        yield client


@pytest.fixture
async def api3(prefect3: PrefectServer) -> AsyncIterator[PrefectClient]:
    """The worker's client of `prefect3`."""
    async with PrefectClient(PrefectSettings(api_url=prefect3.url)) as client:
        yield client
