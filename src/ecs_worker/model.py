"""The values that pass from step to step of a flow run's way. All frozen: a step makes new ones."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from uuid import UUID


class Phase(StrEnum):
    """Where a flow run that this worker holds is on its way."""

    CLAIMED = "claimed"  # Pending on the server, by our claim; being rendered and defined
    LAUNCHING = "launching"  # RunTask is being asked, or waited for
    STARTING = "starting"  # the task exists and has not reached RUNNING
    RUNNING = "running"  # the task has reached RUNNING
    STOPPED = "stopped"  # the task has stopped; its end is not told yet
    ABANDONED = "abandoned"  # there is no task and will be none; the run's end is not told yet


FARGATE_PROVIDERS = frozenset({"FARGATE", "FARGATE_SPOT"})  # capacity providers; the first is a launch type, too
DEFAULT_CLUSTER = "default"  # where ECS runs tasks whose cluster nobody names


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker is: what its jobs run in, where they say nothing else.

    `region` and `account` are empty where they can't be told. `cluster` is a name or an ARN.
    """

    region: str
    account: str
    cluster: str = DEFAULT_CLUSTER

    def __str__(self) -> str:
        return f"{self.region or '?'}, {self.account or '?'}, {self.cluster}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read what `str` writes; None for any other text."""
        match text.split(", "):
            case [region, account, cluster]:
                return cls(region.strip("?"), account.strip("?"), cluster)
            case _:
                return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRun:
    """A flow run that is Pending by this worker's claim.

    `claim_id` is the claim's `transition_id`. It is the stem of RunTask's clientToken and stands in
    startedBy, so that whoever finds the claim also finds the task.
    """

    run_id: UUID
    name: str
    claim_id: UUID
    flow_id: UUID
    deployment_id: UUID | None
    job_variables: Mapping[str, Any]  # the run's own, not the deployment's
    tags: tuple[str, ...] = ()
    named_before: str = ""  # the task of an earlier attempt, which the run named when it was claimed
    claimed_in: Place | None = None  # where its claimant was, if that was another worker
    due: datetime | None = None  # when it was to start; None: not known, as it was claimed before

    def late(self) -> float | None:
        """Seconds since the run was to start; 0 before that. None: not known."""
        return max(0.0, (datetime.now(UTC) - self.due).total_seconds()) if self.due else None

    def client_token(self, attempt: int) -> str:
        """RunTask's idempotency token: at most 64 characters (RunTask, `clientToken`)."""
        return f"{self.claim_id}-{attempt}"

    @property
    def started_by(self) -> str:
        """RunTask's `startedBy`: at most 128 characters of letters, digits, `-`, `/`, `_`."""
        return f"prefect/{self.run_id}/{self.claim_id}"


@dataclass(frozen=True, slots=True)
class TaskName:
    """What a run's `infrastructure_pid` says: `<cluster>::<task ARN>`, as prefect-aws writes it.

    `cluster` is a name or an ARN. `TaskName` takes any text apart; `read` only what names an ECS task.
    """

    cluster: str
    arn: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The parts of any text; one without `::` is all `arn`."""
        cluster, _, arn = text.rpartition("::")
        return cls(cluster, arn)

    @classmethod
    def read(cls, text: str | None) -> Self | None:
        """The parts of a text that names an ECS task; None for every other."""
        return cls.parse(text) if text and _TASK_NAME.fullmatch(text) else None

    def __str__(self) -> str:
        return f"{self.cluster}::{self.arn}"

    @property
    def region(self) -> str:
        """The Region that the ARN says."""
        return self._part(3)

    @property
    def account(self) -> str:
        """The account that the ARN says."""
        return self._part(4)

    @property
    def task_id(self) -> str:
        """What log streams and consoles call the task."""
        return task_id(self.arn)

    def _part(self, number: int) -> str:
        parts = self.arn.split(":", 5)
        return parts[number] if len(parts) > number else ""


# Every partition's ARNs start with arn:aws, arn:aws-cn, arn:aws-us-gov …
_TASK_NAME = re.compile(r".*::arn:[\w-]+:ecs:[\w-]+:\d*:task/.+", re.ASCII)


def task_id(arn: str) -> str:
    """The last part of a task's ARN."""
    return arn.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class AwsCredentials:
    """What an `aws-credentials` block gives. Absent fields fall back to botocore's own chain."""

    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile_name: str | None = None
    assume_role_arn: str | None = None
    assume_role_kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    client_parameters: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def fingerprint(self) -> str:
        """Names these credentials in caches and metrics without telling them."""
        parts = [
            self.access_key_id,
            self.secret_access_key,
            self.session_token,
            self.profile_name,
            self.assume_role_arn,
            self.assume_role_kwargs,
            self.client_parameters,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, eq=False)
