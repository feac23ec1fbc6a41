"""From results to words: the table of ratios on the terminal, and REPORT.md with its plots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

from benchmarks.measures import median
from benchmarks.plots import draw

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PEER, OURS = "prefect-aws", "ecs-worker"

Results = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that is to hold: of `case` (with these parameters), at most or at least `bound`.

    `ratio`: the bound is a multiple of the peer's own figure in the same run.
    """

    words: str
    case: str
    figure: str
    unit: str
    bound: float
    at_least: bool = False
    ratio: bool = False
    where: tuple[tuple[str, Any], ...] = ()


CANNED_500 = (("runs", 500), ("real", False))
REAL_200 = (("runs", 200), ("real", True))
TARGETS = (
    Target("CPU per launched run, 500 runs, canned API", "launch", "cpu_ms_per_run", "ms", 10, where=CANNED_500),
    Target("AWS calls per warm launch", "launch", "aws_calls_per_run", "", 1.0, where=CANNED_500),
    Target("Prefect API calls per launched run", "launch", "api_calls_per_run", "", 3.2, where=CANNED_500),
    Target("peak memory, burst of 500 runs", "launch", "peak_mb", "MB", 110, where=CANNED_500),
    Target("launches per second, canned API", "launch", "launches_per_s", "/s", 38, at_least=True, where=CANNED_500),
    Target(
        "launches per second, 200 runs, real server", "launch", "launches_per_s", "/s", 1.5, at_least=True, ratio=True,
        where=REAL_200,
    ),
    Target("throttles seen, AWS's own limits", "throttled", "throttled", "", 0),
    Target("start to first poll", "startup", "wall_s", "s", 0.9),
    Target("CPU to first poll", "startup", "cpu_s", "s", 0.8),
    Target("idle memory", "idle", "memory_mb", "MB", 90),
    Target("10,000 watched tasks: CPU", "watch", "cores", "cores", 0.25, where=(("tasks", 10_000),)),
    Target("10,000 watched tasks: memory", "watch", "memory_mb", "MB", 200, where=(("tasks", 10_000),)),
    Target("10,000 watched tasks: AWS calls", "watch", "aws_calls_per_s", "/s", 10, where=(("tasks", 10_000),)),
    Target("1,000 tasks stop at once: all told", "ends", "told_s", "s", 60, where=(("tasks", 1_000),)),
    Target("its bulk reads, one per 200 runs", "ends", "bulk_reads", "", 10, where=(("tasks", 1_000),)),
    Target("log streaming, 100 streams", "logs", "lines_per_s", "lines/s", 5_000, at_least=True),
    Target("lines missing or doubled", "logs", "wrong", "", 0),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A target and what came of it."""

    target: Target
    peer: float | None
    ours: float | None

    @property
    def bound(self) -> float | None:
        """The figure to reach; None when it depends on a peer's that isn't there."""
        if not self.target.ratio:
            return self.target.bound
        return self.target.bound * self.peer if self.peer is not None else None

    @property
    def met(self) -> bool | None:
        """Whether it was reached; None when it wasn't measured. What is shown rounds the same way."""
        if self.ours is None or self.bound is None:
            return None
        ours = float(f"{self.ours:.3g}")
        return ours >= self.bound if self.target.at_least else ours <= self.bound

    @property
    def cells(self) -> tuple[str, str, str, str, str, str]:
        """What, the peer's, ours, the ratio, the target, the verdict."""
        target = self.target
        sign = "≥" if target.at_least else "≤"
        bound = (
            f"{sign} {target.bound:g} times the peer"
            if target.ratio
            else f"{sign} {number(target.bound)} {target.unit}"
        )
        verdict = {True: "met", False: "missed", None: "not measured"}[self.met]
        ratio = f"{self.ours / self.peer:.2g}" if self.ours is not None and self.peer else "-"
        return target.words, shown(self.peer, target.unit), shown(self.ours, target.unit), ratio, bound.strip(), verdict


def shown(value: float | None, unit: str) -> str:
    """A figure for people."""
    return f"{number(value)} {unit}".strip() if value is not None else "-"


def number(value: float) -> str:
    """Three digits that count."""
    if value == 0 or abs(value) >= 100:  # noqa: PLR2004 - three digits
        return f"{value:,.0f}"
    return f"{float(f'{value:.3g}'):g}"


def figure(results: Results, case: str, worker: str, name: str, where: Mapping[str, Any]) -> float | None:
    """The median over the repetitions of a case; None if it wasn't measured."""
    for measured in results["cases"]:
        matches = all(measured["parameters"].get(key) == value for key, value in where.items())
        if measured["case"] == case and measured["worker"] == worker and matches:
            values = [repetition[name] for repetition in measured["repetitions"] if name in repetition]
            return median(values) if values else None
    return None


def rows(results: Results) -> list[Row]:
    """Every target, held against the results."""

    def of(target: Target, worker: str) -> float | None:
        return figure(results, target.case, worker, target.figure, dict(target.where))

    return [Row(target, of(target, PEER), of(target, OURS)) for target in TARGETS]


def table(results: Results) -> Table:
    """For the terminal."""
    made = Table("figure", PEER, OURS, "ratio", "target", "", title="prefect-aws 0.7.12 and ecs-worker, same run")
    for row in rows(results):
        style = {True: "green", False: "red", None: "dim"}[row.met]
        *cells, verdict = row.cells
        made.add_row(*cells, f"[{style}]{verdict}[/]")
    return made


def write(results: Results, directory: Path) -> Path:
    """REPORT.md and its plots. They hold nothing that isn't in the results."""
    machine = results["machine"]
    lines = [
        "# prefect-aws and ecs-worker, side by side",
        "",
        "Written by `make bench` from " + f"[`{results['file']}`](results/{results['file']}).",
        "",
        "| figure | prefect-aws 0.7.12 | ecs-worker | ratio | target | |",
        "|---|---|---|---|---|---|",
        *(f"| {' | '.join(row.cells)} |" for row in rows(results)),
        "",
        *(f"![{title}](plots/{name})" for name, title in draw(results, directory / "plots")),
        "",
        "## The machine",
        "",
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_mb']:,} MB, Linux {machine['kernel']}, "
        f"Python {machine['python']}. The Prefect server ({results['versions']['prefect']}) keeps its data in "
        f"{results['database']}. Load averages before: {machine['load_before']}, after: {results['load_after']}. "
        f"Began {results['began']}, took {results['minutes']:.0f} minutes."
        + (" A quick run: small sizes, one repetition." if results["quick"] else ""),
        "",
        *_others(results["others_share"]),
        *(line for remark in results.get("remarks", []) for line in (remark, "")),
        "## All figures",
        "",
        "Medians over the repetitions. What each means, and how it is measured: [README.md](README.md).",
        *_everything(results),
    ]
    path = directory / "REPORT.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _others(share: float | None) -> list[str]:
    """How busy the machine was with other things; None: parts ran side by side, so it isn't known."""
    if share is None:
        return []
    return [f"Of the machine's CPU, other processes than the bench's own used {100 * share:.0f} % during the run.", ""]


def _everything(results: Results) -> list[str]:
    lines: list[str] = []
    for case in dict.fromkeys(measured["case"] for measured in results["cases"]):
        of_case = [measured for measured in results["cases"] if measured["case"] == case]
        names = list(dict.fromkeys(name for one in of_case for rep in one["repetitions"] for name in rep))
        lines += ["", f"### {case}", "", f"| worker | of | n | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
        for one in of_case:
            reps = one["repetitions"]
            of = ", ".join(f"{key} {value}" for key, value in one["parameters"].items())
            cells = [
                number(median([rep[name] for rep in reps if name in rep])) if any(name in rep for rep in reps) else "-"
                for name in names
            ]
            failed = f" ({one['failed']})" if one.get("failed") else ""
            lines.append(f"| {one['worker']} | {of}{failed} | {len(reps)} | {' | '.join(cells)} |")
    return lines
