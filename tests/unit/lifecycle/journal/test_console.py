"""Lines as prefect 2.20 and 3.8 wrote them."""

from __future__ import annotations

import logging

import pytest

from ecs_worker.lifecycle.journal.console import Logged, logged


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("19:56:26.284 | INFO    | Flow run 'odd - name' - hello", (logging.INFO, "Flow run", 26284, "hello")),
        ("19:56:26.333 | WARNING | Task run 't-a9a' - careful", (logging.WARNING, "Task run", 26333, "careful")),
        ("""19:56:26.333 | ERROR   | Task run "it's" - a - b | c""", (logging.ERROR, "Task run", 26333, "a - b | c")),
        ("19:56:26.348 | WARNING | my.lib - from lib", (logging.WARNING, "my.lib", 26348, "from lib")),
        ("19:56:26.000 | CRITICAL | root - ", (logging.CRITICAL, "root", 26000, "")),
        (
            "00:00:59.999 | DEBUG   | prefect.flow_runs.runner - x",
            (logging.DEBUG, "prefect.flow_runs.runner", 59999, "x"),
        ),
        (
            "\x1b[36m19:56:26.284\x1b[0m | \x1b[36mINFO\x1b[0m    | Flow run 'x' - y",
            (logging.INFO, "Flow run", 26284, "y"),
        ),
    ],
)
def test_what_a_line_says(line: str, said: tuple[int, str, int, str]) -> None:
    assert logged(line) == Logged(*said)


@pytest.mark.parametrize(
    "line",
    [
        "plain",
        "a | b | c - d",
        "Traceback (most recent call last):",
        "19:56:26.284 | LOUD    | Flow run 'x' - hello",
        "  19:56:26.284 | INFO    | Flow run 'x' - hello",
        "19:56:26 | INFO | x - y",
        "",
    ],
)
def test_what_is_no_line_of_prefect_s(line: str) -> None:
    assert logged(line) is None


@pytest.mark.parametrize(("milliseconds", "same"), [(26284, True), (26285, True), (26283, True), (26286, False)])
def test_a_time_is_the_same_in_every_time_zone_and_however_it_is_rounded(milliseconds: int, same: bool) -> None:
    line = logged("19:56:26.284 | INFO    | Flow run 'x' - hello")
    assert line is not None
    for minutes in (0, 29_000_000, 29_000_345):
        assert line.is_at(minutes * 60_000 + milliseconds) is same
