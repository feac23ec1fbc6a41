"""ContainerOutput: show what containers write to CloudWatch where the job wants it: worker's output, run's own logs.

If the process dies here, for runs that go on:
- the run's own logs (`stream_output_to` prefect or both) tell the next worker which lines they have, so no line is lost
  or doubled; `sieve` leaves out what the container has sent there itself;
- the worker's output keeps no such mark. The next worker goes on from this one's last heartbeat, as Prefect tells it:
  what CloudWatch took in later than `OVERLAP` before that is shown, some of it again. While there is such output,
  workers beat every two seconds, so that it is little. Without a known heartbeat the lines of the last `LOOK_BACK`
  are shown again.
The last lines of a run that ends while no worker lives stay on CloudWatch: `ecs-worker logs` shows them.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import anyio

from ecs_worker.lifecycle.journal.console import logged
from ecs_worker.lifecycle.journal.reader import Reader
from ecs_worker.lifecycle.journal.sieve import LOOK_EVERY, Sieve, Strainer
from ecs_worker.lifecycle.journal.tail import MOST_DELAY, Tail
from ecs_worker.lifecycle.loops import every
from ecs_worker.model import Output, Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ecs_worker.aws.logs import LogEvent
    from ecs_worker.aws.session import Aws
    from ecs_worker.lifecycle.journal.run_logs import RunLogs
    from ecs_worker.lifecycle.journal.tail import Pace
    from ecs_worker.lifecycle.run.ledger import Ledger
    from ecs_worker.lifecycle.run.run import Launched, Run
    from ecs_worker.model import ClaimedRun, LogStream, Placement

output = logging.getLogger("ecs_worker.output")
"""The containers' own lines. They are not the worker's words, so they have a logger of their own."""

LAST_LINES = 500
LET_GO_EVERY = 2.0  # seconds between two looks for runs that are not this worker's any more
LOOK_BACK = 600.0  # seconds; ECS replaces a dead worker within a few minutes
OVERLAP = 3.0  # seconds from CloudWatch's taking a line in until it is shown: two between two looks, and the calls


@dataclass(frozen=True, slots=True)
class Shown:
    """Whose lines they are, and where they go. `since`: an earlier worker's output has what CloudWatch had before."""

    run: ClaimedRun
    container: str
    where: str
    output: Output
    since: int = 0  # ms


