"""The servers of the end-to-end tests, shared within a process; each test has a work pool and a cluster of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ecs_worker.local.server import EmbeddedAws, LocalSettings
from support.servers.prefect import Admin, PrefectServer, prefect_server
from support.world import AUTH_STRING, World, ecs_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
async def aws() -> AsyncIterator[str]:
    """The embedded AWS's URL."""
    async with EmbeddedAws() as served:
        yield served.url


@pytest.fixture(scope="session")
async def slow_aws() -> AsyncIterator[str]:
    """An embedded AWS whose tasks take some seconds for each step, as real ones do; its URL."""
    async with EmbeddedAws(LocalSettings(step_seconds=4)) as served:
        yield served.url


@pytest.fixture
async def ecs(aws: str) -> AsyncIterator[Any]:
    async with ecs_client(aws) as client:
        yield client


@pytest.fixture(scope="session")
def guarded(session_directory: Path) -> Iterator[PrefectServer]:
    """A server that wants an auth string and CSRF tokens."""
    with prefect_server("3", session_directory, auth_string=AUTH_STRING, csrf=True) as server:
        yield server


@pytest.fixture
async def world(admin3: Admin, aws: str, ecs: Any, tmp_path: Path) -> World:
    """On Prefect 3."""
    world = World(admin3, aws, ecs, tmp_path)
    await world.open()
    return world


@pytest.fixture
async def either_world(admin: Admin, aws: str, ecs: Any, tmp_path: Path) -> World:
    """On Prefect 3 and on Prefect 2, in turn."""
    world = World(admin, aws, ecs, tmp_path)
    await world.open()
    return world


@pytest.fixture
async def slow_world(admin3: Admin, slow_aws: str, tmp_path: Path) -> AsyncIterator[World]:
    """On Prefect 3 and the slow embedded AWS."""
    async with ecs_client(slow_aws) as client:
        world = World(admin3, slow_aws, client, tmp_path)
        await world.open()
        yield world


@pytest.fixture
async def guarded_world(guarded: PrefectServer, aws: str, ecs: Any, tmp_path: Path) -> AsyncIterator[World]:
    """On the server that wants an auth string and CSRF tokens."""
    async with Admin(guarded) as admin:
        world = World(admin, aws, ecs, tmp_path)
        await world.open()
        yield world
