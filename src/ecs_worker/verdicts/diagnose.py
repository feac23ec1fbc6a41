"""Why a task stopped, and what to do: from what ECS tells of it. Pure.

Sources: Amazon ECS developer guide, "Stopped tasks error messages" and "Viewing Amazon ECS stopped task errors"; the
`stopCode` values of the API's Task; exit codes as shells and Docker use them (128 + the signal's number).
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from ecs_worker.verdicts.reasons import VANISHED, known_reason

if TYPE_CHECKING:
    from ecs_worker.model import ContainerFacts, LogStream, TaskFacts

# Characters of AWS's own text in a message; the rest is in the ECS console.
_MOST_EVIDENCE = 500

_CONSOLES = {
    "aws": "console.aws.amazon.com",
    "aws-cn": "console.amazonaws.cn",
    "aws-us-gov": "console.amazonaws-us-gov.com",
}

_SIGKILL = 137
_SIGTERM = 143


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a task stopped.

    `cause` and `remedy` are whole sentences (`remedy` may be empty), `evidence` is what ECS said, `exit_code` that
    of the flow's container (None: it never ran, or ECS lost it), `where` the log stream and a console link.
    """

    cause: str
    evidence: str = ""
    remedy: str = ""
    exit_code: int | None = None
    where: str = ""

    @property
    def message(self) -> str:
        """All of it, for people: one to three sentences and where to look."""
        evidence = f"ECS says: {self.evidence}" if self.evidence else ""
        return " ".join(part for part in (self.cause, self.remedy, evidence, self.where) if part)


def diagnose(task: TaskFacts, *, container: str, log: LogStream | None = None) -> Diagnosis:
    """Judge a stopped task by its flow's container, whose name is `container`.

    Side-cars' exit codes don't count, unless one took the whole task down. `log` is where the container writes.
    """
    own = task.container(container)
    cause, remedy = _by_stop_code(task) or _by_reasons(task, own) or _by_side_car(task, own) or _by_exit(task, own)
    return Diagnosis(
        cause=cause,
        evidence=_evidence(task, own),
        remedy=remedy,
        exit_code=own.exit_code if own else None,
        where=_where(task, own, log),
    )


class _Judgement(NamedTuple):
    cause: str
    remedy: str = ""


_AWAY = "Run it again; flow runs with retries resume where their results are persisted."

# Stop codes that say enough. The exit codes that follow from them (137, 143) are not causes.
_STOP_CODES = {
    "UserInitiated": _Judgement("The task was stopped on request."),
    "ServiceSchedulerInitiated": _Judgement(
        "An ECS service stopped the task.", "Don't let a service manage the tasks of flow runs."
    ),
    "SpotInterruption": _Judgement(
        "AWS took the task's Spot capacity back.", "Use FARGATE for runs that must not be interrupted."
    ),
    "TerminationNotice": _Judgement("AWS took the machine under the task away.", _AWAY),
    "InfrastructureHealth": _Judgement("AWS stopped the task since the machine under it was unhealthy.", _AWAY),
}


def _by_stop_code(task: TaskFacts) -> _Judgement | None:
    return _STOP_CODES.get(task.stop_code)


def _by_reasons(task: TaskFacts, own: ContainerFacts | None) -> _Judgement | None:
    if "health check" in task.stopped_reason.lower():
        return _Judgement(
            "The container failed its health check.",
            "Correct or remove the health check of the task definition, or give it a longer start period.",
        )
    texts = [own.reason if own else "", task.stopped_reason]
    if task.started_at is None:  # then whatever kept any container from starting kept the task
        texts += [container.reason for container in task.containers]
    known = next((verdict for text in texts if text and (verdict := known_reason(text)) and verdict.cause), None)
    return _Judgement(known.cause, known.remedy) if known else None


def _by_side_car(task: TaskFacts, own: ContainerFacts | None) -> _Judgement | None:
    """ECS ends all containers when an essential one exits: the others then show SIGTERM or SIGKILL, or nothing.

    ECS doesn't tell which one was first. A flow's container that ended otherwise ended by itself; that ECS's SIGKILL
    came after a side-car's proper end (code 0) is unlikely, as many side-cars end early by design.
    """
    if task.stop_code != "EssentialContainerExited" or own is None:
        return None
    if own.exit_code not in {None, _SIGTERM, _SIGKILL}:
        return None
    innocent = {None, _SIGTERM, _SIGKILL} | ({0} if own.exit_code == _SIGKILL else set())
    for other in task.containers:
        if other.exit_code not in innocent:
            known = known_reason(other.reason) if other.reason else None
            return _Judgement(
                f"The side-car container {other.name!r} exited with code {other.exit_code}, and ECS stopped the whole "
                f"task. {known.cause if known else ''}".strip(),
                known.remedy if known else "Look at that container's log, or set its `essential` to false.",
            )
    return None


