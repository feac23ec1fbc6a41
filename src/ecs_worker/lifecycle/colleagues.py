"""Colleagues: the pool's workers, as the looks have seen them.

Memory only: after a restart all have to show up again.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from ecs_worker.lifecycle.journal.output import LOOK_BACK
from ecs_worker.prefect_api.schemas import last_heartbeats

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import Worker
    from ecs_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

ODD_BEAT = 3.0  # seconds by which the server's word of our heartbeats may differ from ours


class Beats(Protocol):
    """This worker's own heartbeats, and what was there before."""

    @property
    def before(self) -> Mapping[str, datetime]:
        """When each worker of the pool had beaten last before this one's first heartbeat, one of its own name too."""

    @property
    def beat_at(self) -> float | None:
        """When the last one was sent, in seconds of a clock that never goes back."""


class Colleagues:
    """Looks at the workers of the pool. `counted` is told how many live, this one among them."""

    def __init__(
        self, api: PrefectClient, settings: WorkerSettings, beats: Beats, counted: Callable[[int], None]
    ) -> None:
        self._api = api
        self._settings = settings
        self._beats = beats
        self._counted = counted
        self.online: frozenset[str] = frozenset()
        """Those that beat, this worker among them."""
        self.gone = True
        """At the last look one was missing that was there before; so it is at the first look."""
        self._heard: dict[str, datetime | None] = {}
        self._lived_until: dict[str, datetime] = {}  # the others, dead or alive
        self._proven: set[str] = set()
        self._own_beat: tuple[datetime, float] | None = None
        self._twin_told = False

    async def look(self) -> None:
        """Ask the server who lives. Raises PrefectError."""
        workers = await self._api.workers(self._settings.pool, status="ONLINE")
        self._look_for_twin(workers)
        before = self.online
        self.saw(workers)
        if before - self.online:  # since the last look, which may be a while ago
            self._remember(await self._api.newest_workers(self._settings.pool))
        self._counted(len(self.online))

    def saw(self, workers: Collection[Worker]) -> None:
        """Take in the list of those that are ONLINE."""
        heard = {worker.name: worker.last_heartbeat_time for worker in workers if worker.status == "ONLINE"}
        now = frozenset(heard) | {self._settings.name}
        self.gone = bool(self.online - now) or not self.online
        self._proven = {name for name, beat in heard.items() if name in self._proven or self._beat_again(name, beat)}
        self.online, self._heard = now, heard
        self._remember(workers)

    def lived_until(self, name: str | None) -> datetime | None:
        """When the worker of that name beat last; for this one's own, before it began.

        None (a server without labels doesn't tell who held a run): the first of those that died of late.
        """
        beats = {**self._beats.before, **self._lived_until}
        if name in beats:
            return beats[name]
        alive = self.online - {self._settings.name}
        of_late = datetime.now(UTC) - timedelta(seconds=LOOK_BACK)
        return min((beat for other, beat in beats.items() if other not in alive and beat >= of_late), default=None)

    def _remember(self, workers: Iterable[Worker]) -> None:
        self._lived_until |= last_heartbeats(workers)
        self._lived_until.pop(self._settings.name, None)

    @property
    def doubtful(self) -> frozenset[str]:
        """Those that are ONLINE and have not beaten since the first look: they may have died a moment ago."""
        return self.online - self._proven - {self._settings.name}

    def _beat_again(self, name: str, beat: datetime | None) -> bool:
        return name in self._heard and self._heard[name] != beat

    def _look_for_twin(self, workers: Iterable[Worker]) -> None:
        """Two workers of one name would take each other's runs for their own: the server hears more than our beats."""
        name, sent = self._settings.name, self._beats.beat_at
        heard = next((worker.last_heartbeat_time for worker in workers if worker.name == name), None)
        if heard is None or sent is None:
            return
        if self._own_beat is not None and not self._twin_told:
            heard_before, sent_before = self._own_beat
            if abs((heard - heard_before).total_seconds() - (sent - sent_before)) > ODD_BEAT:
                self._twin_told = True
                log.warning(
                    "Another worker called %s seems to be alive in work pool %s: give each worker a --name of its own, "
                    "or they take each other's runs for theirs.",
                    name,
                    self._settings.pool,
                )
        self._own_beat = (heard, sent)
