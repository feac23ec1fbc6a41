"""The options of the chaos tests, and the tables that they leave at the end of pytest's output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

_TABLE = "table: "


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption("--every-call", action="store_true", help="kill matrix: every call in every story")
    group.addoption("--soak-runs", type=int, default=200, help="soak: so many runs")
    group.addoption("--week-days", type=float, default=1.0, help="week: so many days")
    group.addoption("--week-seed", type=int, help="week: the seed of its script; drawn if it is not given")
    group.addoption("--week-without", default="", help="week: troubles to leave out, with commas between")


@pytest.fixture
def show(record_property: Callable[[str, object], None]) -> Callable[[str, str], None]:
    """`show(title, text)` at the end of the session, also when all went well, and from pytest-xdist's processes."""
    return lambda title, text: record_property(_TABLE + title, text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    for report in reports:
        for name, text in report.user_properties if report.when == "call" else ():
            if name.startswith(_TABLE):
                terminalreporter.section(name.removeprefix(_TABLE))
                terminalreporter.write_line(str(text))
