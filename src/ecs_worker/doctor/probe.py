"""Probe: launch one real task of a deployment, which asks the Prefect API from inside, and tell how far it comes.

The task is the deployment's own: its image, network, roles, secrets and environment; only its command is another, a
few lines of Python, which every image that runs flows has. It reports back by its exit code: ECS tells that to whoever
may describe tasks, whether the container has a log or not; a log only adds the line that it wrote.

No flow run is made. If this process dies, the task ends by itself within a minute of its start, and its task definition
stays, which costs nothing.
"""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio

from ecs_worker.doctor.finding import Finding, Group, Line
from ecs_worker.errors import AwsError, EcsWorkerError
from ecs_worker.job.requests import flow_container_name, log_streams
from ecs_worker.lifecycle.define import DIGEST_TAG, registration
from ecs_worker.model import AwsTarget
from ecs_worker.verdicts.classify import Kind, classify
from ecs_worker.verdicts.diagnose import diagnose

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ecs_worker.aws.ecs import Ecs, Progress
    from ecs_worker.aws.session import Aws
    from ecs_worker.job.job import Job
    from ecs_worker.model import AwsFailure, LogStream

STARTED_BY = "ecs-worker-doctor"
TAG = {"ecs-worker:probe": "true"}
LONGEST = 900.0  # seconds from the launch to the end; large images on new instances take minutes
_LOOK_EVERY = 1.0  # seconds
_CLEAN_UP = 20.0  # seconds, also when it is broken off
_LAST_LINES = 5
_SCRIPT = (importlib.resources.files("ecs_worker.doctor") / "inside.py").read_text(encoding="utf-8")

# What inside.py exits with → what that means, and what to do about it.
_ANSWERS = {
    40: ("the container has no PREFECT_API_URL", "Set PREFECT_API_URL for the worker, or in the deployment's env."),
    41: (
        "the name in PREFECT_API_URL isn't known in the task's network",
        "Correct PREFECT_API_URL, or let the VPC's DNS resolve that name.",
    ),
    42: (
        "nobody answers at PREFECT_API_URL from the task's network",
        "Let the server's security group or firewall accept these subnets, or give them a route there.",
    ),
    43: (
        "the certificate of the Prefect API isn't trusted in the container",
        "Put the CA into the image, and its path into PREFECT_API_SSL_CERT_FILE.",
    ),
    44: (
        "the Prefect API refuses the container's credentials",
        "Give it the right one: prefect_api_key_secret_arn, or prefect_api_auth_string_secret_arn.",
    ),
    45: (
        "what answers at PREFECT_API_URL from the task's network isn't Prefect's API",
        "Correct PREFECT_API_URL: it ends in /api, on Cloud in …/workspaces/ID.",
    ),
}


@dataclass(frozen=True)
class _Patient:
    """What is launched, and where."""

    job: Job
    target: AwsTarget
    cluster: str
    container: str
    log: LogStream | None


