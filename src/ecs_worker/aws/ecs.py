"""Amazon ECS: tasks and task definitions. Answers become `model` values here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from botocore.utils import parse_timestamp

from ecs_worker.aws.errors import usable
from ecs_worker.aws.limits import ON_FARGATE
from ecs_worker.aws.service import Service, read_plainly
from ecs_worker.errors import AwsError
from ecs_worker.model import FARGATE_PROVIDERS, AwsFailure, ContainerFacts, TaskFacts
from ecs_worker.verdicts.classify import Kind, classify
from ecs_worker.verdicts.codes import INVALID_PARAMETER, NO_CLUSTER

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from ecs_worker.aws.limits import Limits
    from ecs_worker.model import AwsTarget

# What DescribeTaskDefinition adds to what RegisterTaskDefinition was given.
_ANSWER_ONLY = frozenset(
    {
        "taskDefinitionArn",
        "revision",
        "status",
        "requiresAttributes",
        "compatibilities",
        "registeredAt",
        "deregisteredAt",
        "deleteRequestedAt",
        "registeredBy",
    }
)


AWS_ENDPOINT = re.compile(r"\.(amazonaws\.com(\.cn)?|api\.aws)$")  # an emulator has no Fargate, nor its limit
_MISSING = "MISSING"  # the failure of a task that ECS doesn't know


@dataclass(frozen=True, slots=True)
class Definition:
    """A task definition. `request` is like RegisterTaskDefinition's, with the defaults that ECS has added."""

    arn: str
    family: str
    revision: int
    status: str  # ACTIVE, INACTIVE or DELETE_IN_PROGRESS
    request: Mapping[str, Any]
    compatibilities: Sequence[str]  # the launch types that it fits, as ECS judged
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster. `status` is ACTIVE where tasks can run."""

    arn: str
    name: str
    status: str
    capacity_providers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServiceState:
    """A service as it is now. `rollout` is the newest deployment's, with why. `events`: newest first, at most 100."""

    arn: str
    name: str
    status: str
    desired: int
    running: int
    pending: int
    definition: str
    rollout: str
    rollout_reason: str
    events: tuple[tuple[datetime, str], ...]


