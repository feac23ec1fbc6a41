"""What the tests of the embedded AWS share."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aioboto3

from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REGION = "us-east-1"
ROLE = "arn:aws:iam::123456789012:role/execution"
LOG_GROUP = "/containers"


def fresh(stem: str) -> str:
    """A name no other test uses: all share one server."""
    return f"{stem}-{uuid4().hex[:12]}"


def python(code: str) -> list[str]:
    return ["python", "-u", "-c", code]


def awslogs(prefix: str = "flow", **options: str) -> dict[str, Any]:
    given = {"awslogs-group": LOG_GROUP, "awslogs-region": REGION, "awslogs-stream-prefix": prefix}
    return {
        "logDriver": "awslogs",
        "options": given | {name.replace("_", "-"): value for name, value in options.items()},
    }


def container(name: str = "main", command: list[str] | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "image": "an-image", **({"command": command} if command is not None else {}), **more}


@dataclass
class Aws:
    """Real clients of the served embedded AWS, and what most tests do with them."""

    url: str
    clients: dict[str, Any]
    subnets: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.clients[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def network(self) -> dict[str, Any]:
        return {"awsvpcConfiguration": {"subnets": self.subnets[:1]}}

    async def define(self, *containers: dict[str, Any], **more: Any) -> str:
        asked = {
            "family": fresh("family"),
            "requiresCompatibilities": ["FARGATE"],
            "networkMode": "awsvpc",
            "cpu": "256",
            "memory": "512",
            "executionRoleArn": ROLE,
            "containerDefinitions": list(containers),
        } | more
        answer = await self.ecs.register_task_definition(**{k: v for k, v in asked.items() if v is not None})
        return str(answer["taskDefinition"]["taskDefinitionArn"])

    async def run(self, definition: str, **more: Any) -> dict[str, Any]:
        asked = {"taskDefinition": definition, "launchType": "FARGATE", "networkConfiguration": self.network} | more
        answer = await self.ecs.run_task(**{k: v for k, v in asked.items() if v is not None})
        assert answer["failures"] == []
        return dict(answer["tasks"][0])

    async def run_containers(self, *containers: dict[str, Any], **more: Any) -> dict[str, Any]:
        return await self.run(await self.define(*containers), **more)

    async def describe(self, task: dict[str, Any]) -> dict[str, Any]:
        answer = await self.ecs.describe_tasks(cluster=task["clusterArn"], tasks=[task["taskArn"]], include=["TAGS"])
        return dict(answer["tasks"][0])

    async def reaches(self, task: dict[str, Any], *statuses: str, seconds: float = 20) -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            seen = await self.describe(task)
            return seen if seen["lastStatus"] in statuses else None

        return dict(await until(look, seconds, every=0.02))

    async def lines(self, task: dict[str, Any], name: str = "main", prefix: str = "flow") -> list[str]:
        stream = f"{prefix}/{name}/{task['taskArn'].split('/')[-1]}"
        answer = await self.logs.get_log_events(logGroupName=LOG_GROUP, logStreamName=stream, startFromHead=True)
        return [event["message"] for event in answer["events"]]


def the(task: dict[str, Any], name: str = "main") -> dict[str, Any]:
    return next(each for each in task["containers"] if each["name"] == name)


SERVICES = (
    "ecs",
    "logs",
    "ec2",
    "sts",
    "iam",
    "s3",
    "sqs",
    "secretsmanager",
    "ssm",
    "events",
    "cloudformation",
    "cloudwatch",
    "ecr",
)


@asynccontextmanager
async def connected(url: str, services: tuple[str, ...] = SERVICES, region: str = REGION) -> AsyncIterator[Aws]:
    session = aioboto3.Session(aws_access_key_id="any", aws_secret_access_key="any", region_name=region)
    async with AsyncExitStack() as stack:
        clients = {name: await stack.enter_async_context(session.client(name, endpoint_url=url)) for name in services}
        yield Aws(url, clients)
