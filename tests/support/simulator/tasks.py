"""What simulated tasks do: how long they stay in each status, how they end, what they log."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

# What AWS documents for tasks that never started: name -> (status in which it happens, stoppedReason).
# (ECS developer guide, "Amazon ECS stopped tasks error messages" and its sub-pages.)
START_FAILURES: dict[str, tuple[str, str]] = {
    "image_not_found": (
        "PENDING",
        (
            "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref "
            "registry.example/flows:gone: registry.example/flows:gone: not found"
        ),
    ),
    "image_access_denied": (
        "PENDING",
        (
            "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref "
            "registry.example/private:1: pull access denied, repository does not exist or may require authorization: "
            "server message: insufficient_scope: authorization failed"
        ),
    ),
    "image_rate_limit": (
        "PENDING",
        (
            "CannotPullContainerError: pull image manifest has been retried 5 time(s): httpReadSeeker: failed open: "
            "unexpected status code 429 Too Many Requests - Server message: toomanyrequests: You have reached your "
            "pull rate limit."
        ),
    ),
    "image_timeout": (
        "PENDING",
        (
            "CannotPullContainerError: pull image manifest has been retried 5 time(s): failed to resolve ref "
            "registry.example/flows:1: failed to do request: dial tcp 192.0.2.1:443: i/o timeout"
        ),
    ),
    "image_wrong_platform": (
        "PENDING",
        "CannotPullContainerError: image Manifest does not contain descriptor matching platform 'linux/amd64'.",
    ),
    "image_disk_full": (
        "PENDING",
        (
            "CannotPullContainerError: ref pull has been retried 1 time(s): failed to extract layer: write: "
            "no space left on device: unknown"
        ),
    ),
    "secret_denied": (
        "PENDING",
        (
            "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval "
            "failed: unable to retrieve secret from asm: service call has been retried 1 time(s): failed to fetch "
            "secret arn:aws:secretsmanager:us-east-1:123456789012:secret:flow: AccessDeniedException: User is not "
            "authorized to perform: secretsmanager:GetSecretValue"
        ),
    ),
    "secret_missing": (
        "PENDING",
        (
            "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval "
            "failed: unable to retrieve secret from asm: service call has been retried 1 time(s): failed to fetch "
            "secret: ResourceNotFoundException: Secrets Manager can't find the specified secret."
        ),
    ),
    "secret_timeout": (
        "PENDING",
        (
            "ResourceInitializationError: unable to pull secrets or registry auth: The task cannot pull registry auth "
            "from Amazon ECR: There is a connection issue between the task and Amazon ECR. Check your task network "
            "configuration. RequestError: send request failed caused by: dial tcp 192.0.2.2:443: i/o timeout"
        ),
    ),
    "log_group_missing": (
        "PENDING",
        (
            "ResourceInitializationError: failed to validate logger args: The task cannot find the Amazon "
            "CloudWatch log group defined in the task definition. ResourceNotFoundException: The specified log "
            "group does not exist."
        ),
    ),
    "log_access_denied": (
        "PENDING",
        (
            "ResourceInitializationError: failed to validate logger args: create stream has been retried 1 time(s): "
            "failed to create Cloudwatch log stream: AccessDeniedException: not authorized to perform "
            "logs:CreateLogStream"
        ),
    ),
    "efs": (
        "PENDING",
        (
            "ResourceInitializationError: failed to invoke EFS utils commands to set up EFS volumes: stderr: Failed to "
            "resolve the file system's DNS name: unsuccessful EFS utils command execution; code: 1"
        ),
    ),
    "eni": (
        "PROVISIONING",
        "ResourceInitializationError: failed to configure ENI: failed to setup regular eni: context deadline exceeded",
    ),
    "eni_timeout": ("PROVISIONING", "Timeout waiting for network interface provisioning to complete."),
    "subnet_full": (
        "PROVISIONING",
        (
            "Unexpected EC2 error while attempting to Create Network Interface in subnet 'subnet-0a': "
            "InsufficientFreeAddressesInSubnet"
        ),
    ),
    "capacity": (
        "PROVISIONING",
        "Capacity is unavailable at this time. Please try again later or in a different availability zone",
    ),
    "internal_error": ("PROVISIONING", "InternalError: An internal error occurred while starting the task."),
    "resource_memory": ("PROVISIONING", "TaskFailedToStart: RESOURCE:MEMORY"),
    "resource_cpu": ("PROVISIONING", "TaskFailedToStart: RESOURCE:CPU"),
    "resource_eni": ("PROVISIONING", "TaskFailedToStart: RESOURCE:ENI"),
    "agent": ("PROVISIONING", "TaskFailedToStart: AGENT"),
    "attribute": ("PROVISIONING", "TaskFailedToStart: ATTRIBUTE"),
    "no_active_instances": ("PROVISIONING", "TaskFailedToStart: NO ACTIVE INSTANCES"),
    "empty_capacity_provider": ("PROVISIONING", "TaskFailedToStart: EMPTY CAPACITY PROVIDER"),
    "command_not_found": (
        "ACTIVATING",
        (
            "CannotStartContainerError: ResourceInitializationError: failed to create new container runtime task: "
            'OCI runtime create failed: runc create failed: exec: "prefct": executable file not found in $PATH: unknown'
        ),
    ),
    "volume": ("PENDING", "CannotCreateVolumeError: Unable to create the volume: permission denied"),
    "inspect": ("ACTIVATING", "CannotInspectContainerError: Could not transition to inspecting; timed out"),
    "runtime_timeout": (
        "ACTIVATING",
        "ContainerRuntimeTimeoutError: Could not transition to running; timed out after waiting 3m0s",
    ),
    "runtime": ("ACTIVATING", "ContainerRuntimeError: failed to create container runtime task"),
    "resource_not_found": (
        "PENDING",
        "ResourceNotFoundException: fetching secret data from SSM Parameter Store: invalid parameters",
    ),
    "spot_before_start": (
        "PENDING",
        "SpotInterruptionError: Your Spot Task was interrupted before it could start.",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerScript:
    """One container's end, when it differs from the task's."""

    exit_code: int | None = 0
    reason: str = ""
    health: Literal["HEALTHY", "UNHEALTHY", "UNKNOWN"] = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogScript:
    """What a running container writes to its stream.

    `lines` first, then `{stream} line {n}` counted from 0, `rate` of them a second until the container ends or
    `total` are written. A line becomes visible `delay` to `delay + jitter` seconds after it was written, so that
    with jitter lines arrive out of order. The stream exists from `stream_delay` after the start. Simulated seconds.
    """

    lines: tuple[str, ...] = ()
    rate: float = 0.0
    total: int | None = None
    size: int = 0  # pads generated lines to that many characters
    delay: float = 0.0
    jitter: float = 0.0
    stream_delay: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowScript:
    """The flow container plays its part on the Prefect server that its environment names.

    It sets the flow run RUNNING, works for `seconds` real seconds, then sets `ends_as` (None: it dies untold).
    With `heeds_cancel` it looks every second whether it is CANCELLING, and if so writes CANCELLED and ends.
    """

    seconds: float = 0.0
    ends_as: Literal["COMPLETED", "FAILED", "CRASHED", "PAUSED"] | None = "COMPLETED"
    heeds_cancel: bool = True
    attempts: int = 12  # per request, with up to 3 s between them, before the container gives up


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScript:
    """A task's life, in simulated seconds. None: for ever.

    `missing`: DescribeTasks and ListTasks don't know the task so long after RunTask. `fails_in`: it stops at the
    end of that status without having started, as `stop_code` and `reason` say. `stopping`: from the decision to
    stop until STOPPED. With `flow`, the flow's end decides instead of `running` and `exit_code`.
    """

    missing: float = 0.0
    provisioning: float | None = 0.1
    pending: float | None = 0.1
    activating: float | None = 0.1
    running: float | None = 1.0
    stopping: float = 0.0
    fails_in: Literal["PROVISIONING", "PENDING", "ACTIVATING"] | None = None
    exit_code: int | None = 0  # None: lost, the container is told without one
    container_reason: str = ""
    stop_code: str = "EssentialContainerExited"
    reason: str = "Essential container in task exited"
    stopped_exit_code: int | None = 143  # when StopTask ends it
    containers: dict[str, ContainerScript] = field(default_factory=dict)
    injected_containers: tuple[str, ...] = ()  # as GuardDuty's agent is
    log: LogScript | None = None
    flow: FlowScript | None = None


def fails_to_start(name: str, **changes: object) -> TaskScript:
    """A task that stops before RUNNING for one of START_FAILURES."""
    status, reason = START_FAILURES[name]
    script = TaskScript(
        fails_in=status,  # type: ignore[arg-type]  # the table above holds only statuses before RUNNING
        exit_code=None,
        stop_code="SpotInterruption" if name == "spot_before_start" else "TaskFailedToStart",
        reason=reason,
        container_reason=reason if status != "PROVISIONING" else "",
    )
    return replace(script, **changes)  # type: ignore[arg-type]  # the dataclass names and types them


def spot_interruption(after: float, exit_code: int | None = 143, **changes: object) -> TaskScript:
    """A running Spot task that AWS takes back."""
    script = TaskScript(
        running=after,
        exit_code=exit_code,
        stop_code="SpotInterruption",
        reason="Your Spot Task was interrupted.",
    )
    return replace(script, **changes)  # type: ignore[arg-type]  # the dataclass names and types them


def out_of_memory(after: float, **changes: object) -> TaskScript:
    """A container that the kernel kills for its memory."""
    script = TaskScript(
        running=after,
        exit_code=137,
        container_reason="OutOfMemoryError: Container killed due to memory usage",
    )
    return replace(script, **changes)  # type: ignore[arg-type]  # the dataclass names and types them


@dataclass(slots=True, kw_only=True)
class ScriptRule:
    """Gives `script` to launches whose request holds `containing`: to the `nth` of them (from 1), `times` at most."""

    script: TaskScript
    containing: str = ""
    nth: tuple[int, ...] = ()
    times: int | None = None
    _seen: int = 0
    _given: int = 0

    def take(self, text: str) -> TaskScript | None:
        if self.containing not in text:
            return None
        self._seen += 1
        if (self.nth and self._seen not in self.nth) or (self.times is not None and self._given >= self.times):
            return None
        self._given += 1
        return self.script


class Scripts:
    """Which script a launch gets: the first rule that takes it, else the default."""

    def __init__(self, default: TaskScript) -> None:
        self.default = default
        self._rules: list[ScriptRule] = []

    def add(self, *rules: ScriptRule) -> None:
        self._rules += rules

    def clear(self) -> None:
        self._rules.clear()

    def choose(self, text: str) -> TaskScript:
        for rule in self._rules:
            script = rule.take(text)
            if script is not None:
                return script
        return self.default