class AwsTarget:
    """Which account and Region a run goes to. `credentials` None means the worker's own; likewise `region`."""

    credentials: AwsCredentials | None = None
    region: str | None = None
    key: tuple[str, str] = field(init=False, repr=False)
    """Equal for targets that share clients, caches and quotas. Made once: sweeps compare it for every run."""

    def __post_init__(self) -> None:
        fingerprint = self.credentials.fingerprint if self.credentials else ""
        object.__setattr__(self, "key", (fingerprint, self.region or ""))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AwsTarget) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True, slots=True)
class LogStream:
    """Where a container's output is on CloudWatch, before the task id is known.

    awslogs names streams `prefix/container/task-id` (ECS developer guide, "Using the awslogs log driver").
    """

    group: str
    prefix: str
    container: str
    region: str | None = None

    def name(self, task_id: str) -> str:
        """The stream's full name."""
        return f"{self.prefix}/{self.container}/{task_id}"


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """One container of a task, as DescribeTasks tells it. `exit_code` None: never started, or lost."""

    name: str
    exit_code: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """An ECS task, as DescribeTasks (or an ECS task state change event) tells it."""

    arn: str
    cluster_arn: str = ""
    definition_arn: str = ""
    last_status: str = ""
    started_by: str = ""
    stop_code: str = ""
    stopped_reason: str = ""
    version: int = 0
    created_at: datetime | None = None
    started_at: datetime | None = None
    stopping_at: datetime | None = None
    stopped_at: datetime | None = None
    containers: tuple[ContainerFacts, ...] = ()

    @property
    def task_id(self) -> str:
        """What log streams and consoles call the task."""
        return task_id(self.arn)

    @property
    def stopped(self) -> bool:
        """Nothing of the task runs any more."""
        return self.last_status == "STOPPED" or self.vanished

    @property
    def vanished(self) -> bool:
        """ECS does not know the task, or not any more: what became of it can't be told."""
        return self.last_status == "DELETED"

    def container(self, name: str) -> ContainerFacts | None:
        """The container of that name, if the task has one."""
        return next((c for c in self.containers if c.name == name), None)


@dataclass(frozen=True, slots=True)
class AwsFailure:
    """One entry of `failures[]`, which ECS sends with HTTP 200."""

    arn: str = ""
    reason: str = ""
    detail: str = ""


class Output(StrEnum):
    """Where a container's CloudWatch lines are repeated (`stream_output`, `stream_output_to`)."""

    NOWHERE = "nowhere"
    WORKER = "worker"
    PREFECT = "prefect"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a run's task is, and how it is watched. Small: one is kept for each watched run.

    Times are in seconds. `cluster` is as configured; empty means the account's default cluster. `flow_name` and
    `deployment_name` are what events call the run's flow and deployment. `hide` takes the values of blocks and
    variables out of AWS's words, which may repeat what was sent.
    """

    target: AwsTarget
    cluster: str
    container: str
    log: LogStream | None = None
    output: Output = Output.NOWHERE
    side_car_logs: tuple[LogStream, ...] = ()  # of those containers whose output the job wants as well
    start_timeout: float | None = None
    max_runtime: float | None = None
    watch_interval: float | None = None  # the job's own wish (task_watch_poll_interval)
    launch_timeout: float = 900
    start_attempts: int = 3
    spot_fallback: bool = False
    flow_name: str | None = None
    deployment_name: str | None = None
    hide: Callable[[str], str] = field(default=str, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """All that launching one run needs.

    `definition` is the ARN or family to reuse as it is, or the RegisterTaskDefinition request. `run_task` is the
    RunTask request without taskDefinition, clientToken and startedBy.
    """

    placement: Placement
    definition: str | Mapping[str, Any]
    run_task: Mapping[str, Any] = field(repr=False)
    deregister: bool = False  # deregister the definition once the task has stopped
    match_latest: bool = False  # only the family's newest revision may be reused
    warnings: tuple[str, ...] = ()  # sentences about what has no effect

    @property
    def capacity(self) -> tuple[str, ...]:
        """What RunTask is asked for: the launch type, or the capacity providers; empty: the cluster's default."""
        strategy = self.run_task.get("capacityProviderStrategy") or ()
        asked = [self.run_task.get("launchType"), *(item.get("capacityProvider") for item in strategy)]
        return tuple(str(name) for name in asked if name)

    @property
    def place(self) -> tuple[AwsTarget, str, tuple[str, ...]]:
        """Where launches wait for the same capacity."""
        return self.placement.target, self.placement.cluster, self.capacity
