"""The record of the requests that a Prefect API got, and what it says."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

POLL = "POST /work_pools/{name}/get_scheduled_flow_runs"
CLAIM = "POST /flow_runs/{id}/set_state"
# What a worker writes about a run; the last of them ends its launch.
WRITES = frozenset({CLAIM, "PATCH /flow_runs/{id}", "PATCH /flow_runs/{id}/labels"})


class Calls:
    """When each request came, in monotonic seconds, and its name."""

    def __init__(self, calls: Sequence[tuple[float, str]]) -> None:
        self._calls = calls

    @property
    def polls(self) -> list[float]:
        """When the worker asked for scheduled runs."""
        return [at for at, name in self._calls if name == POLL]

    def since(self, start: float, end: float | None = None) -> Calls:
        """Those from `start` to `end`."""
        return Calls([(at, name) for at, name in self._calls if at >= start and (end is None or at <= end)])

    @property
    def last_write(self) -> float | None:
        """When the last write about a run came."""
        return max((at for at, name in self._calls if name in WRITES), default=None)

    @property
    def first_claim(self) -> float | None:
        """When the first state was proposed."""
        return min((at for at, name in self._calls if name == CLAIM), default=None)

    def __len__(self) -> int:
        return len(self._calls)

    def by_name(self) -> dict[str, int]:
        """How often each came, the commonest first."""
        return dict(Counter(name for _, name in self._calls).most_common())
