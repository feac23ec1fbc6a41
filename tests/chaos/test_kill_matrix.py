"""The kill matrix: the worker dies at every call of a run's way, and the run still ends once and well.

One undisturbed run of each story tells which calls there are. Then, for each call, the worker is killed while that
call is held: before it took effect (the call is lost with its sender), or after (nobody hears the answer). A call
that changes something is also held until another worker lives, and takes effect only then.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import anyio
import pytest

from support.arena import CLAIM, WORKERS, Arena
from support.simulator import FlowScript, Phase, Point, ScriptRule, TaskScript, fails_to_start
from support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers.prefect import PrefectServer
    from support.simulator import Call, Pause
    from support.simulator.faults import Director

SETTLED_WITHIN = 60.0  # real seconds from the restart, on a machine that does a dozen of these at once
AT_ONCE = 5
VICTIM, SURVIVOR = "victim", "survivor"
_AWS_CALLER = f"*app/{VICTIM}*"

Act = Callable[[Arena, str], Coroutine[object, object, None]]

_STARTING = TaskScript(provisioning=0.3, pending=0.3, activating=0.3)


class Way(StrEnum):
    """What became of the held call."""

    LOST = "lost"
    UNHEARD = "unheard"
    LATE = "late"


@dataclass(frozen=True, slots=True)
class Story:
    """A run's fate, however often its worker dies.

    The matrix has the calls from the moment that `begins` ends at. `act` is what users do meanwhile. With `afterwards`
    they do that once the worker is dead instead, and the matrix has the calls up to that moment.
    `every_call`: questions too, and not only what changes something, even without `--every-call`. (They change
    nothing that lasts: to die at one is to die after the change before it.)
    """

    name: str
    ends: str
    script: TaskScript
    cause: str = ""
    first_task: TaskScript | None = None
    tasks: int = 1
    flow_ran: int = 1
    begins: Act | None = None
    act: Act | None = None
    afterwards: Act | None = None
    every_call: bool = False
    colleague: bool = False


@dataclass(frozen=True, slots=True)
class Moment:
    """One call of a run's way. `changes`: it isn't only a question."""

    side: str
    action: str
    occurrence: int

    @property
    def changes(self) -> bool:
        if self.side == "aws":
            return not self.action.startswith(("Describe", "List", "Get", "Filter"))
        return self.action.startswith("PATCH") or "/set_state" in self.action

    @property
    def ways(self) -> tuple[Way, ...]:
        return tuple(Way) if self.changes else (Way.LOST, Way.UNHEARD)

    def point(self, way: Way) -> Point:
        phase = Phase.AFTER if way is Way.UNHEARD else Phase.BEFORE
        return Point(self.action, phase, self.occurrence, _AWS_CALLER if self.side == "aws" else WORKERS)

    def __str__(self) -> str:
        return f"{self.side:7} {self.action}" + (f" #{self.occurrence}" if self.occurrence > 1 else "")


@dataclass(slots=True)
class Matrix:
    """Seconds from the restart to the run's end, for each moment and way; None: the run had ended before."""

    story: Story
    cells: dict[Moment, dict[Way, float | None]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{'the call during which the worker dies':70}" + "".join(f"{way:>9}" for way in Way)]
        for moment, cells in self.cells.items():
            lines.append(f"{moment!s:70}" + "".join(_shown(cells, way) for way in Way))
        return "\n".join(lines)


def _shown(cells: dict[Way, float | None], way: Way) -> str:
    if way not in cells:
        return " " * 9
    seconds = cells[way]
    if seconds is None:
        return f"{'passed':>9}"
    return f"{'FAILED':>9}" if math.isnan(seconds) else f"{seconds:8.1f}s"


# -- what users do, and when a story gets interesting


async def cancel_once_launched(arena: Arena, run: str) -> None:
    await arena.task_of(run, seconds=60)
    await arena.admin.cancel(run)


async def cancel(arena: Arena, run: str) -> None:
    await arena.admin.cancel(run)


async def first_task_stopped(arena: Arena, run: str) -> None:
    task = await arena.task_of(run)

    async def stopped() -> bool:
        return task.status == "STOPPED"

    await arena.until(stopped)


async def claimed(arena: Arena, _run: str) -> None:
    """Seen at once: what follows the claim takes a tenth of a second."""

    await until(lambda: any(call.action == CLAIM and call.outcome for call in arena.proxy.calls), 20)


async def named(arena: Arena, run: str) -> None:
    async def has_name() -> bool:
        return (await arena.admin.read_run(run))["infrastructure_pid"] is not None

    await arena.until(has_name)


async def running(arena: Arena, run: str) -> None:
    await arena.admin.wait_for_state(run, "RUNNING", seconds=20)


async def launched(arena: Arena, run: str) -> None:
    await arena.task_of(run)


_COMPLETES = replace(_STARTING, flow=FlowScript(seconds=0.5))
_NEVER_STARTS = TaskScript(provisioning=None)

STORIES = {
    story.name: story
    for story in (
        Story("a run that completes", "COMPLETED", _COMPLETES, every_call=True),
        Story(
            "a run whose container dies",
            "CRASHED",
            replace(_STARTING, flow=FlowScript(seconds=0.3, ends_as=None), exit_code=3),
            cause="3",
            begins=running,
        ),
        Story(
            "a run that is cancelled while its task is provisioned",
            "CANCELLED",
            _NEVER_STARTS,
            flow_ran=0,
            act=cancel_once_launched,
            begins=launched,
        ),
        Story(
            "a run that is cancelled while no worker lives",
            "CANCELLED",
            _NEVER_STARTS,
            flow_ran=0,
            begins=named,
            afterwards=cancel,
        ),
        Story(
            "a run whose first task fails to start",
            "COMPLETED",
            _COMPLETES,
            first_task=fails_to_start("eni_timeout", provisioning=0.3),
            tasks=2,
            begins=first_task_stopped,
        ),
        Story("a run that a colleague takes over", "COMPLETED", _COMPLETES, begins=claimed, colleague=True),
    )
}


# -- one undisturbed run


async def record(story: Story, server: PrefectServer, directory: Path) -> list[Moment]:
    """The calls that the worker makes from where the story begins until the run has ended, in their order."""
    begun = 0.0
    async with Arena(server, directory) as arena, anyio.create_task_group() as meanwhile:
        if story.colleague:
            await _start_colleague(arena)
        run = await _set_out(story, arena)
        arena.worker(VICTIM)
        if story.act is not None:
            meanwhile.start_soon(story.act, arena, run)
        if story.begins is not None:
            await story.begins(arena, run)
            begun = time.monotonic()
        if story.afterwards is not None:
            await story.afterwards(arena, run)
        await arena.ends(run, story.ends)
        ended = time.monotonic()
        if story.afterwards is not None:
            begun, ended = 0.0, begun
        _judge(story, arena, run)
        calls = [("aws", call) for call in arena.aws.calls] + [("prefect", call) for call in arena.proxy.calls]
    return _moments(sorted(calls, key=lambda entry: entry[1].at), begun, ended)


def _moments(calls: list[tuple[str, Call]], begun: float, ended: float) -> list[Moment]:
    seen: Counter[tuple[str, str]] = Counter()
    moments = []
    for side, call in calls:
        if side == "prefect" and "ecs-worker" not in call.caller:
            continue
        seen[side, call.action] += 1
        # A call that was under way when the story began belongs to it.
        if call.at + call.seconds >= begun and call.at <= ended:
            moments.append(Moment(side, call.action, seen[side, call.action]))
    return moments


async def _set_out(story: Story, arena: Arena) -> str:
    arena.aws.ecs.scripts.default = story.script
    if story.first_task is not None:
        arena.aws.script(ScriptRule(script=story.first_task, nth=(1,)))
    return await arena.run()


# -- one death


async def die(
    story: Story, moment: Moment, way: Way, server: PrefectServer, directory: Path, setting_out: anyio.Lock
) -> float | None:
    """Kill the worker in that moment; seconds from the restart to the run's end. None: it wasn't reached."""
    async with Arena(server, directory) as arena, anyio.create_task_group() as meanwhile:
        if story.colleague:
            await _start_colleague(arena)
        async with setting_out:  # SQLite's server refuses most runs that are created at once
            run = await _set_out(story, arena)
        director = arena.aws.director if moment.side == "aws" else arena.proxy.director
        clock = arena.aws.clock
        # Tasks stay as they are until somebody looks after them.
        pause = director.pause_at(moment.point(way), freeze=True, held=lambda: clock.set_speed(0))
        victim = arena.worker(VICTIM)
        if story.act is not None:
            meanwhile.start_soon(story.act, arena, run)
        reached = await _reached(arena, pause, run)
        await victim.kill()
        if story.afterwards is not None:
            await story.afterwards(arena, run)
        restarted = time.monotonic()
        await _go_on(story, arena, pause, way, director)
        await _watched(arena, run)
        clock.set_speed(1)
        await arena.ends(run, story.ends, seconds=SETTLED_WITHIN)
        seconds = time.monotonic() - restarted
        await _judge_afterwards(story, arena, run)
    return seconds if reached else None


async def _go_on(story: Story, arena: Arena, pause: Pause, way: Way, director: Director) -> None:
    """Another worker takes over. The held call has its fate before, or after it has looked around."""
    if way is not Way.LATE:
        _release(pause, way, director)
    if not story.colleague:
        arena.worker(SURVIVOR, by=arena.calm)
    if way is Way.LATE:
        director.thaw()
        await _looked_around(arena)
        _release(pause, way, director)
        await _arrived(arena, pause)


async def _start_colleague(arena: Arena) -> None:
    """A worker that lives all the while, and only takes runs up, since it doesn't poll again."""
    arena.worker(SURVIVOR, by=arena.calm, ECS_WORKER_QUERY_SECONDS="3600")
    await _looked_around(arena)

    async def polled() -> bool:
        return arena.calm.director.count("POST *get_scheduled_flow_runs", WORKERS) > 0

    await arena.until(polled, SETTLED_WITHIN)


async def _looked_around(arena: Arena) -> None:
    """The survivor lives, and has looked for orphans once."""

    async def looked() -> bool:
        return arena.calm.director.count("POST /flow_runs/filter", WORKERS) > 0

    await arena.until(looked, SETTLED_WITHIN)


async def _reached(arena: Arena, pause: Pause, run: str) -> bool:
    """Whether the call comes. A sweep more or less is a matter of timing: the run may end before its last one."""
    over = time.monotonic() + SETTLED_WITHIN
    ended = False
    while time.monotonic() < over:
        with suppress(TimeoutError):
            await pause.wait(0.2)
            return True
        if not ended and (await arena.admin.read_run(run))["state_type"] in {"COMPLETED", "CRASHED", "CANCELLED"}:
            ended = True
            over = time.monotonic() + 1.0
    assert ended, f"neither the call nor the end came\n{arena.outputs()}"
    return False


async def _arrived(arena: Arena, pause: Pause) -> None:
    call = pause.call

    async def took_effect() -> bool:
        return call is None or call.effect

    await arena.until(took_effect, SETTLED_WITHIN)


def _release(pause: Pause, way: Way, director: Director) -> None:
    if way is Way.LOST:
        pause.drop()
    else:
        pause.resume()
    director.thaw()


async def _watched(arena: Arena, run: str) -> None:
    """A task that stands still in its start is known by name on its run, before it goes on."""
    tasks = arena.tasks_of(run)
    if not tasks or tasks[-1].started or tasks[-1].stopping:
        return

    async def named() -> bool:
        seen = await arena.admin.read_run(run)
        return seen["state_type"] == "CANCELLED" or str(seen["infrastructure_pid"]).endswith(tasks[-1].arn)

    await arena.until(named, SETTLED_WITHIN)


# -- the judgement


async def _judge_afterwards(story: Story, arena: Arena, run: str) -> None:
    _judge(story, arena, run)
    seen = await arena.admin.read_run(run)
    assert seen["state_type"] == story.ends, seen["state"]
    assert story.cause in (seen["state"]["message"] or ""), seen["state"]
    tasks = arena.tasks_of(run)
    if story.ends != "CANCELLED":
        assert str(seen["infrastructure_pid"]).endswith(tasks[-1].arn), (seen["infrastructure_pid"], tasks[-1].arn)


def _judge(story: Story, arena: Arena, run: str) -> None:
    tasks = arena.tasks_of(run)
    if story.ends == "CANCELLED":
        assert len(tasks) <= story.tasks, f"{len(tasks)} tasks\n{arena.outputs()}"
        assert all(task.stopping for task in tasks), f"a task lives on\n{arena.outputs()}"
    else:
        assert len(tasks) == story.tasks, f"{len(tasks)} tasks\n{arena.outputs()}"
    assert len(arena.effective(run)) == story.flow_ran, arena.outputs()
    assert "Traceback" not in arena.outputs(), arena.outputs()


@pytest.mark.anyio
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", list(STORIES))
async def test_no_death_loses_or_doubles(
    name: str,
    prefect3: PrefectServer,
    tmp_path: Path,
    show: Callable[[str, str], None],
    pytestconfig: pytest.Config,
) -> None:
    story = STORIES[name]
    every_call = story.every_call or pytestconfig.getoption("--every-call")
    matrix = Matrix(story)
    # A call that timing makes once is none that the next worker could be killed in: two rehearsals agree.
    again = set(await record(story, prefect3, tmp_path))
    moments = [moment for moment in await record(story, prefect3, tmp_path) if moment in again]
    slots, setting_out = anyio.CapacityLimiter(AT_ONCE), anyio.Lock()

    async def fill(moment: Moment, way: Way) -> None:
        async with slots:
            try:
                with anyio.fail_after(4 * SETTLED_WITHIN):
                    matrix.cells[moment][way] = await die(story, moment, way, prefect3, tmp_path, setting_out)
            except* (AssertionError, TimeoutError) as failed:
                matrix.cells[moment][way] = float("nan")
                matrix.problems.append(f"{moment}, {way}: {failed.exceptions[0]!r}")

    began = time.monotonic()
    async with anyio.create_task_group() as cells:
        for moment in moments:
            if moment.changes or every_call:
                matrix.cells[moment] = {}
                for way in moment.ways:
                    cells.start_soon(fill, moment, way)
    took = time.monotonic() - began
    seconds = [cell for cells in matrix.cells.values() for cell in cells.values()]
    worst = max((cell for cell in seconds if cell is not None and not math.isnan(cell)), default=0.0)
    number = len(seconds)
    title = f"{story.name}: {number} deaths, settled within {worst:.1f} s of the restart ({took:.0f} s in all)"
    show(title, str(matrix))
    assert number, "a story without a call tells nothing"
    assert not matrix.problems, f"{len(matrix.problems)} of {number}\n" + "\n\n".join(matrix.problems[:5])
    # One call more or less is a matter of timing.
    assert seconds.count(None) <= max(number // 5, len(Way)), (
        "most calls of an undisturbed run are made in a disturbed one too"
    )
