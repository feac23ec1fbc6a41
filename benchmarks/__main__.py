"""`python -m benchmarks`: see README.md beside this file."""

from __future__ import annotations

import asyncio
import json
import resource
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from benchmarks import measures, report
from benchmarks.database import database
from benchmarks.processes import busy_seconds, load, machine, output_of
from benchmarks.stage import KINDS, TOP, Bench, Kind, clean_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

HERE = Path(__file__).parent
PEER_TEMPLATE = (
    "import json; from prefect_aws.workers.ecs_worker import ECSWorker; "
    "print(json.dumps(ECSWorker.get_default_base_job_template()))"
)
NO_DATABASE = "no database"
console = Console()


@dataclass(frozen=True, slots=True)
class Case:
    """Something to measure. `peer`: its own parameters, where it would take too long; None: it can't do it."""

    name: str
    measure: Callable[..., Awaitable[measures.Figures]]
    parameters: dict[str, Any]
    peer: dict[str, Any] | None

    def parameters_of(self, kind: Kind) -> dict[str, Any] | None:
        """What that worker is measured with; None: it isn't."""
        return self.peer if kind == "prefect-aws" else self.parameters


def cases(*, quick: bool) -> list[Case]:
    """All cases, in their order."""
    made = [Case("startup", measures.startup, {}, {})]
    idle = {"seconds": 20 if quick else 30}
    made.append(Case("idle", measures.idle, idle, idle))
    for real in (False, True):
        for runs in (20,) if quick else (50, 200, 500):
            burst = {"runs": runs, "real": real}
            made.append(Case("launch", measures.launch, burst, burst))
    throttled = {"runs": 50 if quick else 300, "real": False, "limits": "aws"}
    made.append(Case("throttled", measures.launch, throttled, throttled | {"runs": 20 if quick else 50}))
    made += [
        Case("watch", measures.watch, {"tasks": tasks, "seconds": 20 if quick else 30}, None)
        for tasks in ((200,) if quick else (1_000, 5_000, 10_000))
    ]
    made.append(Case("ends", measures.ends, {"tasks": 100 if quick else 1_000}, {"tasks": 10 if quick else 50}))
    streams = {"streams": 10 if quick else 100, "per_second": 60.0, "seconds": 10 if quick else 40}
    made.append(Case("logs", measures.logs, streams, None))
    return made


async def measure(
    chosen: list[Case], reps: int, budget: float, peer: Path, *, quick: bool
) -> AsyncIterator[report.Results]:
    """All repetitions of all cases, the workers in turn; the results so far after each case."""
    began, busy = time.monotonic(), busy_seconds()
    results: report.Results = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {name: version(name) for name in ("prefect", "ecs-worker", "aiohttp", "aiobotocore")}
        | {"prefect-aws": version_of(peer)},
        "quick": quick,
        "cases": [],
    }
    template = json.loads(output_of([str(peer.parent / "python"), "-c", PEER_TEMPLATE], clean_environment()))
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        made = await stack.enter_async_context(database(directory, clean_environment())) if _real(chosen) else None
        results["database"] = made.kind if made is not None else NO_DATABASE
        bench = Bench(directory, made, peer, template)
        for case in chosen:
            results["cases"] += await _repeat(case, bench, reps, budget)
            own = sum(getattr(resource.getrusage(who), used) for who in (0, -1) for used in ("ru_utime", "ru_stime"))
            seconds = time.monotonic() - began
            others = max(0.0, busy_seconds() - busy - own)
            yield results | {
                "load_after": load(),
                "minutes": seconds / 60,
                "others_share": others / (seconds * results["machine"]["cores"]),
            }


def _real(chosen: list[Case]) -> bool:
    return any(case.name == "idle" or case.parameters.get("real") for case in chosen)


async def _repeat(case: Case, bench: Bench, reps: int, budget: float) -> list[dict[str, Any]]:
    """Interleaved: one repetition for each worker, then the next. A worker whose time is up repeats no more."""
    kinds = [kind for kind in KINDS if case.parameters_of(kind) is not None]
    made: dict[Kind, dict[str, Any]] = {
        kind: {"case": case.name, "worker": kind, "parameters": case.parameters_of(kind), "repetitions": []}
        for kind in kinds
    }
    spent = dict.fromkeys(kinds, 0.0)
    for repetition in range(reps):
        for kind in kinds:
            if repetition and spent[kind] * (repetition + 1) / repetition > budget:
                continue
            start = time.monotonic()
            try:
                figures = await case.measure(bench, kind, **made[kind]["parameters"])
            except (TimeoutError, RuntimeError) as error:
                # What a worker can't do is a result, too; the report says so.
                made[kind]["failed"] = str(error).splitlines()[0]
                console.print(f"[red]{case.name} {kind}: {error}[/]")
                continue
            finally:
                spent[kind] += time.monotonic() - start
            if "missing" in figures:
                figures["wrong"] = figures["missing"] + figures["doubled"]
            made[kind]["repetitions"].append(figures)
            told = ", ".join(f"{name} {report.number(value)}" for name, value in figures.items())
            console.print(f"{case.name} {made[kind]['parameters']} {kind}: {told}", highlight=False)
    return list(made.values())


def merged(before: report.Results, results: report.Results) -> report.Results:
    """The cases measured anew instead of those of before. The run that the report tells of is all of it."""
    minutes = before["minutes"] + results["minutes"]
    parts = [part for part in (before, results) if part["others_share"] is not None]
    busy = sum(part["minutes"] * part["others_share"] for part in parts)
    anew = {case["case"] for case in results["cases"]}
    kept = [case for case in before["cases"] if case["case"] not in anew]
    return results | {
        "began": before["began"],
        "machine": before["machine"],
        "database": before["database"] if results["database"] == NO_DATABASE else results["database"],
        "cases": kept + results["cases"],
        "minutes": minutes,
        "others_share": busy / minutes if len(parts) > 1 else None,
    }


def version_of(peer: Path) -> str:
    """The peer's version."""
    code = "from importlib.metadata import version; print(version('prefect-aws'))"
    return output_of([str(peer.parent / "python"), "-c", code], clean_environment()).strip()


def main(
    peer: Annotated[Path, typer.Option(help="The `prefect` command of the peer's environment.")],
    only: Annotated[list[str] | None, typer.Option(help="Measure these cases only; repeatable.")] = None,
    reps: Annotated[int, typer.Option(min=1, help="Repetitions of each case.")] = 3,
    budget: Annotated[float, typer.Option(help="Seconds for all repetitions of a case for one worker.")] = 240,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, to see that it works; no report.")] = False,
) -> None:
    """Measure prefect-aws's ECS worker and ecs-worker side by side."""
    known = {case.name for case in cases(quick=quick)}
    if unknown := set(only or ()) - known:
        raise typer.BadParameter(f"no such case: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    chosen = [case for case in cases(quick=quick) if not only or case.name in only]
    path = HERE / "results" / f"{datetime.now(UTC):%Y-%m-%d}.json"
    path.parent.mkdir(exist_ok=True)
    before = json.loads(path.read_text(encoding="utf-8")) if only and path.exists() else None

    async def run() -> report.Results:
        results: report.Results = {}
        async for so_far in measure(chosen, reps, budget, peer.absolute(), quick=quick):
            results = so_far if before is None else merged(before, so_far)
            results["file"] = path.name
            if not quick:  # after each case, so that what takes an hour isn't lost by what comes last
                path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        return results

    results = asyncio.run(run())
    console.print(report.table(results))
    if not quick:
        console.print(f"Report: {report.write(results, HERE).relative_to(TOP)}")


if __name__ == "__main__":
    typer.run(main)
