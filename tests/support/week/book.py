"""The book of the week: each run's plan and what happened to it, and all that was not as it should be."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.simulator.fleet import Task
    from support.week.script import Plan

_MOST_LINES = 20_000


@dataclass(slots=True)
class Fate:
    """What became of a run.

    `causes`: why it may be Crashed. `ran`: the tasks that really ran it, since it was scheduled or resumed last.
    `told`: the end that its flow told itself.
    """

    run_id: str
    plan: Plan
    since: float
    causes: set[str] = field(default_factory=set)
    ran: list[str] = field(default_factory=list)
    starts: int = 0
    told: str = ""
    resumed: bool = False
    cancelled: float | None = None
    deleted: float | None = None
    ended: float | None = None
    overdue: bool = False


@dataclass(frozen=True, slots=True)
class Complaint:
    """Something that must not be."""

    at: float
    what: str
    run_id: str = ""
    history: str = ""


class Book:
    """Who keeps it writes `complain`; who reads it wants `complaints` to be empty."""

    def __init__(self, start: float) -> None:
        self.start = start
        self.fates: dict[str, Fate] = {}
        self.complaints: list[Complaint] = []
        self.outcomes: Counter[str] = Counter()
        self.happened: Counter[str] = Counter()
        self.story: deque[str] = deque(maxlen=400)
        self.lines: deque[tuple[float, str, str]] = deque(maxlen=_MOST_LINES)
        self.histories: Callable[[str], str] = lambda _: ""

    def note(self, kind: str, text: str = "") -> None:
        """Something happened, as planned."""
        self.happened[kind] += 1
        self.story.append(f"{self.clock(time.time())} {kind} {text}".rstrip())

    def complain(self, what: str, run_id: str = "") -> None:
        """Something is not as it should be."""
        history = self.histories(run_id) if run_id else ""
        self.complaints.append(Complaint(time.time(), what, run_id, history))

    def ran(self, task: Task) -> None:
        """The server lets the task's flow run."""
        fate = self.fates.get(task.flow_run_id)
        if fate is None:
            return
        fate.ran.append(task.arn)
        if len(fate.ran) > 1:
            self.complain(f"{fate.plan.name} was executed twice", fate.run_id)

    def clock(self, moment: float) -> str:
        """The time as the week counts it: day, hour."""
        seconds = moment - self.start
        return f"day {int(seconds // 86_400)} {datetime.fromtimestamp(moment, UTC):%H:%M:%S}"

    def report(self) -> str:
        """All complaints, with the histories of the first few."""
        lines = [f"{self.clock(one.at)}: {one.what}" for one in self.complaints[:40]]
        lines += [f"\n== {one.what}\n{one.history}" for one in self.complaints[:6] if one.history]
        lines += ["\n== what happened", *list(self.story)[-60:]]
        return "\n".join(lines)


class Listening(logging.Handler):
    """Keeps the last lines that the workers logged, and complains of faults."""

    def __init__(self, book: Book) -> None:
        super().__init__(logging.DEBUG)
        self._book = book

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
        if record.exc_info and record.levelno >= logging.ERROR:
            self._book.complain(f"a fault: {text}")
        self._book.lines.append((time.time(), record.levelname, text))
