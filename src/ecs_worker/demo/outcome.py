"""What the demo triggers, how each run should end, and whether it did. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ecs_worker.prefect_api.schemas import StateType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from ecs_worker.model import TaskFacts

KILLED = "exit code 137"


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run to trigger, and how it should end.

    `job_variables` are the run's own, over the deployment's. `line` is part of a line that its container writes.
    """

    name: str
    flow: str
    job_variables: Mapping[str, Any]
    ends: StateType
    line: str

    @property
    def variables(self) -> str:
        """The job variables, for people."""
        return "\n".join(f"{name}={_short(value)}" for name, value in self.job_variables.items())


def _short(value: Any) -> str:
    return ",".join(f"{key}:{item}" for key, item in value.items()) if isinstance(value, dict) else str(value)


PLAN = (
    PlannedRun("as-deployed", "my-flow", {}, StateType.COMPLETED, "Good day from the container"),
    PlannedRun("larger", "my-flow", {"cpu": 2048, "memory": 4096}, StateType.COMPLETED, "Good day from the container"),
    PlannedRun("greeting", "my-flow", {"env": {"GREETING": "Hello"}}, StateType.COMPLETED, "Hello from the container"),
    PlannedRun(
        "on-spot",
        "my-flow",
        {"launch_type": "FARGATE_SPOT", "labels": {"team": "data"}},
        StateType.COMPLETED,
        "Good day from the container",
    ),
    PlannedRun("crashing", "crashing-flow", {"cpu": 512}, StateType.CRASHED, "Reading far too large a file"),
)


@dataclass(frozen=True, slots=True)
class TriggeredRun:
    """A planned run and its id on the server."""

    planned: PlannedRun
    id: UUID


@dataclass(frozen=True, slots=True)
class RunView:
    """A triggered run as it is now.

    `tasks` are all ECS tasks that were launched for it, `lines` those of its containers' output that the worker
    streamed.
    """

    planned: PlannedRun
    state_type: StateType = StateType.SCHEDULED
    state_name: str = "Scheduled"
    message: str = ""
    tasks: tuple[TaskFacts, ...] = ()
    lines: tuple[str, ...] = ()

    @property
    def task_status(self) -> str:
        """The status of its ECS task; of its tasks, if the worker launched it more than once."""
        return ", ".join(task.last_status for task in self.tasks)

    @property
    def streamed(self) -> bool:
        """Whether the worker has streamed the container's planned line."""
        return any(self.planned.line in line for line in self.lines)

    @property
    def ended(self) -> bool:
        """The run is final and its tasks have stopped; the last of its output may be on the way."""
        return self.state_type.final and all(task.stopped for task in self.tasks)

    def seconds(self, now: datetime) -> float | None:
        """How long its ECS task took, or has taken till now. None: there is none yet."""
        begun = min((task.created_at for task in self.tasks if task.created_at), default=None)
        if begun is None:
            return None
        ended = [task.stopped_at for task in self.tasks if task.stopped_at]
        until = max(ended) if len(ended) == len(self.tasks) else now
        return (until - begun).total_seconds()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it all ended. `calls` counts the worker's AWS calls by action; `worker_exit` None: it still runs."""

    runs: tuple[RunView, ...]
    calls: Mapping[str, int] = field(default_factory=dict)
    worker_exit: int | None = None


def differences(outcome: Outcome) -> list[str]:
    """What is not as it should be, a sentence each."""
    found = [sentence for run in outcome.runs for sentence in _of_run(run)]
    if outcome.worker_exit:
        found.append(f"The worker ended with exit code {outcome.worker_exit}, not 0.")
    return found


def _of_run(run: RunView) -> Iterable[str]:
    planned = run.planned
    if run.state_type is not planned.ends:
        reason = f": {run.message}" if run.message else ""
        yield f"{planned.name} is {run.state_name}, not {planned.ends.capitalize()}{reason}."
    elif planned.ends is StateType.CRASHED and KILLED not in run.message:
        yield f"{planned.name} is Crashed, but its message does not name {KILLED}: {run.message or 'it is empty'}."
    if len(run.tasks) != 1:
        yield f"{planned.name} has {len(run.tasks)} ECS tasks, not one."
    if not all(task.stopped for task in run.tasks):
        yield f"The ECS task of {planned.name} is {run.task_status}, not STOPPED."
    if not run.streamed:
        yield f"The worker did not stream {planned.line!r}, which the container of {planned.name} wrote."


def by_run(tasks: Iterable[TaskFacts]) -> dict[str, tuple[TaskFacts, ...]]:
    """ECS tasks by the flow run that their `startedBy` names (`prefect/<flow run id>/<claim id>`)."""
    groups: dict[str, tuple[TaskFacts, ...]] = {}
    for task in tasks:
        kind, _, rest = task.started_by.partition("/")
        if kind == "prefect":
            run_id = rest.partition("/")[0]
            groups[run_id] = (*groups.get(run_id, ()), task)
    return groups


def streamed(output: str, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The containers' lines in the worker's output (`12:00:00 INFO    <run> | <line>`), by the run's name."""
    lines: dict[str, tuple[str, ...]] = dict.fromkeys(names, ())
    for line in output.splitlines():
        head, bar, text = line.partition(" | ")
        words = head.split()
        if bar and words and words[-1] in lines:
            lines[words[-1]] = (*lines[words[-1]], text)
    return lines


def count_calls(entries: Sequence[Mapping[str, str]], *, without: str) -> dict[str, int]:
    """AWS calls by action, most frequent first, leaving those aside whose user agent contains `without`."""
    return dict(Counter(entry["action"] for entry in entries if without not in entry["user_agent"]).most_common())
