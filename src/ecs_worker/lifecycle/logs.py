"""Logs: a container's CloudWatch lines, repeated while it runs, to the worker's output and the run's own logs.

Each stream is read forward by its token, so no line comes twice and none is left out. Reading goes on after the
task has stopped until the stream has been quiet for a while, since CloudWatch shows lines some seconds late.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from ecs_worker.errors import AwsError
from ecs_worker.model import Output

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from ecs_worker.aws.logs import LogEvent
    from ecs_worker.aws.session import Aws
    from ecs_worker.lifecycle.feed import Feed
    from ecs_worker.lifecycle.ledger import Held
    from ecs_worker.model import AwsTarget, ClaimedRun, LogStream

log = logging.getLogger(__name__)
output = logging.getLogger("ecs_worker.output")
"""The containers' own lines. They are not the worker's words, so they have a logger of their own."""

SECONDS = 2.0  # between two readings of a stream
QUIET = 10.0  # seconds without a line after the task stopped, after which a stream is at its end
AT_ONCE = 10  # streams read at the same time


@dataclass(slots=True, eq=False)
class Tail:
    """Where the reading of one container's stream has come to."""

    run: ClaimedRun
    target: AwsTarget
    stream: LogStream
    name: str
    output: Output
    token: str | None = None
    ended: bool = False
    quiet_since: float = field(default_factory=time.monotonic)


class Logs:
    """Reads the streams of all runs that ask for their output."""

    def __init__(self, aws: Aws, feed: Feed) -> None:
        self._aws = aws
        self._feed = feed
        self._tails: dict[UUID, Tail] = {}
        self._limiter = anyio.CapacityLimiter(AT_ONCE)

    def __len__(self) -> int:
        return len(self._tails)

    def follow(self, held: Held) -> None:
        """Begin to read once the task has started, and know when it has stopped."""
        task, placement = held.task, held.placement
        if task is None or placement is None or placement.log is None or placement.output is Output.NOWHERE:
            return
        tail = self._tails.get(held.run.run_id)
        if tail is None:
            if task.started_at is None:
                return
            stream = placement.log
            target = replace(placement.target, region=stream.region or placement.target.region)
            tail = Tail(held.run, target, stream, stream.name(task.task_id), placement.output)
            self._tails[held.run.run_id] = tail
        if task.stopped and not tail.ended:
            tail.ended = True
            tail.quiet_since = time.monotonic()

    async def run(self) -> None:
        """Read for ever."""
        while True:
            await self.once()
            await anyio.sleep(SECONDS)

    async def once(self) -> None:
        """Read every stream up to its present end; let go of those that have come to rest."""
        async with anyio.create_task_group() as readings:
            for tail in self._tails.values():
                readings.start_soon(self._read, tail)
        now = time.monotonic()
        for run_id, tail in tuple(self._tails.items()):
            if tail.ended and now - tail.quiet_since >= QUIET:
                del self._tails[run_id]

    async def _read(self, tail: Tail) -> None:
        async with self._limiter:
            try:
                logs = await self._aws.logs(tail.target)
                while True:
                    events, token = await logs.get_log_events(tail.stream.group, tail.name, token=tail.token)
                    self._pass_on(tail, events)
                    if token == tail.token:  # CloudWatch's sign for the present end of a stream
                        return
                    tail.token = token
            except AwsError as error:
                if error.code != "ResourceNotFoundException":  # the stream appears with its first line
                    log.warning("%s: its output can't be read now: %s", tail.run.name, error)

    def _pass_on(self, tail: Tail, events: Sequence[LogEvent]) -> None:
        if events:
            tail.quiet_since = time.monotonic()
        for event in events:
            if tail.output in {Output.WORKER, Output.BOTH}:
                extra = {"flow_run_id": tail.run.run_id, "flow_run_name": tail.run.name}
                output.info("%s | %s", tail.run.name, event.message, extra=extra)
            if tail.output in {Output.PREFECT, Output.BOTH}:
                self._feed.add(
                    tail.run.run_id,
                    event.message,
                    level=logging.INFO,
                    logger=f"ecs.{tail.stream.container}",
                    timestamp=datetime.fromtimestamp(event.timestamp / 1000, UTC),
                )
