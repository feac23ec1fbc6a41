"""Containers that write to the simulator's streams, and what a reader makes of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from ecs_worker.lifecycle.journal.tail import Pace, Tail
from ecs_worker.model import AwsTarget
from support.simulator.tasks import LogScript
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ecs_worker.aws.logs import LogEvent
    from ecs_worker.lifecycle.journal.reader import Reader
    from support.simulator.aws import AwsSimulator

GROUP = "flows"
TARGET = AwsTarget(region="us-east-1")
SPEED = 50.0  # simulated seconds in a real one
# As the default pace, at that speed, but for the machine's own slowness.
PACE = Pace(tip=0.04, sweep=0.2, quiet=0.5, unseen=0.9, patience=1.4, give_up=15.0)


class Console:
    """`shown`: what each stream's sink was given, in that order."""

    def __init__(self, cloud: AwsSimulator, reader: Reader) -> None:
        self.cloud = cloud
        self.reader = reader
        self.shown: defaultdict[str, list[LogEvent]] = defaultdict(list)

    # -- containers

    def container(self, stream: str, **script: Any) -> None:
        """A container that writes from now on, as a LogScript says."""
        self.cloud.logs.open_stream(GROUP, stream, LogScript(**script), self.cloud.clock.now())

    def containers(self, number: int, **script: Any) -> list[str]:
        names = [f"run/prefect/{n:03}" for n in range(number)]
        for name in names:
            self.container(name, **script)
        return names

    def stop(self, stream: str) -> None:
        """It writes no more; its last lines may not be visible yet."""
        self.cloud.logs.groups[GROUP].streams[stream].ended = self.cloud.clock.now()

    def written(self, stream: str) -> Counter[str]:
        """Every line that was written, visible or not."""
        logs = self.cloud.logs.groups[GROUP].streams[stream]
        logs.catch_up(self.cloud.clock.now() + 10_000)
        return Counter(event.message for event in logs.visible)

    # -- readers

    def follow(self, stream: str, **fields: Any) -> Tail:
        tail = Tail(TARGET, GROUP, stream, partial(self._take, stream), **fields)
        self.reader.add(tail)
        return tail

    def _take(self, stream: str, lines: Sequence[LogEvent]) -> None:
        self.shown[stream] += lines

    def lines(self, stream: str) -> list[str]:
        return [event.message for event in self.shown[stream]]

    async def read_until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        """Let the reader run until the condition holds."""
        async with anyio.create_task_group() as running:
            running.start_soon(self.reader.run)
            await until(condition, seconds, every=0.02)
            running.cancel_scope.cancel()

    async def read_to_the_end(self, tails: Sequence[Tail], seconds: float = 20) -> None:
        """The containers stop; read until all is drained."""
        for tail in tails:
            self.stop(tail.stream)
            tail.end()
        await self.read_until(lambda: all(tail.drained for tail in tails), seconds)

    def assert_each_once(self, streams: Sequence[str], at_least: int = 1) -> None:
        for stream in streams:
            written = self.written(stream)
            assert sum(written.values()) >= at_least
            assert Counter(self.lines(stream)) == written

    def calls(self, action: str) -> int:
        return sum(call.action == action for call in self.cloud.calls)
