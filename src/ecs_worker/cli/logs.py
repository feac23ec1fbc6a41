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
from ecs_worker.job.requests import awslogs_stream
from ecs_worker.lifecycle.journal.reader import Reader
from ecs_worker.lifecycle.journal.tail import MISSING, Tail
from ecs_worker.model import AwsTarget
from ecs_worker.settings import JobSettings, load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ecs_worker.aws.logs import LogEvent
    from ecs_worker.model import LogStream, TaskFacts
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import FlowRun
    from ecs_worker.settings import PrefectSettings

_SECONDS = 5.0  # between two looks whether the task still runs
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_FLOW_CONTAINER = "prefect"  # its name unless the job says otherwise; then it is usually the first


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
    async with Aws() as aws:
        async with prefect_api(settings) as api:
            found = await _find(api, run)
            place = _place(found)
            task = await _describe(aws, place)
            if task is not None:
                containers = await _containers(aws, place, task)
            else:
                containers = await _rendered(api, found, settings)
        stream = _chosen(containers, container, place)
        await _print(aws, place, stream, follow and task is not None, since)


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
        raise UserError(f"Flow run {run.name} has no ECS task (yet): it is {run.state_name or 'new'}.")
    if parts[0] != "arn" or parts[2:3] != ["ecs"]:
        raise UserError(f"Flow run {run.name} does not run on ECS, but as {run.infrastructure_pid}.")
    return _Place(AwsTarget(region=parts[3]), cluster, arn)


async def _describe(aws: Aws, place: _Place) -> TaskFacts | None:
    tasks, _ = await (await aws.ecs(place.target)).describe_tasks(place.cluster, [place.arn])
    return tasks[0] if tasks else None


async def _containers(aws: Aws, place: _Place, task: TaskFacts) -> Sequence[Mapping[str, Any]]:
    """The containers of the task's definition."""
    definition = await (await aws.ecs(place.target)).describe_definition(task.definition_arn)
    found: Sequence[Mapping[str, Any]] = definition.request["containerDefinitions"]
    return found


async def _rendered(api: PrefectClient, run: FlowRun, settings: PrefectSettings) -> Sequence[Mapping[str, Any]]:
    """The containers as the run's job says today; ECS forgets a task an hour after its end."""
    asked = await Jobs(load(JobSettings), settings).of_run(api, run)
    job = await rendered(asked, Preview(api))
    found: Sequence[Mapping[str, Any]] = job.definition.get("containerDefinitions", ())
    return found


def _chosen(containers: Sequence[Mapping[str, Any]], wanted: str | None, place: _Place) -> LogStream:
    by_name = {str(container["name"]): container for container in containers}
    if not by_name:
        raise UserError(
            f"ECS does not know task {place.arn} any more, and its job names no log group: look in the CloudWatch "
            f"console for a log stream that ends in {place.task_id}."
        )
    name = wanted or (_FLOW_CONTAINER if _FLOW_CONTAINER in by_name else next(iter(by_name)))
    if name not in by_name:
        raise UserError(f"The task has no container {name!r}; it has: {', '.join(by_name)}.")
    stream = awslogs_stream(by_name[name], place.target.region)
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