class Ecs(Service):
    """ECS in one account and Region. An empty `cluster` means the account's default one."""

    name = "ecs"

    def __init__(self, client: Any, target: AwsTarget, limits: Limits, account: Hashable) -> None:
        super().__init__(client, target, limits, account)
        client.meta.events.register("before-parse.ecs.DescribeTasks", read_plainly)

    async def run_task(self, request: Mapping[str, Any]) -> tuple[list[TaskFacts], list[AwsFailure]]:
        """Launch tasks. `request` is RunTask's own; with a clientToken, asking again is safe.

        It doesn't wait for its `turn`. The caller does that before: the wait may be cancelled, this call must not be.
        """
        return _tasks_and_failures("RunTask", await self._ask("RunTask", **request))

    async def launch_turn(self, capacity: Sequence[str]) -> None:
        """Wait until AWS's limits leave room for RunTask with that launch type, or those capacity providers."""
        await self.turn("RunTask")
        if not FARGATE_PROVIDERS.isdisjoint(capacity) and AWS_ENDPOINT.search(self._client.meta.endpoint_url):
            await self.turn(ON_FARGATE)

    async def describe_tasks(self, cluster: str, arns: Sequence[str]) -> tuple[list[TaskFacts], list[AwsFailure]]:
        """At most 100 tasks of one cluster. Tasks that ECS doesn't know (yet, or any more) are among the failures."""
        answer = await self._call("DescribeTasks", cluster=cluster or None, tasks=list(arns))
        return _tasks_and_failures("DescribeTasks", answer)

    async def container_given(self, cluster: str, arn: str, variable: str) -> str | None:
        """The container to which RunTask gave that environment variable; None if there is none, or no such task."""
        answer = await self._call("DescribeTasks", cluster=cluster or None, tasks=[arn])
        with usable("DescribeTasks"):
            for task in answer["tasks"]:
                for container in (task.get("overrides") or {}).get("containerOverrides") or ():
                    if any(pair.get("name") == variable for pair in container.get("environment") or ()):
                        return str(container.get("name"))
        return None

    async def look_up(self, cluster: str, arns: Sequence[str]) -> tuple[list[TaskFacts], list[str]]:
        """The tasks that ECS knows, and the ARNs of the others; all of them if the cluster is missing."""
        try:
            tasks, failures = await self.describe_tasks(cluster, arns)
        except AwsError as error:
            if error.code == NO_CLUSTER:  # only a cluster without tasks can be deleted
                return [], list(arns)
            if (
                error.code != INVALID_PARAMETER or classify(error).kind is not Kind.PERMANENT
            ):  # it may be a throttle, too
                raise
        else:
            return tasks, [failure.arn for failure in failures if failure.reason == _MISSING]
        if len(arns) == 1:
            return [], list(arns)
        # ECS refuses the whole call because of one ARN that it can't use: halving finds that ARN.
        middle = len(arns) // 2
        tasks, missing = await self.look_up(cluster, arns[:middle])
        others, also_missing = await self.look_up(cluster, arns[middle:])
        return tasks + others, missing + also_missing

    async def list_tasks(
        self,
        cluster: str,
        *,
        started_by: str | None = None,
        family: str | None = None,
        desired_status: Literal["RUNNING", "STOPPED"] = "RUNNING",
    ) -> list[str]:
        """The ARNs of all tasks that match. Stopped tasks are listed for about an hour."""
        arns = await self._pages(
            "ListTasks",
            "taskArns",
            "nextToken",
            cluster=cluster or None,
            startedBy=started_by,
            family=family,
            desiredStatus=desired_status,
        )
        return [str(arn) for arn in arns]

    async def stop_task(self, cluster: str, arn: str, reason: str) -> TaskFacts:
        """Ask ECS to stop the task; `reason` becomes its stoppedReason. Stopping a stopped task is no error."""
        answer = await self._call("StopTask", cluster=cluster or None, task=arn, reason=reason)
        with usable("StopTask"):
            return task_facts(answer["task"])

    async def cluster(self, cluster: str) -> Cluster | None:
        """The cluster of that name or ARN; None if there is none. A deleted one is INACTIVE for some time."""
        answer = await self._call("DescribeClusters", clusters=[cluster])
        with usable("DescribeClusters"):
            return next(
                (
                    Cluster(
                        str(each["clusterArn"]),
                        str(each["clusterName"]),
                        str(each["status"]),
                        tuple(each.get("capacityProviders") or ()),
                    )
                    for each in answer["clusters"]
                ),
                None,
            )

    async def service(self, cluster: str, service: str) -> ServiceState | None:
        """The service of that name or ARN; None if the cluster has none."""
        answer = await self._call("DescribeServices", cluster=cluster, services=[service])
        with usable("DescribeServices"):
            return next((_service_state(each) for each in answer["services"]), None)

    async def renew_service(self, cluster: str, service: str) -> None:
        """Have the service's tasks replaced by new ones, with the values that its secrets have now."""
        await self._call("UpdateService", cluster=cluster, service=service, forceNewDeployment=True)

    async def register(self, request: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Register a revision and return its ARN. `tags` are added to the request's own."""
        listed = [*request.get("tags", ()), *({"key": key, "value": value} for key, value in tags.items())]
        answer = await self._call("RegisterTaskDefinition", **{**request, "tags": listed or None})
        with usable("RegisterTaskDefinition"):
            return str(answer["taskDefinition"]["taskDefinitionArn"])

    async def deregister(self, arn: str) -> None:
        """Make a revision INACTIVE. Its running tasks go on."""
        await self._call("DeregisterTaskDefinition", taskDefinition=arn)

    async def describe_definition(self, ref: str) -> Definition:
        """The definition of that ARN, `family:revision`, or (its newest active one) `family`."""
        answer = await self._call("DescribeTaskDefinition", taskDefinition=ref, include=["TAGS"])
        with usable("DescribeTaskDefinition"):
            found = answer["taskDefinition"]
            return Definition(
                arn=found["taskDefinitionArn"],
                family=found["family"],
                revision=found["revision"],
                status=found.get("status", ""),
                request={name: value for name, value in found.items() if name not in _ANSWER_ONLY},
                compatibilities=found.get("compatibilities", ()),
                tags={tag["key"]: tag.get("value", "") for tag in answer.get("tags", ())},
            )

    async def newest_revisions(self, family: str, count: int) -> list[str]:
        """The ARNs of the family's newest active revisions, newest first, at most `count` (1 to 100)."""
        answer = await self._call(
            "ListTaskDefinitions", familyPrefix=family, status="ACTIVE", sort="DESC", maxResults=count
        )
        with usable("ListTaskDefinitions"):
            return [str(arn) for arn in answer["taskDefinitionArns"]]


def _tasks_and_failures(operation: str, answer: Mapping[str, Any]) -> tuple[list[TaskFacts], list[AwsFailure]]:
    with usable(operation):
        tasks = [task_facts(task) for task in answer["tasks"]]
        failures = [
            AwsFailure(arn=f.get("arn") or "", reason=f.get("reason") or "", detail=f.get("detail") or "")
            for f in answer.get("failures", ())
        ]
        return tasks, failures


def _service_state(raw: Mapping[str, Any]) -> ServiceState:
    deployments: Sequence[Mapping[str, Any]] = raw.get("deployments") or ({},)
    newest = next((each for each in deployments if each.get("status") == "PRIMARY"), deployments[0])
    events = ((_utc(each.get("createdAt")), str(each.get("message", ""))) for each in raw.get("events") or ())
    return ServiceState(
        arn=str(raw["serviceArn"]),
        name=str(raw["serviceName"]),
        status=str(raw["status"]),
        desired=int(raw["desiredCount"]),
        running=int(raw["runningCount"]),
        pending=int(raw["pendingCount"]),
        definition=str(raw.get("taskDefinition") or ""),
        rollout=str(newest.get("rolloutState") or ""),
        rollout_reason=str(newest.get("rolloutStateReason") or ""),
        events=tuple((at, text) for at, text in events if at is not None),
    )


def task_facts(task: Mapping[str, Any]) -> TaskFacts:
    """A task from an answer to RunTask, DescribeTasks or StopTask, or from the detail of a task state change event."""
    get = task.get
    return TaskFacts(
        arn=task["taskArn"],
        cluster_arn=get("clusterArn", ""),
        definition_arn=get("taskDefinitionArn", ""),
        last_status=get("lastStatus", ""),
        started_by=get("startedBy", ""),
        stop_code=get("stopCode", ""),
        stopped_reason=get("stoppedReason", ""),
        version=get("version", 0),
        created_at=_utc(get("createdAt")),
        started_at=_utc(get("startedAt")),
        stopping_at=_utc(get("stoppingAt")),
        stopped_at=_utc(get("stoppedAt")),
        containers=tuple(_container_facts(container) for container in get("containers", ())),
    )


def _container_facts(container: Mapping[str, Any]) -> ContainerFacts:
    get = container.get
    return ContainerFacts(
        name=container["name"],
        exit_code=get("exitCode"),
        reason=get("reason", ""),
    )


def _utc(value: float | str | datetime | None) -> datetime | None:
    """ECS's JSON has numbers, from which botocore makes local times; events have texts."""
    match value:
        case None:
            return None
        case datetime():
            return value.astimezone(UTC)
        case str():
            parsed: datetime = parse_timestamp(value)
            return parsed.astimezone(UTC)
        case _:
            return datetime.fromtimestamp(value, UTC)
