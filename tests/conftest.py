"""What several test folders share: the session's directory, and real Prefect servers."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
import pytest
from botocore.loaders import JSONFileLoader

from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.settings import PrefectSettings
from support.servers.prefect import Admin
from support.servers.session import session
from support.servers.shared import shared_prefect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from support.servers.prefect import PrefectServer

_DIRECTORY = pytest.StashKey[Path]()
_TOLD = "session_directory"


def pytest_configure(config: pytest.Config) -> None:
    """pytest-xdist's processes are told the directory that their controller has made."""
    if config.getoption("dist", default="no") == "loadgroup" and not hasattr(pytest.Item, "_nodeid"):
        # pytest-xdist 3.8 names groups by that field. Without it the tests of a group are spread, and nobody says so.
        raise pytest.UsageError("This pytest-xdist doesn't group tests with this pytest: use the pinned versions.")
    told = getattr(config, "workerinput", {}).get(_TOLD)
    if told:
        config.stash[_DIRECTORY] = Path(told)
    else:
        opened = ExitStack()
        config.stash[_DIRECTORY] = opened.enter_context(session())
        config.add_cleanup(opened.close)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """pytest-xdist is about to start a process."""
    node.workerinput[_TOLD] = str(node.config.stash[_DIRECTORY])


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _models_parsed_once() -> Iterator[None]:
    """Botocore parses a service's model for each session, which would be a third of all CPU that the tests take."""
    with pytest.MonkeyPatch.context() as patch:
        load = cache(JSONFileLoader().load_file)
        patch.setattr(JSONFileLoader, "load_file", lambda _, path: load(path))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The AWS of the tests speaks plain HTTP; for each client botocore reads 140 authorities all the same."""
    authority, end, _ = Path(certifi.where()).read_text(encoding="utf-8").partition("-----END CERTIFICATE-----\n")
    file = tmp_path_factory.mktemp("authorities") / "one.pem"
    file.write_text(authority + end, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_CA_BUNDLE", str(file))
        yield


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
def session_directory(pytestconfig: pytest.Config) -> Path:
    """One directory for the whole test session, also when pytest-xdist splits it over processes."""
    return pytestconfig.stash[_DIRECTORY]


@pytest.fixture
def prefect3(session_directory: Path) -> Iterator[PrefectServer]:
    """A Prefect 3.x server, the same for all."""
    with shared_prefect(session_directory, "3", "prefect3") as server:
        yield server


@pytest.fixture
def prefect2(session_directory: Path) -> Iterator[PrefectServer]:
    """A Prefect 2.20 server, the same for all."""
    with shared_prefect(session_directory, "2", "prefect2") as server:
        yield server


@pytest.fixture(params=["prefect3", "prefect2"])
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
