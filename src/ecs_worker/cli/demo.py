"""`ecs-worker demo`: show the worker at its main job, and judge whether it did it."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from ecs_worker.demo.outcome import differences
from ecs_worker.demo.stage import POOL, stage
from ecs_worker.errors import EcsWorkerError, UserError
from ecs_worker.prefect_api.schemas import StateType

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from ecs_worker.demo.outcome import Outcome, RunView
    from ecs_worker.demo.processes import Child
    from ecs_worker.demo.stage import Stage

_COLOURS = {
    StateType.COMPLETED: "green",
    StateType.RUNNING: "cyan",
    StateType.CRASHED: "red",
    StateType.FAILED: "red",
    StateType.CANCELLED: "red",
}
_LINES_SHOWN = 4  # of each container's output


def run(*, keep: bool) -> int:
    """The demo's exit code: 0 only if all came as it should. `keep` leaves everything up until Ctrl-C."""
    console = Console(highlight=False)
    try:
        return asyncio.run(_until_signal(_demo(console, keep=keep), console))
    except UserError:
        raise
    except EcsWorkerError as error:
        _print(console, f"The demo failed: {error}", "red")
        return 1


async def _until_signal(work: Coroutine[Any, Any, int], console: Console) -> int:
    """The work's exit code; or, when a signal ends it, 128 + the signal's number, once all is cleaned up.

    Clean-up takes bounded time, so further signals don't cut it short.
    """
    task = asyncio.ensure_future(work)
    came: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if not came:
            came.append(number)
            task.cancel()  # before anything is printed: SIGHUP means that the terminal is gone
            console.print(f"{number.name}: cleaning up.")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not came:
            raise
        return 128 + came[0]


async def _demo(console: Console, *, keep: bool) -> int:
    own_server = not os.environ.get("PREFECT_API_URL")
    console.print(f"Starting {'a Prefect server and ' if own_server else ''}the embedded AWS …")
    async with AsyncExitStack() as stack:
        ready = await stack.enter_async_context(stage(with_ui=keep))
        console.print(f"Prefect API: {ready.prefect_url}\nEmbedded AWS: {ready.aws_url}")
        await ready.trigger()
        console.print(f"Deployed the example flows to work pool {POOL}, and triggered {len(ready.runs)} runs.")
        worker = await stack.enter_async_context(ready.worker())
        console.print(f"$ ecs-worker start --pool {POOL}\n")
        outcome = await _follow(console, ready, worker)
        if not keep:
            await worker.stop()
            outcome = ready.outcome(outcome.runs, worker)
        code = _tell(console, outcome, worker)
        if not own_server:
            _print(console, f"The work pool {POOL}, its deployments and runs stay on your server.")
        if keep:
            _tell_kept(console, ready)
            await asyncio.Event().wait()  # Ctrl-C ends it
    return code


# -- following


async def _follow(console: Console, ready: Stage, worker: Child) -> Outcome:
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            views = await ready.follow(worker, lambda runs: live.update(_table(runs), refresh=True))
    else:
        views = await ready.follow(worker, _changes(console))
    return ready.outcome(views, worker)


def _table(runs: tuple[RunView, ...]) -> Table:
    now = datetime.now(UTC)
    table = Table(
        "Run", "Flow", Column("Job variables", overflow="fold"), "ECS task", Column("Time", justify="right"), "State"
    )
    for run in runs:
        table.add_row(
            run.planned.name,
            run.planned.flow,
            run.planned.variables,
            run.task_status,
            _seconds(run, now),
            Text(run.state_name, _COLOURS.get(run.state_type, "")),
        )
    return table


def _seconds(run: RunView, now: datetime) -> str:
    seconds = run.seconds(now)
    return f"{seconds:.1f} s" if seconds is not None else ""


def _changes(console: Console) -> Callable[[tuple[RunView, ...]], None]:
    """For files and pipes: a line whenever a run or its task has moved."""
    known: dict[str, tuple[str, str]] = {}

    def show(runs: tuple[RunView, ...]) -> None:
        for run in runs:
            seen = (run.task_status, run.state_name)
            if known.get(run.planned.name) != seen:
                known[run.planned.name] = seen
                time = datetime.now(UTC).astimezone().strftime("%H:%M:%S")
                line = f"{time} {run.planned.name} ({run.planned.flow}): {run.state_name}"
                _print(console, f"{line}, ECS task {run.task_status}" if run.tasks else line)

    return show


# -- telling what happened


def _tell(console: Console, outcome: Outcome, worker: Child) -> int:
    if not console.is_terminal:
        console.print(_table(outcome.runs))
    _tell_crashes(console, outcome)
    _tell_output(console, outcome)
    _tell_calls(console, outcome)
    wrong = differences(outcome)
    if wrong:
        _print(console, "\nNot as it should be:", "bold red")
        for sentence in wrong:
            _print(console, f"- {sentence}")
        _print(console, f"\nThe worker's last lines:\n{worker.last_lines()}")
        return 1
    _print(console, f"\nAll as it should be: {_ends(outcome)}, one ECS task for each run.", "bold green")
    return 0


def _tell_crashes(console: Console, outcome: Outcome) -> None:
    for run in outcome.runs:
        if run.state_type is StateType.CRASHED:
            _print(console, f"\nWhy {run.planned.name} is Crashed, as its state says:", "bold")
            _print(console, f"  {run.message}")


def _tell_output(console: Console, outcome: Outcome) -> None:
    _print(console, "\nThe containers' output, as the worker streamed it from CloudWatch Logs:", "bold")
    for run in outcome.runs:
        for line in run.lines[-_LINES_SHOWN:]:
            _print(console, f"  {run.planned.name} | {line}")


def _tell_calls(console: Console, outcome: Outcome) -> None:
    _print(console, "\nAWS calls that the worker made:", "bold")
    table = Table("Action", Column("Calls", justify="right"), Column("per run", justify="right"))
    for action, count in outcome.calls.items():
        table.add_row(action, str(count), f"{count / len(outcome.runs):.1f}")
    console.print(table)


def _ends(outcome: Outcome) -> str:
    names = [run.state_name for run in outcome.runs]
    return ", ".join(f"{names.count(name)} runs {name}" for name in dict.fromkeys(names)).replace("1 runs", "1 run")


def _tell_kept(console: Console, ready: Stage) -> None:
    _print(
        console, f"\nPrefect UI: {ready.ui_url}\nEmbedded AWS: {ready.aws_url} (its page: {ready.aws_url}/moto-api/)"
    )
    _print(console, f"The worker goes on, and writes to {ready.directory / 'worker.log'}. Ctrl-C ends it all.")


def _print(console: Console, text: str, style: str = "") -> None:
    """Text as it is: long lines stay whole, for those who search or copy them."""
    console.print(Text(text, style), soft_wrap=True)
