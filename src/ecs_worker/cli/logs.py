"""`ecs-worker logs`: what a flow run's container wrote."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio
import typer

from ecs_worker.aws.session import Aws
from ecs_worker.cli.jobs import Jobs
from ecs_worker.cli.preview import Preview, rendered
from ecs_worker.cli.server import prefect_api, prefect_settings
from ecs_worker.errors import AwsError, UserError
from ecs_worker.job.prepared import RUN_ID
from ecs_worker.job.requests import DEFAULT_CONTAINER, awslogs_stream, flow_container_name
from ecs_worker.lifecycle.journal.reader import Reader
from ecs_worker.lifecycle.journal.tail import MISSING, Tail
from ecs_worker.lifecycle.rendering.files import Documents
from ecs_worker.model import AwsTarget
from ecs_worker.settings import JobSettings, load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ecs_worker.aws.logs import LogEvent
    from ecs_worker.job.attached import Document
    from ecs_worker.job.job import Job
    from ecs_worker.model import LogStream, TaskFacts
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import FlowRun
    from ecs_worker.settings import PrefectSettings

    _Containers = Mapping[str, Mapping[str, Any]]  # by name

_SECONDS = 5.0  # between two looks whether the task still runs
_WAIT_SECONDS = 2.0  # between two looks whether a run has a task
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def print_logs(run: str, *, follow: bool, container: str | None, since: str | None) -> None:
    """Print the lines of a flow run's container, the flow's unless another is named. Raises UserError."""
    earliest = _moment(since) if since else None
    try:
        anyio.run(_show, run, follow, container, earliest)
    except AwsError as error:
        raise UserError(f"AWS did not do what was asked: {error}") from None
    except BrokenPipeError:  # as of `| head`
        sys.stderr.close()
        raise typer.Exit from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _moment(text: str) -> datetime:
    if found := re.fullmatch(r"(\d+)([smhd])", text):
        return datetime.now(UTC) - timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"--since {text!r} is no time: give 90s, 10m, 2h, 1d, or 2026-01-31T12:00:00Z.") from None
    return moment.astimezone(UTC)


async def _show(run: str, follow: bool, container: str | None, since: datetime | None) -> None:
    settings = prefect_settings()
    async with Aws() as aws, prefect_api(settings) as api:
        lines = _Lines(aws, api, settings, container, since)
        found = await _find(api, run)
        if follow:
            await _follow_run(api, found, lines)
        else:
            await lines.show(found, _place(found))


# -- the run and its task


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the task is."""

    target: AwsTarget
    cluster: str
    arn: str

    @property
    def task_id(self) -> str:
        """The last part of the ARN."""
        return self.arn.rpartition("/")[2]


async def _find(api: PrefectClient, run: str) -> FlowRun:
    try:
        found = await api.read_run(UUID(run))
    except ValueError:
        named = await api.runs(names=[run])
        found = named[-1] if named else None
    if found is None:
        raise UserError(f"There is no flow run {run!r}: give the id or the name of one.")
    return found


def _place(run: FlowRun) -> _Place:
    cluster, _, arn = (run.infrastructure_pid or "").rpartition("::")
    parts = arn.split(":")
    if not run.infrastructure_pid:
        raise UserError(f"Flow run {run.name} has no ECS task (yet): it is {_state(run)}. --follow waits for one.")
    if parts[0] != "arn" or parts[2:3] != ["ecs"]:
        raise UserError(f"Flow run {run.name} does not run on ECS, but as {run.infrastructure_pid}.")
    return _Place(AwsTarget(region=parts[3]), cluster, arn)


def _state(run: FlowRun) -> str:
    return run.state_name or "new"


async def _follow_run(api: PrefectClient, run: FlowRun, lines: _Lines) -> None:
    """The lines of each of the run's tasks, until the run has ended."""
    shown: _Place | None = None
    told = False
    while True:
        place = _place(run) if run.infrastructure_pid else None
        if place is not None and place != shown:
            await lines.show(run, place, follow=True)
            shown, told = place, False
        elif run.state_type is not None and run.state_type.final:
            if shown is None:
                raise UserError(f"Flow run {run.name} has ended without an ECS task: it is {_state(run)}.")
            return
        else:
            if not told:
                typer.echo(_waiting(run, shown), err=True)
            told = True
            await anyio.sleep(_WAIT_SECONDS)
        now = await api.read_run(run.id)
        if now is None:
            raise UserError(f"Flow run {run.name} was deleted.")
        run = now


def _waiting(run: FlowRun, shown: _Place | None) -> str:
    if shown is None:
        return f"Flow run {run.name} has no ECS task yet, it is {_state(run)}: waiting for one."
    return (
        f"ECS task {shown.task_id} has stopped, and flow run {run.name} is {_state(run)}: waiting for its end or its "
        "next task."
    )


# -- its containers


