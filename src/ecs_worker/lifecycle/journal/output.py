"""Logs: what containers write to CloudWatch, repeated where the job wants it: the worker's output, the run's own logs.

What holds after a restart or a takeover, for runs that go on meanwhile:
- the run's own logs (`stream_output_to` prefect or both) tell how far they have come, so no line is lost or doubled;
- the worker's output keeps no such mark: the new process shows the last `LOOK_BACK` again.
The last lines of a run that ended while no worker lived stay on CloudWatch: `ecs-worker logs` shows them.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import anyio

from ecs_worker.lifecycle.journal.tail import LATE, Reader, Tail
from ecs_worker.model import Output, Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ecs_worker.aws.logs import LogEvent
    from ecs_worker.aws.session import Aws
    from ecs_worker.lifecycle.journal.run_logs import RunLogs
    from ecs_worker.lifecycle.journal.tail import Pace
    from ecs_worker.lifecycle.run.ledger import Held, Ledger
    from ecs_worker.model import ClaimedRun, LogStream, Placement, TaskFacts

output = logging.getLogger("ecs_worker.output")
"""The containers' own lines. They are not the worker's words, so they have a logger of their own."""

LAST_LINES = 500
SECONDS = 2.0  # between two looks at what is still this worker's
LOOK_BACK = 600.0  # seconds; ECS puts a dead worker's next one up within a few minutes


@dataclass(frozen=True, slots=True)
class Shown:
    """Whose lines they are, and where they go."""

    run: ClaimedRun
    container: str
    where: str
    output: Output


class Logs:
    """Follows the streams of all runs that ask for their output, and shows the last lines of those that never ran."""

    def __init__(self, aws: Aws, feed: RunLogs, ledger: Ledger, pace: Pace | None = None) -> None:
        self._feed = feed
        self._ledger = ledger
        self._reader = Reader(aws, pace)
        self._followed: dict[tuple[str, str], tuple[Held, Tail]] = {}  # by task and container, while the run is held

    def __len__(self) -> int:
        return len(self._reader)

    async def run(self) -> None:
        """Read for ever."""
        async with anyio.create_task_group() as loops:
            loops.start_soon(self._reader.run)
            while True:
                await anyio.sleep(SECONDS)
                self._let_go()

    def follow(self, held: Held) -> None:
        """Begin to read once the task has started, and know when it has stopped."""
        task, placement = held.task, held.placement
        if task is None or placement is None or placement.output is Output.NOWHERE or task.started_at is None:
            return
        for stream in _streams(placement):
            key = (task.arn, stream.container)
            if key not in self._followed:
                tail = self._tail(held, task, stream, placement.output)
                if held.adopted:
                    self._resume(tail, held.run, stream, placement.output)
                self._followed[key] = (held, tail)
                self._reader.add(tail)
            if task.stopped:
                self._followed[key][1].end()

    def _let_go(self) -> None:
        """Tasks that are gone from ECS, or from this worker's care: what is on the way are their last lines."""
        for key, (held, tail) in tuple(self._followed.items()):
            if held.phase is Phase.STOPPED:
                tail.end()
            if self._ledger.get(held.run.run_id) is not held or held.task is None or held.task.arn != key[0]:
                tail.end()
                del self._followed[key]

    def show_last(self, held: Held) -> None:
        """Put the containers' last lines into the run's logs: it ended before it could log by itself.

        They come while and after the state is written, as CloudWatch shows them. Does nothing when no container began
        to run, or when all lines go there anyway.
        """
        task, placement = held.task, held.placement
        if task is None or placement is None or placement.output in {Output.PREFECT, Output.BOTH}:
            return
        for stream in _streams(placement):
            own = task.container(stream.container)
            if task.started_at is None and (own is None or own.exit_code is None):
                continue
            tail = self._tail(held, task, stream, Output.PREFECT)
            tail.last = LAST_LINES
            tail.end()
            self._reader.add(tail)

    def _tail(self, held: Held, task: TaskFacts, stream: LogStream, to: Output) -> Tail:
        assert held.placement is not None, "a task was launched somewhere"
        name = stream.name(task.task_id)
        shown = Shown(held.run, stream.container, f"log stream {name} of group {stream.group}", to)
        return Tail(
            target=replace(held.placement.target, region=stream.region or held.placement.target.region),
            group=stream.group,
            stream=name,
            sink=partial(self._pass_on, shown),
            position=_milliseconds(task.created_at) - LATE if task.created_at else 0,
        )

    # -- after a restart

    def _resume(self, tail: Tail, run: ClaimedRun, stream: LogStream, to: Output) -> None:
        """Go on where the worker before came to, as far as that is known."""
        if to is Output.WORKER:
            tail.position = max(tail.position, int((time.time() - LOOK_BACK) * 1000))
        else:
            tail.prepare = partial(self._find_place, run, stream.container)

    async def _find_place(self, run: ClaimedRun, container: str, tail: Tail) -> None:
        """Read the newest of the container's lines that are in the run's logs. Raises PrefectError."""
        lines, complete = await self._feed.newest(run.run_id, container, LATE / 1000)
        if lines:
            newest, oldest = lines[-1][0], lines[0][0]
            tail.close(newest - LATE if complete else max(newest - LATE, oldest + 1))
            tail.know(lines)

    # -- destinations

    def _pass_on(self, shown: Shown, lines: Sequence[LogEvent]) -> None:
        if shown.output in {Output.WORKER, Output.BOTH} and output.isEnabledFor(logging.INFO):
            for line in lines:
                output.handle(_record(shown, line))
        if shown.output in {Output.PREFECT, Output.BOTH}:
            for line in lines:
                self._feed.add_output(
                    shown.run.run_id, shown.container, line.message, _time(line.timestamp), shown.where
                )


def _streams(placement: Placement) -> tuple[LogStream, ...]:
    return ((placement.log,) if placement.log is not None else ()) + placement.side_car_logs


def _record(shown: Shown, line: LogEvent) -> logging.LogRecord:
    """The line with its own time, and its origin as fields."""
    record = logging.LogRecord(output.name, logging.INFO, "", 0, line.message, None, None)
    record.created = line.timestamp / 1000
    record.msecs = line.timestamp % 1000
    record.flow_run_id = shown.run.run_id
    record.flow_run_name = shown.run.name
    record.container = shown.container
    return record


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
