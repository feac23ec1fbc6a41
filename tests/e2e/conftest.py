"""The servers of the end-to-end tests, shared by all tests; each has a work pool and a cluster of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.servers.prefect import Admin
from support.servers.shared import shared_aws, shared_prefect
from support.world import AUTH_STRING, World, ecs_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from support.servers.prefect import PrefectServer


@pytest.fixture(scope="session")
def aws(session_directory: Path) -> str:
    """The embedded AWS's URL."""
    return shared_aws(session_directory, "aws")


@pytest.fixture(scope="session")
def slow_aws(session_directory: Path) -> str:
    """An embedded AWS whose tasks take some seconds for each step, as real ones do; its URL."""
    return shared_aws(session_directory, "slow_aws", step_seconds=4)


@pytest.fixture
async def ecs(aws: str) -> AsyncIterator[Any]:
    async with ecs_client(aws) as client:
        yield client


@pytest.fixture
def guarded(session_directory: Path) -> Iterator[PrefectServer]:
    """A server that wants an auth string and CSRF tokens."""
    with shared_prefect(session_directory, "3", "guarded", auth_string=AUTH_STRING, csrf=True) as server:
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