class _AskingSources(Preview):
    """Sources of a job whose task has been: also AWS is asked, and the Region is the task's."""

    def __init__(self, api: PrefectClient, aws: Aws, place: _Place) -> None:
        super().__init__(api)
        self._aws = aws
        self._target = place.target

    def region(self, target: AwsTarget) -> str:
        """The task's, unless the job says another."""
        return target.region or self._target.region or ""

    async def document(self, document: Document) -> Any:
        """A file's content, on S3 too."""
        return await Documents(self._aws).read(document)

    async def definition(self, target: AwsTarget, name: str) -> Mapping[str, Any]:  # noqa: ARG002 - whoever asks has credentials of their own
        """The definition, as ECS describes it."""
        return (await (await self._aws.ecs(self._target)).describe_definition(name)).request


@dataclass(frozen=True, slots=True)
class _Lines:
    """Prints lines of tasks: of the flow's container unless `container` names another."""

    aws: Aws
    api: PrefectClient
    settings: PrefectSettings
    container: str | None
    since: datetime | None

    async def show(self, run: FlowRun, place: _Place, *, follow: bool = False) -> None:
        """Print the task's lines; `follow`: until it has stopped and the last ones have come. Raises UserError."""
        task = await _describe(self.aws, place)
        if task is not None:
            containers, flow = await self._of_task(run, place, task)
        else:
            job = await self._job(run, place)
            containers, flow = _containers(job.definition), _flow_container(job)
        stream = _chosen(containers, self.container or flow, place)
        await _print(self.aws, place, stream, follow and task is not None, self.since)

    async def _of_task(self, run: FlowRun, place: _Place, task: TaskFacts) -> tuple[_Containers, str]:
        """The containers of the task's definition, and which of them RunTask told to execute the flow run."""
        ecs = await self.aws.ecs(place.target)
        containers = _containers((await ecs.describe_definition(task.definition_arn)).request)
        if self.container is not None:
            return containers, self.container
        flow = await ecs.container_given(place.cluster, place.arn, RUN_ID)
        if flow is None:  # other programs may tell it otherwise: the job says which container it is meant for
            try:
                flow = _flow_container(await self._job(run, place))
            except (AwsError, UserError):
                flow = ""
        return containers, flow if flow in containers else _usual(containers)

    async def _job(self, run: FlowRun, place: _Place) -> Job:
        """The run's job as it is today. ECS forgets a task an hour after its end."""
        asked = await Jobs(load(JobSettings), self.settings).of_run(self.api, run)
        return await rendered(asked, _AskingSources(self.api, self.aws, place))


async def _describe(aws: Aws, place: _Place) -> TaskFacts | None:
    tasks, _ = await (await aws.ecs(place.target)).describe_tasks(place.cluster, [place.arn])
    return tasks[0] if tasks else None


def _containers(definition: Mapping[str, Any]) -> _Containers:
    return {str(container["name"]): container for container in definition.get("containerDefinitions") or ()}


def _flow_container(job: Job) -> str:
    return flow_container_name(job.configuration, job.definition)


def _usual(containers: _Containers) -> str:
    return DEFAULT_CONTAINER if DEFAULT_CONTAINER in containers else next(iter(containers), "")


def _chosen(containers: _Containers, name: str, place: _Place) -> LogStream:
    if name not in containers:
        raise UserError(f"The task has no container {name!r}; it has: {', '.join(containers)}.")
    stream = awslogs_stream(containers[name], place.target.region)
    if stream is None:
        raise UserError(
            f"Container {name} does not log to CloudWatch by awslogs with a stream prefix: set the job variable "
            "configure_cloudwatch_logs, or its logConfiguration."
        )
    return stream


# -- its lines


async def _print(aws: Aws, place: _Place, stream: LogStream, follow: bool, since: datetime | None) -> None:
    target = AwsTarget(region=stream.region)
    await aws.logs(target)  # what is wrong with the credentials is wrong now
    position = int(since.timestamp() * 1000) if since else 0
    tail = Tail(target, stream.group, stream.name(place.task_id), _write, position=position)
    reader = Reader(aws)
    reader.add(tail)
    if follow:
        await _follow(aws, place, reader, tail)
        return
    while not tail.caught_up:
        await reader.once()
        if tail.error == MISSING:
            raise UserError(f"There is no log stream {tail.stream} in group {tail.group} (yet): nothing was written.")
        if tail.error:
            raise UserError(f"Log stream {tail.stream} of group {tail.group} can't be read: {tail.error}.")


async def _follow(aws: Aws, place: _Place, reader: Reader, tail: Tail) -> None:
    async with anyio.create_task_group() as reading:
        reading.start_soon(reader.run)
        looked_at = 0.0
        while not tail.drained:
            if not tail.ended and time.monotonic() - looked_at >= _SECONDS:
                task = await _describe(aws, place)
                looked_at = time.monotonic()
                if task is None or task.stopped:
                    tail.end()
            await anyio.sleep(0.2)
        reading.cancel_scope.cancel()


def _write(lines: Sequence[LogEvent]) -> None:
    sys.stdout.writelines(f"{line.message}\n" for line in lines)
    sys.stdout.flush()