def _by_exit(task: TaskFacts, own: ContainerFacts | None) -> _Judgement:
    if own is None or own.exit_code is None:
        if task.started_at is None and task.vanished:
            return _Judgement(VANISHED.cause, VANISHED.remedy)
        if task.started_at is None:
            return _Judgement("ECS could not start the task.", "Look at the task in the ECS console.")
        return _Judgement("The container ended, and ECS does not know how.", "Look at its log.")
    code = own.exit_code
    if code in _EXIT_CODES:
        return _EXIT_CODES[code]
    if code > _SIGNALS:
        return _Judgement(f"The container was ended by {_signal_name(code - _SIGNALS)} (exit code {code}).", _READ_LOG)
    return _Judgement(f"The container exited with code {code} before the flow run reported an end.", _READ_LOG)


_SIGNALS = 128
_READ_LOG = "Look at its log."


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


_EXIT_CODES = {
    0: _Judgement(
        "The container ended with success (exit code 0), but the flow run did not report an end.",
        "Check that the container's command executes the flow run (`prefect flow-run execute`, the default).",
    ),
    1: _Judgement(
        "The container's process failed (exit code 1) before the flow run reported an end.",
        "Look at its log: often the flow's code or a package is missing, or the Prefect API can't be reached from it.",
    ),
    2: _Judgement(
        "The container's command was called the wrong way (exit code 2).",
        "Correct the job variable `command`, or use an image whose Prefect knows the command.",
    ),
    125: _Judgement(
        "The container runtime could not run the container (exit code 125).", "Look at the task's details."
    ),
    126: _Judgement(
        "The container's command may not be executed (exit code 126).",
        "Make the file executable in the image, and built for the task's CPU architecture.",
    ),
    127: _Judgement(
        "The container's command does not exist in the image (exit code 127).",
        "Correct the job variable `command`, or use an image that has it.",
    ),
    130: _Judgement("The container's process was interrupted (SIGINT, exit code 130).", _READ_LOG),
    134: _Judgement(
        "The container's process aborted (SIGABRT, exit code 134).",
        "Look at its log: a native library gave up, often for want of memory.",
    ),
    _SIGKILL: _Judgement(
        "The container was killed (SIGKILL, exit code 137), most likely for want of memory.",
        "Raise the job variable `memory`.",
    ),
    139: _Judgement(
        "The container's process crashed (SIGSEGV, exit code 139).",
        "Look for a faulty native library, or one built for another CPU.",
    ),
    _SIGTERM: _Judgement(
        "The container was asked to end (SIGTERM, exit code 143) before the flow run reported an end.", _READ_LOG
    ),
}


def _evidence(task: TaskFacts, own: ContainerFacts | None) -> str:
    stop = ": ".join(text for text in (task.stop_code, task.stopped_reason) if text)
    details = []
    if own is not None and own.exit_code is not None:
        details.append(f"exit code {own.exit_code}")
    if own is not None and own.reason and own.reason not in stop:
        details.append(own.reason)
    container = f"container {own.name!r}: {', '.join(details)}" if own is not None and details else ""
    text = "; ".join(part for part in (stop, container) if part).strip()
    if len(text) > _MOST_EVIDENCE:
        text = f"{text[:_MOST_EVIDENCE]}…"
    return text if not text or text.endswith((".", "…")) else f"{text}."


def _where(task: TaskFacts, own: ContainerFacts | None, log: LogStream | None) -> str:
    """The log of a container that ran; the task itself otherwise."""
    parts = task.arn.split(":", 5)
    if len(parts) != 6 or not task.arn.startswith("arn:"):  # noqa: PLR2004 - an ARN's fixed fields
        return ""
    partition, region = parts[1], parts[3]
    ran = task.started_at is not None or (own is not None and own.exit_code is not None)
    if ran and log is not None:
        stream, at = log.name(task.task_id), log.region or region
        path = f"/cloudwatch/home?region={at}#logsV2:log-groups/log-group/{_in_fragment(log.group)}"
        link = _link(partition, at, f"{path}/log-events/{_in_fragment(stream)}")
        return f"Log: {log.group} {stream}{link}"
    cluster = (task.cluster_arn or task.arn.rpartition("/")[0]).rpartition("/")[2]
    return f"Task: {task.task_id}{_link(partition, region, f'/ecs/v2/clusters/{cluster}/tasks/{task.task_id}')}"


def _link(partition: str, region: str, path: str) -> str:
    domain = _CONSOLES.get(partition)
    return f" https://{region}.{domain}{path}" if domain else ""


def _in_fragment(name: str) -> str:
    """CloudWatch's console encodes names twice and writes `$` for the second `%`."""
    return quote(quote(name, safe=""), safe="").replace("%", "$")
