"""Journal: what happened to a run, told once to all who want to know: the run's logs, Prefect's events, counters.

The steps say what happened; here stands who hears it, and in which words. Nothing waits here: what is told is sent
by loops. If the process dies here, the last words may be lost; states and the output of containers are not.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from ecs_worker.prefect_api.schemas import StateType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ecs_worker.lifecycle.journal.event_feed import EventFeed
    from ecs_worker.lifecycle.journal.output import ContainerOutput
    from ecs_worker.lifecycle.journal.run_logs import RunLogs
    from ecs_worker.lifecycle.run.run import Change, Run
    from ecs_worker.prefect_api.schemas import FlowRun

log = logging.getLogger(__name__)


class Journal:
    """Tells of the runs that the worker called `worker` holds."""

    def __init__(self, run_logs: RunLogs, events: EventFeed, output: ContainerOutput, worker: str) -> None:
        self._run_logs = run_logs
        self._events = events
        self._output = output
        self._worker = worker
        self.counts: Counter[str] = Counter()
        """What happened since the start, by name: claimed, launched, adopted, ended_completed, ended_crashed …"""

    def claimed(self) -> None:
        """A run is ours."""
        self.counts["claimed"] += 1

    def has_no_effect(self, run: Run, warnings: Sequence[str]) -> None:
        """Things that the run's job says in vain."""
        for warning in warnings:
            self._tell(run, warning, logging.WARNING)

    def released(self, run: Run, why: str) -> None:
        """A claimed run is given back."""
        self._tell(run, f"No task was launched, the run is scheduled again: {why}")

    def waits(self, run: Run, seconds: float, why: str) -> None:
        """The launch waits."""
        self._tell(run, f"The launch waits {seconds:.0f} s: {why}", logging.WARNING)

    def launched(self, run: Run) -> None:
        """ECS has taken the run's task."""
        self.counts["launched"] += 1
        self._events.launched(run)
        if (task := run.task) is not None:
            facts = {"late_seconds": round(late, 1)} if (late := run.claim.late()) is not None else {}
            self._tell(run, f"ECS task {task.task_id} is {task.last_status or 'PROVISIONING'}: {task.arn}", facts=facts)

    def adopted(self, run: Run) -> None:
        """Another process launched the run's task, and this worker looks after it from now on."""
        self.counts["adopted"] += 1
        if (task := run.task) is not None:
            self._tell(run, f"ECS task {task.task_id} is watched by worker {self._worker} from now on.")

    def changed(self, run: Run, change: Change) -> None:
        """ECS says something new of the run's task."""
        if change.new_status:
            self._tell(run, f"ECS task {change.now.task_id} is {change.new_status}.")
        self._events.changed(run, change.before)
        self._output.follow(run)

    def gone(self, run: Run, change: Change) -> None:
        """ECS doesn't know the run's task any more."""
        self._tell(run, f"ECS does not know task {change.now.task_id} any more.", logging.WARNING)
        self._events.changed(run, change.before)

    def stop_asked(self, run: Run, why: str) -> None:
        """ECS has taken the order to stop the run's task."""
        if (task := run.task) is not None:
            self._tell(run, f"ECS was asked to stop task {task.task_id}: {why}", logging.WARNING)

    def starts_again(self, run: Run, why: str) -> None:
        """The run's task failed to start, and another one is launched."""
        most = run.placement.start_attempts if run.placement is not None else run.starts
        self._tell(run, f"Attempt {run.starts} of {most} failed to start and is repeated: {why}", logging.WARNING)
        self._output.show_last(run)

    def ended(self, run: Run, kind: StateType, message: str) -> None:
        """This worker has told the run's end."""
        if kind is StateType.CRASHED:
            self._output.doubt(run)
        level = logging.ERROR if kind is StateType.CRASHED else logging.INFO
        self._tell(run, f"{kind.capitalize()}: {message}", level, {"ended": kind.lower()})
        self.counts[f"ended_{kind.lower()}"] += 1

    def never_began(self, run: Run) -> None:
        """The run has crashed before it could log by itself: its containers' last lines say why."""
        self._output.show_last(run)

    def ended_itself(self, run: Run, found: FlowRun | None) -> None:
        """The run has told its end, or goes on elsewhere; `found` None: it was deleted."""
        state = found.state_type.lower() if found is not None and found.state_type else "deleted"
        text, name = "%s: its task has stopped, the run is %s.", found.state_name if found else "deleted"
        log.info(text, run.label, name, extra={"ended": state})
        self.counts[f"ended_{state}"] += 1

    def _tell(
        self, run: Run, message: str, level: int = logging.INFO, facts: Mapping[str, float | str] | None = None
    ) -> None:
        self._run_logs.tell(run.claim, message, level=level, facts=facts)
