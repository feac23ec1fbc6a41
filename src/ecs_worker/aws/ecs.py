"""Amazon ECS: tasks and task definitions. Answers become `model` values here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ecs_worker.aws.service import Service
from ecs_worker.model import AwsFailure, ContainerFacts, TaskFacts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


@dataclass(frozen=True, slots=True)
class Definition:
    """A task definition. `request` is shaped like RegisterTaskDefinition's, with the defaults ECS has added."""

    arn: str
    family: str
    revision: int
    status: str  # ACTIVE, INACTIVE or DELETE_IN_PROGRESS
    request: Mapping[str, Any]
    tags: Mapping[str, str]


class Ecs(Service):
    """ECS in one account and Region."""

    name = "ecs"

    async def run_task(self, request: Mapping[str, Any]) -> tuple[list[TaskFacts], list[AwsFailure]]:
        """Launch tasks. `request` is RunTask's own; with a clientToken, asking again is safe."""
        return _tasks_and_failures(await self._call("RunTask", **request))

    async def describe_tasks(self, cluster: str, arns: Sequence[str]) -> tuple[list[TaskFacts], list[AwsFailure]]:
        """What ECS knows of at most 100 tasks of one cluster. Tasks it doesn't know (yet, or any more): failures."""
        return _tasks_and_failures(await self._call("DescribeTasks", cluster=cluster, tasks=list(arns)))

    async def list_tasks(
        self,
        cluster: str,
        *,
        started_by: str | None = None,
        family: str | None = None,
        desired_status: Literal["RUNNING", "STOPPED"] = "RUNNING",
    ) -> list[str]:
        """The ARNs of all tasks that match. Stopped tasks are listed for about an hour."""
        arns: list[str] = []
        token: str | None = None
        while True:
            answer = await self._call(
                "ListTasks",
                cluster=cluster,
                startedBy=started_by,
                family=family,
                desiredStatus=desired_status,
                nextToken=token,
            )
            arns += answer.get("taskArns", ())
            token = answer.get("nextToken")
            if not token:
                return arns

    async def stop_task(self, cluster: str, arn: str, reason: str) -> TaskFacts:
        """Ask the task to stop; `reason` appears as its stoppedReason. Stopping a stopped task is no error."""
        answer = await self._call("StopTask", cluster=cluster, task=arn, reason=reason)
        return task_facts(answer["task"])

    async def register(self, request: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Register a revision and return its ARN. `tags` are added to the request's own."""
        listed = [*request.get("tags", ()), *({"key": key, "value": value} for key, value in tags.items())]
        answer = await self._call("RegisterTaskDefinition", **{**request, "tags": listed or None})
        return str(answer["taskDefinition"]["taskDefinitionArn"])

    async def deregister(self, arn: str) -> None:
        """Make a revision INACTIVE; tasks that run it go on."""
        await self._call("DeregisterTaskDefinition", taskDefinition=arn)

    async def describe_definition(self, ref: str) -> Definition:
        """The definition of that ARN, `family:revision`, or (its newest active one) `family`."""
        answer = await self._call("DescribeTaskDefinition", taskDefinition=ref, include=["TAGS"])
        found = answer["taskDefinition"]
        return Definition(
            arn=found["taskDefinitionArn"],
            family=found["family"],
            revision=found["revision"],
            status=found.get("status", ""),
            request={name: value for name, value in found.items() if name not in _ANSWER_ONLY},
            tags={tag["key"]: tag.get("value", "") for tag in answer.get("tags", ())},
        )

    async def newest_revisions(self, family: str, count: int) -> list[str]:
        """The ARNs of the family's newest active revisions, newest first, at most `count` (1 to 100)."""
        answer = await self._call(
            "ListTaskDefinitions", familyPrefix=family, status="ACTIVE", sort="DESC", maxResults=count
        )
        return list(answer.get("taskDefinitionArns", ()))


def _tasks_and_failures(answer: Mapping[str, Any]) -> tuple[list[TaskFacts], list[AwsFailure]]:
    failures = [
        AwsFailure(arn=f.get("arn") or "", reason=f.get("reason") or "", detail=f.get("detail") or "")
        for f in answer.get("failures", ())
    ]
    return [task_facts(task) for task in answer.get("tasks", ())], failures


def task_facts(task: Mapping[str, Any]) -> TaskFacts:
    """A task of RunTask's, DescribeTasks's or StopTask's answer."""
    get = task.get
    return TaskFacts(
        arn=task["taskArn"],
        cluster_arn=get("clusterArn", ""),
        definition_arn=get("taskDefinitionArn", ""),
        last_status=get("lastStatus", ""),
        desired_status=get("desiredStatus", ""),
        started_by=get("startedBy", ""),
        stop_code=get("stopCode", ""),
        stopped_reason=get("stoppedReason", ""),
        version=get("version", 0),
        launch_type=get("launchType", ""),
        capacity_provider=get("capacityProviderName", ""),
        availability_zone=get("availabilityZone", ""),
        cpu=get("cpu", ""),
        memory=get("memory", ""),
        created_at=get("createdAt"),
        started_at=get("startedAt"),
        stopping_at=get("stoppingAt"),
        stopped_at=get("stoppedAt"),
        containers=tuple(_container_facts(container) for container in get("containers", ())),
    )


def _container_facts(container: Mapping[str, Any]) -> ContainerFacts:
    get = container.get
    return ContainerFacts(
        name=container["name"],
        last_status=get("lastStatus", ""),
        exit_code=get("exitCode"),
        reason=get("reason", ""),
        health=get("healthStatus", ""),
        image=get("image", ""),
    )