class Probe:
    """Probes one job at a time. `tell` is given each step as soon as it is done."""

    def __init__(
        self, aws: Aws, tell: Callable[[Finding], None], longest: float = LONGEST, every: float = _LOOK_EVERY
    ) -> None:
        self._aws = aws
        self._tell = tell
        self._longest = longest
        self._every = every

    async def run(self, name: str, job: Job) -> None:
        """Launch a task of the deployment of that name, watch it, and clean up after it."""
        patient = _Patient(
            job,
            AwsTarget(job.configuration.target.credentials, job.context.region or job.configuration.target.region),
            str(job.run_task.get("cluster") or ""),
            flow_container_name(job.configuration, job.definition),
            log_streams(job.configuration, job.definition, job.context.region)[0],
        )
        line = Line(Group.PROBE, f"launch of {name}")
        try:
            ecs = await self._aws.ecs(patient.target)
            definition, ours = await self._defined(ecs, patient)
        except EcsWorkerError as error:
            self._tell(_refused(line, error, job))
            return
        try:
            await self._launched(line, ecs, patient, definition)
        finally:
            if ours:
                await self._deregistered(ecs, definition)

    async def _defined(self, ecs: Ecs, patient: _Patient) -> tuple[str, bool]:
        """The task definition to run, and whether it was made here.

        A reused one is run as it is. Others get a revision of their own, not that of a worker: it goes afterwards.
        """
        if reused := patient.job.configuration.reused_definition:
            return reused, False
        request, tags = registration(patient.job.definition, "")
        del tags[DIGEST_TAG]  # by which workers find theirs
        with anyio.CancelScope(shield=True):  # what it makes has to be known, so that it can go again
            made = await ecs.register(request, tags | TAG)
        return made, True

    async def _launched(self, line: Line, ecs: Ecs, patient: _Patient, definition: str) -> None:
        try:
            with anyio.CancelScope(shield=True):  # likewise
                tasks, failures = await ecs.run_task(_request(patient, definition))
        except EcsWorkerError as error:
            self._tell(_refused(line, error, patient.job))
            return
        if not tasks:
            self._tell(_not_placed(line, failures[0] if failures else None))
            return
        arn = tasks[0].arn
        self._tell(line.ok(f"task {arn}"))
        try:
            await self._watched(ecs, patient, arn)
        finally:
            await self._stopped(ecs, patient, arn)

    async def _watched(self, ecs: Ecs, patient: _Patient, arn: str) -> None:
        """Tell each step as it is seen. Nothing more once the task has ended, or it takes too long."""
        steps = _Steps(patient, self._tell)
        try:
            with anyio.fail_after(self._longest):
                async for progress in self._looks(ecs, patient, arn):
                    steps.seen(progress)
                    if steps.ended(progress):
                        await self._judged(patient, progress)
                        return
        except TimeoutError:
            self._tell(
                Line(Group.PROBE, "end").failed(
                    f"the task has not ended within {self._longest:g} s and is stopped",
                    "Look at the task in the ECS console: its last status says what it waits for.",
                )
            )

    async def _looks(self, ecs: Ecs, patient: _Patient, arn: str) -> AsyncIterator[Progress]:
        while True:
            try:
                if (progress := await ecs.progress(patient.cluster, arn)) is not None:
                    yield progress
            except AwsError as error:
                if classify(error).kind is Kind.PERMANENT:
                    self._tell(_refused(Line(Group.PROBE, "end"), error, patient.job))
                    return
            await anyio.sleep(self._every)

    async def _judged(self, patient: _Patient, progress: Progress) -> None:
        """What the container found, or why it never ran."""
        task = progress.task
        own = task.container(patient.container)
        code = own.exit_code if own is not None else None
        line = Line(Group.PROBE, "Prefect from inside")
        if code == 0:
            self._tell(line.ok(await self._last_words(patient, progress) or "the Prefect API answers"))
        elif code in _ANSWERS:
            told, remedy = _ANSWERS[code]
            words = await self._last_words(patient, progress)
            self._tell(line.failed(f"{told} ({words})" if words else told, remedy))
        else:
            found = diagnose(task, container=patient.container, log=patient.log)
            told = " ".join(filter(None, [found.cause, f"ECS says: {found.evidence}" if found.evidence else ""]))
            self._tell(line.failed(patient.job.hidden.hide(told).rstrip("."), found.remedy or found.where))

    async def _last_words(self, patient: _Patient, progress: Progress) -> str:
        """The line that the script wrote, where the container has a log that may be read; it may come late."""
        if patient.log is None:
            return ""
        try:
            logs = await self._aws.logs(AwsTarget(patient.target.credentials, patient.log.region))
            name = patient.log.name(progress.task.task_id)
            with anyio.move_on_after(_LAST_LINES):
                while True:
                    lines, _ = await logs.get_log_events(
                        patient.log.group, name, start_from_head=False, limit=_LAST_LINES
                    )
                    if lines:
                        return lines[-1].message
                    await anyio.sleep(self._every)
        except EcsWorkerError:
            return ""  # the exit code says enough
        return ""

    async def _stopped(self, ecs: Ecs, patient: _Patient, arn: str) -> None:
        """The task ends in any case. StopTask of a task that has stopped does nothing."""
        line = Line(Group.PROBE, "end")
        with anyio.move_on_after(_CLEAN_UP, shield=True):
            try:
                await ecs.stop_task(patient.cluster, arn, "ecs-worker doctor has seen enough.")
            except EcsWorkerError as error:
                self._tell(
                    line.warning(f"the task may still run: {error}", f"Stop it: `aws ecs stop-task --task {arn}`.")
                )
                return
            self._tell(line.ok("the task has ended, or is told to"))
            return
        self._tell(
            line.warning("the task may still run: AWS doesn't answer", f"Stop it: `aws ecs stop-task --task {arn}`.")
        )

    async def _deregistered(self, ecs: Ecs, definition: str) -> None:
        line = Line(Group.PROBE, "task definition")
        remedy = f"`aws ecs deregister-task-definition --task-definition {definition}`; it costs nothing."
        with anyio.move_on_after(_CLEAN_UP, shield=True):
            try:
                await ecs.deregister(definition)
            except EcsWorkerError as error:
                self._tell(line.warning(f"{definition} is left: {error}", remedy))
                return
            self._tell(line.ok("is deregistered"))
            return
        self._tell(line.warning(f"{definition} is left: AWS doesn't answer", remedy))


