"""What the Prefect API says and is told, as far as this worker uses it. Source: the API's own answers, 2.20 and 3.x."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class StateType(StrEnum):
    """The types of flow run states; a state's name is free text."""

    SCHEDULED = "SCHEDULED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    CRASHED = "CRASHED"

    @property
    def final(self) -> bool:
        """Nothing follows by itself; only a new attempt at the run leaves it."""
        return self in _FINAL


_FINAL = frozenset({StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED})


class SetStateStatus(StrEnum):
    """The server's answer to a proposed state (Prefect, `SetStateStatus`)."""

    ACCEPT = "ACCEPT"  # done
    REJECT = "REJECT"  # not done; the answer's state is what the run is in
    ABORT = "ABORT"  # not done, and not this client's to do
    WAIT = "WAIT"  # not now; again after the delay


@dataclass(frozen=True, slots=True)
class RunState:
    """A state of a flow run.

    `transition_id` is the proposer's own id of the transition, kept by the server. `lease_id` names the
    deployment concurrency slot that the transition to Pending took (3.4.9 and later).
    """

    type: StateType
    name: str
    id: UUID | None = None
    message: str | None = None
    timestamp: datetime | None = None
    transition_id: UUID | None = None
    scheduled_time: datetime | None = None
    lease_id: UUID | None = None
    data: Any = field(default=None, repr=False)  # where the result is; only Prefect reads it

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read a state as the API writes it."""
        details = raw.get("state_details") or {}
        return cls(
            type=StateType(raw["type"]),
            name=raw.get("name") or "",
            id=_uuid(raw.get("id")),
            message=raw.get("message"),
            timestamp=_time(raw.get("timestamp")),
            transition_id=_uuid(details.get("transition_id")),
            scheduled_time=_time(details.get("scheduled_time")),
            lease_id=_uuid(details.get("deployment_concurrency_lease_id")),
            data=raw.get("data"),
        )


@dataclass(frozen=True, slots=True)
class ProposedState:
    """A state to propose. One `transition_id` per logical transition: retries with it are recognised as the same."""

    type: StateType
    name: str | None = None  # None: the server names it after its type
    message: str | None = None
    transition_id: UUID | None = None
    scheduled_time: datetime | None = None
    data: Any = field(default=None, repr=False)

    def to_json(self, run_id: UUID) -> dict[str, Any]:
        """The state as `set_state` takes it. Both server lines know every key."""
        details: dict[str, Any] = {"flow_run_id": str(run_id)}
        if self.transition_id is not None:
            details["transition_id"] = str(self.transition_id)
        if self.scheduled_time is not None:
            details["scheduled_time"] = self.scheduled_time.isoformat()
        state = {"type": self.type, "name": self.name, "message": self.message, "state_details": details}
        return state if self.data is None else state | {"data": self.data}


@dataclass(frozen=True, slots=True)
class Orchestration:
    """What became of a proposed state. `state` is the run's state afterwards; `delay_seconds` only with WAIT."""

    status: SetStateStatus
    state: RunState | None = None
    reason: str = ""
    delay_seconds: float = 0

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read `set_state`'s answer; its HTTP status says nothing about the verdict."""
        details = raw.get("details") or {}
        return cls(
            status=SetStateStatus(raw["status"]),
            state=RunState.from_json(raw["state"]) if raw.get("state") else None,
            reason=details.get("reason") or "",
            delay_seconds=details.get("delay_seconds") or 0,
        )


IN_PROCESS = "in_process"  # `retry_type` of a run whose container waits to retry it


