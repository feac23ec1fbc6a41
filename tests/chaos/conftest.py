"""The Prefect server of the chaos tests, and the tables that they leave at the end of pytest's output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from arena import SERVER

from servers.prefect import prefect_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers.prefect import PrefectServer

_TABLES = pytest.StashKey[list[tuple[str, str]]]()


@pytest.fixture(scope="session")
def stormy(session_directory: Path) -> Iterator[PrefectServer]:
    """A Prefect 3 server that notices quickly that a worker has gone."""
    with prefect_server("3", session_directory, env=SERVER) as server:
        yield server


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption("--every-call", action="store_true", help="kill matrix: every call in every story")
    group.addoption("--soak-runs", type=int, default=200, help="soak: so many runs")


@pytest.fixture
def tables(request: pytest.FixtureRequest) -> list[tuple[str, str]]:
    """Titles and texts put here are shown at the end of the session, also when all went well."""
    return request.config.stash.setdefault(_TABLES, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for title, text in config.stash.get(_TABLES, []):
        terminalreporter.section(title)
        terminalreporter.write_line(text)