class _Steps:
    """Which steps were told."""

    def __init__(self, patient: _Patient, tell: Callable[[Finding], None]) -> None:
        self._patient = patient
        self._tell = tell
        self._told: set[str] = set()

    def seen(self, progress: Progress) -> None:
        """Tell what is new."""
        if progress.attached:
            self._once("network", "its network interface is attached")
        if progress.pulled_from and progress.pulled_to:
            seconds = (progress.pulled_to - progress.pulled_from).total_seconds()
            self._once("image", f"pulled in {seconds:.0f} s")
        if progress.task.started_at is not None or self._exited(progress):
            self._once("container", "has started")

    def ended(self, progress: Progress) -> bool:
        """The flow's container has: side-cars may go on."""
        return progress.task.stopped or self._exited(progress)

    def _exited(self, progress: Progress) -> bool:
        own = progress.task.container(self._patient.container)
        return own is not None and own.exit_code is not None

    def _once(self, check: str, told: str) -> None:
        if check not in self._told:
            self._told.add(check)
            self._tell(Line(Group.PROBE, check).ok(told))


def _request(patient: _Patient, definition: str) -> dict[str, Any]:
    """RunTask's, with the probe's command in place of the flow's."""
    command = ["python", "-c", _SCRIPT, patient.job.context.pool_name]
    overrides = [
        {**each, "command": command} if each.get("name") == patient.container else each
        for each in patient.job.container_overrides
    ]
    if not any(each.get("name") == patient.container for each in overrides):
        overrides.append({"name": patient.container, "command": command})
    return {
        **patient.job.run_task,
        "overrides": {**patient.job.overrides, "containerOverrides": overrides},
        "taskDefinition": definition,
        "clientToken": str(uuid4()),
        "startedBy": STARTED_BY,
    }


def _refused(line: Line, error: EcsWorkerError, job: Job) -> Finding:
    verdict = classify(error) if isinstance(error, AwsError) else None
    told = job.hidden.hide(str(error)).rstrip(".")
    if verdict is not None and verdict.kind is Kind.AMBIGUOUS:
        told += "; a task that was launched all the same ends by itself within a minute of its start"
    return line.failed(told, (verdict.remedy if verdict else "") or "Correct what AWS complains of.")


def _not_placed(line: Line, failure: AwsFailure | None) -> Finding:
    if failure is None:
        return line.failed("ECS launched no task and gave no reason", "Give the command again.")
    told = f"ECS launched no task: {failure.reason} {failure.detail}".rstrip()
    return line.failed(told, classify(failure).remedy or "Wait for capacity, or ask for another kind.")


def unprobed(name: str, because: str) -> Finding:
    """No task was launched."""
    return Line(Group.PROBE, f"launch of {name}").skipped(because)