@dataclass(frozen=True, slots=True)
class FlowRun:
    """A flow run. A poll leaves `state` out but gives `state_type`, `state_name` and `state_id`.

    `infrastructure_pid` may stem from an earlier attempt. `in_process`: should it be Scheduled, that is for its own
    container to go on (Prefect's retry type `in_process`); the server gives it to nobody else.
    """

    id: UUID
    name: str
    flow_id: UUID
    deployment_id: UUID | None = None
    state_type: StateType | None = None
    state_name: str = ""
    state_id: UUID | None = None
    state: RunState | None = None
    job_variables: Mapping[str, Any] = field(default_factory=dict, repr=False)
    tags: tuple[str, ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict)  # empty on 2.20
    infrastructure_pid: str | None = None
    work_pool_name: str | None = None
    work_queue_name: str | None = None
    in_process: bool = False
    due: datetime | None = None  # while it is Scheduled

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read a flow run as the API writes it."""
        state_type = raw.get("state_type")
        return cls(
            id=UUID(raw["id"]),
            name=raw.get("name") or "",
            flow_id=UUID(raw["flow_id"]),
            deployment_id=_uuid(raw.get("deployment_id")),
            state_type=StateType(state_type) if state_type else None,
            state_name=raw.get("state_name") or "",
            state_id=_uuid(raw.get("state_id")),
            state=RunState.from_json(raw["state"]) if raw.get("state") else None,
            job_variables=raw.get("job_variables") or {},
            tags=tuple(raw.get("tags") or ()),
            labels=raw.get("labels") or {},
            infrastructure_pid=raw.get("infrastructure_pid"),
            work_pool_name=raw.get("work_pool_name"),
            work_queue_name=raw.get("work_queue_name"),
            in_process=(raw.get("empirical_policy") or {}).get("retry_type") == IN_PROCESS,
            due=_time(raw.get("next_scheduled_start_time")),
        )


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow."""

    id: UUID
    name: str

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read a flow as the API writes it."""
        return cls(id=UUID(raw["id"]), name=raw["name"])


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment. `job_variables` is called `infra_overrides` on 2.20."""

    id: UUID
    name: str
    flow_id: UUID
    updated: str = ""  # as the API writes it: it is only shown (as a label)
    job_variables: Mapping[str, Any] = field(default_factory=dict, repr=False)
    work_pool_name: str | None = None
    work_queue_name: str | None = None

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read a deployment as the API writes it."""
        return cls(
            id=UUID(raw["id"]),
            name=raw["name"],
            flow_id=UUID(raw["flow_id"]),
            updated=raw.get("updated") or "",
            job_variables=raw.get("job_variables") or raw.get("infra_overrides") or {},
            work_pool_name=raw.get("work_pool_name"),
            work_queue_name=raw.get("work_queue_name"),
        )


@dataclass(frozen=True, slots=True)
class WorkPool:
    """A work pool. `base_job_template` is `{}` when the pool was created without one."""

    id: UUID
    name: str
    type: str
    base_job_template: Mapping[str, Any] = field(default_factory=dict, repr=False)
    is_paused: bool = False
    concurrency_limit: int | None = None
    status: str = ""

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read a work pool as the API writes it."""
        return cls(
            id=UUID(raw["id"]),
            name=raw["name"],
            type=raw["type"],
            base_job_template=raw.get("base_job_template") or {},
            is_paused=bool(raw.get("is_paused")),
            concurrency_limit=raw.get("concurrency_limit"),
            status=raw.get("status") or "",
        )


@dataclass(frozen=True, slots=True)
class WorkQueue:
    """A queue of a work pool."""

    name: str
    is_paused: bool = False
    concurrency_limit: int | None = None

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read a work queue as the API writes it."""
        return cls(raw["name"], bool(raw.get("is_paused")), raw.get("concurrency_limit"))


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker of a pool. OFFLINE when its heartbeat is older than three of its intervals."""

    id: UUID
    name: str
    status: str = ""
    last_heartbeat_time: datetime | None = None

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read a worker as the API writes it."""
        return cls(
            id=UUID(raw["id"]),
            name=raw["name"],
            status=raw.get("status") or "",
            last_heartbeat_time=_time(raw.get("last_heartbeat_time")),
        )


def last_heartbeats(workers: Iterable[Worker]) -> dict[str, datetime]:
    """When each of them beat last, by name; without those that never did."""
    return {worker.name: worker.last_heartbeat_time for worker in workers if worker.last_heartbeat_time}


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One log line of a flow run. `level` is Python's number (INFO is 20)."""

    flow_run_id: UUID
    level: int
    message: str
    timestamp: datetime
    name: str = "prefect.flow_runs.worker"

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read a line as the API writes it."""
        return cls(
            flow_run_id=UUID(raw["flow_run_id"]),
            level=raw["level"],
            message=raw["message"],
            timestamp=datetime.fromisoformat(raw["timestamp"]),
            name=raw["name"],
        )

    def to_json(self) -> dict[str, Any]:
        """The entry as `POST /logs/` takes it.

        NUL can't be stored by PostgreSQL and lone surrogates aren't text: either would fail the whole batch.
        """
        message = self.message.replace("\x00", "")
        if not message.isascii():
            message = message.encode("utf-8", "replace").decode()
        return {
            "name": self.name,
            "level": self.level,
            "message": message,
            "timestamp": self.timestamp.isoformat(),
            "flow_run_id": str(self.flow_run_id),
            "task_run_id": None,
        }


def _uuid(value: str | None) -> UUID | None:
    return UUID(value) if value else None


def _time(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value) if value else None
