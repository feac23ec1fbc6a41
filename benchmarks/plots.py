"""The plots, as SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.measures import median

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_COLOURS = {"prefect-aws": "#b4552d", "ecs-worker": "#1f6f8b"}
_SVG = {"svg.hashsalt": "bench", "svg.fonttype": "none"}  # the same results give the same file

# File, title, case, figure, its scale and unit, parameter on the x axis.
_PLOTS = (
    ("launch-rate.svg", "Launches per second", "launch", "launches_per_s", 1.0, "launches/s", "runs"),
    ("launch-cpu.svg", "Worker CPU per launched run", "launch", "cpu_ms_per_run", 1.0, "ms", "runs"),
    ("watch-memory.svg", "Memory over watched tasks", "watch", "memory_mb", 1.0, "MB", "tasks"),
    ("watch-calls.svg", "AWS calls over watched tasks", "watch", "aws_calls_per_s", 60.0, "per minute", "tasks"),
)  # fmt: skip


def draw(results: Mapping[str, Any], directory: Path) -> list[tuple[str, str]]:
    """Every plot that the results hold points for: its file and title."""
    directory.mkdir(exist_ok=True)
    drawn = []
    for file, title, case, name, scale, unit, parameter in _PLOTS:
        lines = _lines(results, case, name, parameter)
        if not lines:
            continue
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for (worker, where), points in lines.items():
            x, y = zip(*sorted(points), strict=True)
            style = "--" if where == "real server" else "-"
            label = f"{worker}, {where}" if where else worker
            axes.plot(x, [scale * value for value in y], style, marker="o", color=_COLOURS[worker], label=label)
        axes.set(title=title, xlabel=parameter, ylabel=unit, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="small")
        with mpl.rc_context(_SVG):
            figure.savefig(directory / file, format="svg", metadata={"Date": None})
        drawn.append((file, title))
    return drawn


def _lines(
    results: Mapping[str, Any], case: str, name: str, parameter: str
) -> dict[tuple[str, str], list[tuple[float, float]]]:
    lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for measured in results["cases"]:
        values = [repetition[name] for repetition in measured["repetitions"] if name in repetition]
        if measured["case"] != case or not values:
            continue
        where = {None: "", True: "real server", False: "canned API"}[measured["parameters"].get("real")]
        point = (measured["parameters"][parameter], median(values))
        lines.setdefault((measured["worker"], where), []).append(point)
    return lines