class ContainerOutput:
    """Follows the streams of all runs that ask for their output, and shows the last lines of those that never ran."""

    def __init__(self, aws: Aws, run_logs: RunLogs, sieve: Sieve, ledger: Ledger, pace: Pace | None = None) -> None:
        self._run_logs = run_logs
        self._ledger = ledger
        self._reader = Reader(aws, pace)
        self._sieve = sieve
        self._followed: dict[tuple[str, str], tuple[Run, Tail]] = {}  # by task and container, while the run is held
        self._strainers: dict[tuple[str, str], Strainer] = {}  # likewise, of those whose lines go to the run's logs

    def __len__(self) -> int:
        return len(self._reader) + len(self._sieve)

    def in_log(self) -> bool:
        """Whether lines of some container go to this worker's log."""
        wanted = {Output.WORKER, Output.BOTH}
        return any(run.placement is not None and run.placement.output in wanted for run, _ in self._followed.values())

    async def run(self) -> None:
        """Read for ever."""
        async with anyio.create_task_group() as loops:
            loops.start_soon(self._reader.run)
            loops.start_soon(every, LOOK_EVERY, self._sieve.look)
            await every(LET_GO_EVERY, self._let_go)

    def follow(self, run: Run) -> None:
        """Begin to read once the task has started, and know when it has stopped."""
        launched = run.launched
        if launched is None or launched.placement.output is Output.NOWHERE or launched.task.started_at is None:
            return
        to, task = launched.placement.output, launched.task
        for stream in _streams(launched.placement):
            key = (task.arn, stream.container)
            if key not in self._followed:
                since = _shown_until(run) if run.adopted else 0
                tail = self._tail(run.claim, launched, stream, to, since, key)
                if run.adopted and to is Output.WORKER:
                    tail.position = max(tail.position, since - MOST_DELAY)
                elif run.adopted:
                    tail.prepare = partial(self._find_place, run.claim, stream.container)
                self._followed[key] = (run, tail)
                self._reader.add(tail)
            if task.stopped:
                self._followed[key][1].end()

    async def _let_go(self) -> None:
        """End the reading of tasks that have stopped, and of those that are not this worker's any more."""
        for key, (run, tail) in tuple(self._followed.items()):
            launched = run.launched
            if run.phase is Phase.STOPPED:
                tail.end()
            if self._ledger.get(run.id) is not run or launched is None or launched.task.arn != key[0]:
                tail.end()
                del self._followed[key]
                self._strainers.pop(key, None)
                continue
            target = replace(launched.placement.target, region=tail.target.region)
            if target != tail.target and not tail.drained:
                self._reader.move(tail, target)

    def doubt(self, run: Run) -> None:
        """The run crashed: its container may have died before Prefect's logger sent the last lines."""
        if (launched := run.launched) is not None:
            for stream in _streams(launched.placement):
                if (strainer := self._strainers.get((launched.task.arn, stream.container))) is not None:
                    self._sieve.doubt(strainer)

    def show_last(self, run: Run) -> None:
        """Put the containers' last lines into the run's logs: the run ended before it could log by itself.

        They may come after the run's state is written, as soon as CloudWatch shows them. Does nothing when no
        container began to run, or when all lines go there anyway.
        """
        launched = run.launched
        if launched is None or launched.placement.output in {Output.PREFECT, Output.BOTH}:
            return
        for stream in _streams(launched.placement):
            own = launched.task.container(stream.container)
            if launched.task.started_at is None and (own is None or own.exit_code is None):
                continue
            tail = self._tail(run.claim, launched, stream, Output.PREFECT)
            tail.last = LAST_LINES
            tail.end()
            self._reader.add(tail)

    def _tail(
        self,
        claim: ClaimedRun,
        launched: Launched,
        stream: LogStream,
        to: Output,
        since: int = 0,
        key: tuple[str, str] | None = None,
    ) -> Tail:
        task, target = launched.task, launched.placement.target
        name = stream.name(task.task_id)
        shown = Shown(claim, stream.container, f"log stream {name} of group {stream.group}", to, since)
        strainer = None
        if key is not None and to in {Output.PREFECT, Output.BOTH}:
            strainer = self._strainers[key] = Strainer(claim, partial(self._send, shown))
        return Tail(
            target=replace(target, region=stream.region or target.region),
            group=stream.group,
            stream=name,
            sink=partial(self._pass_on, shown, strainer),
            position=_milliseconds(task.created_at) - MOST_DELAY if task.created_at else 0,
        )

    # -- after a restart

    async def _find_place(self, run: ClaimedRun, container: str, tail: Tail) -> None:
        """Read the newest of the container's lines that are in the run's logs. Raises PrefectError."""
        lines, complete = await self._run_logs.newest(run.run_id, container, MOST_DELAY / 1000)
        if lines:
            newest, oldest = lines[-1][0], lines[0][0]
            tail.close(newest - MOST_DELAY if complete else max(newest - MOST_DELAY, oldest + 1))
            tail.know(lines)

    # -- destinations

    def _pass_on(self, shown: Shown, strainer: Strainer | None, lines: Sequence[LogEvent]) -> None:
        if shown.output in {Output.WORKER, Output.BOTH} and output.isEnabledFor(logging.INFO):
            for line in lines:
                if (line.ingestion_time or line.timestamp) >= shown.since:
                    output.handle(_record(shown, line))
        if strainer is not None:
            self._sieve.take(strainer, lines)
        elif shown.output in {Output.PREFECT, Output.BOTH}:
            for line in lines:
                self._send(shown, line, _level(line))

    def _send(self, shown: Shown, line: LogEvent, level: int) -> None:
        run_id, moment = shown.run.run_id, _time(line.timestamp)
        self._run_logs.add_output(run_id, shown.container, line.message, moment, shown.where, level=level)


def _streams(placement: Placement) -> tuple[LogStream, ...]:
    return ((placement.log,) if placement.log is not None else ()) + placement.side_car_logs


def _shown_until(run: Run) -> int:
    """Before when, in CloudWatch's time of taking lines in, an earlier worker has shown them. Milliseconds."""
    seconds = run.held_until.timestamp() - OVERLAP if run.held_until is not None else time.time() - LOOK_BACK
    return int(seconds * 1000)


def _record(shown: Shown, line: LogEvent) -> logging.LogRecord:
    """The line with its own time, and its origin as fields."""
    level = max(logging.INFO, _level(line))  # who wants the output wants all of it
    record = logging.LogRecord(output.name, level, "", 0, line.message, None, None)
    record.created = line.timestamp / 1000
    record.msecs = line.timestamp % 1000
    record.flow_run_id = shown.run.run_id
    record.flow_run_name = shown.run.name
    record.container = shown.container
    return record


def _level(line: LogEvent) -> int:
    own = logged(line.message)
    return own.level if own is not None else logging.INFO


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
