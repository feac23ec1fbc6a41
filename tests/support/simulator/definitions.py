"""ECS task definitions: registering, revisions, states, and what AWS refuses."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from support.simulator.service import Place, ServiceError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from support.simulator.clock import Clock
    from support.simulator.faults import Call

_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
_TAG = re.compile(r"[\w\s.:/=+\-@]*")
_GIB = 1024
# Fargate's sizes (ECS developer guide, "Task CPU and memory"): cpu units -> MiB.
_FARGATE_MEMORY: dict[int, set[int]] = {
    256: {512, 1024, 2048},
    512: {n * _GIB for n in range(1, 5)},
    1024: {n * _GIB for n in range(2, 9)},
    2048: {n * _GIB for n in range(4, 17)},
    4096: {n * _GIB for n in range(8, 31)},
    8192: {n * _GIB for n in range(16, 61, 4)},
    16384: {n * _GIB for n in range(32, 121, 8)},
    32768: {n * _GIB for n in (60, 120, 244)},
}
_CONTAINER_DEFAULTS = ("portMappings", "environment", "mountPoints", "volumesFrom", "systemControls")


@dataclass(slots=True, eq=False)
class Definition:
    """One revision. `document` is what DescribeTaskDefinition gives."""

    document: dict[str, Any]
    tags: list[dict[str, str]]
    refused_from: float | None = None  # when an INACTIVE revision can't be run any more

    @property
    def arn(self) -> str:
        return str(self.document["taskDefinitionArn"])

    @property
    def active(self) -> bool:
        return bool(self.document["status"] == "ACTIVE")


@dataclass(slots=True, eq=False)
class Family:
    revisions: dict[int, Definition] = field(default_factory=dict)
    last: int = 0  # deleted revisions count too


class Definitions:
    """The task definitions of one Place.

    `registration_seconds` (real): how long RegisterTaskDefinition takes; a second one of the same family in that
    time is refused. `deregistration_seconds` (simulated): how long an INACTIVE revision can still be run.
    """

    def __init__(self, place: Place, clock: Clock) -> None:
        self.registration_seconds = 0.0
        self.deregistration_seconds = 0.0
        self.families: dict[str, Family] = {}
        self._place = place
        self._clock = clock
        self._registering: set[str] = set()
        self.actions: dict[str, Callable[[dict[str, Any], Call], dict[str, Any] | Awaitable[dict[str, Any]]]] = {
            "DeleteTaskDefinitions": self._delete_task_definitions,
            "DeregisterTaskDefinition": self._deregister_task_definition,
            "DescribeTaskDefinition": self._describe_task_definition,
            "ListTaskDefinitionFamilies": self._list_task_definition_families,
            "ListTaskDefinitions": self._list_task_definitions,
            "RegisterTaskDefinition": self._register_task_definition,
        }

    def all(self) -> list[Definition]:
        return [d for name in sorted(self.families) for d in self.families[name].revisions.values()]

    def runnable(self, reference: str) -> Definition:
        """What RunTask starts: that revision, or the family's newest ACTIVE one."""
        definition = self.find(reference)
        if definition is None:
            raise ServiceError("ClientException", "TaskDefinition not found.")
        if definition.refused_from is not None and self._clock.now() >= definition.refused_from:
            raise ServiceError("ClientException", "TaskDefinition is inactive")
        return definition

    def find(self, reference: str) -> Definition | None:
        if reference.startswith("arn:") and not reference.startswith(self._place.arn("ecs", "task-definition/")):
            return None
        name, _, revision = reference.rsplit("/", 1)[-1].partition(":")
        family = self.families.get(name)
        if family is None:
            return None
        if revision:
            return family.revisions.get(int(revision)) if revision.isdecimal() else None
        return next((d for d in reversed(family.revisions.values()) if d.active), None)

    # -- actions ----------------------------------------------------------------------

    async def _register_task_definition(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        name = params["family"]
        check_definition(params)
        if name in self._registering:
            raise ServiceError(
                "ClientException", "Too many concurrent attempts to create a new revision of the specified family."
            )
        self._registering.add(name)
        try:
            await asyncio.sleep(self.registration_seconds)
        finally:
            self._registering.remove(name)
        family = self.families.setdefault(name, Family())
        family.last += 1
        document = self._document(params, family.last)
        definition = Definition(document, list(params.get("tags", [])))
        family.revisions[family.last] = definition
        return _answer(definition, tags=bool(definition.tags))

    def _document(self, params: dict[str, Any], revision: int) -> dict[str, Any]:
        """The request with what AWS adds to it."""
        given = {key: value for key, value in params.items() if key not in {"tags", "enableFaultInjection"}}
        containers = []
        for container in given["containerDefinitions"]:
            filled = {"cpu": 0, "essential": True} | {key: [] for key in _CONTAINER_DEFAULTS} | container
            filled["environment"] = sorted(filled["environment"], key=lambda entry: str(entry.get("name")))
            containers.append(filled)
        fargate = "FARGATE" in given.get("requiresCompatibilities", [])
        added = {
            "taskDefinitionArn": self._place.arn("ecs", f"task-definition/{given['family']}:{revision}"),
            "revision": revision,
            "status": "ACTIVE",
            "requiresAttributes": [{"name": "com.amazonaws.ecs.capability.docker-remote-api.1.18"}],
            "compatibilities": ["EC2", "FARGATE"] if fargate or given.get("networkMode") == "awsvpc" else ["EC2"],
            "registeredAt": self._clock.now(),
            "registeredBy": f"arn:{self._place.partition}:iam::{self._place.account}:user/simulated",
        }
        defaults: dict[str, Any] = {"volumes": [], "placementConstraints": []}
        return defaults | given | {"containerDefinitions": containers} | added

    def _describe_task_definition(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        definition = self._known(params["taskDefinition"])
        return _answer(definition, tags="TAGS" in params.get("include", []))

    def _deregister_task_definition(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        reference = params["taskDefinition"]
        if ":" not in reference.rsplit("/", 1)[-1]:
            raise ServiceError("ClientException", "Invalid revision number. Number: null")
        definition = self._known(reference)
        if definition.active:
            now = self._clock.now()
            definition.document |= {"status": "INACTIVE", "deregisteredAt": now}
            definition.refused_from = now + self.deregistration_seconds
        return _answer(definition, tags=False)

    def _delete_task_definitions(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        references = params["taskDefinitions"]
        if not 1 <= len(references) <= 10:
            raise ServiceError("InvalidParameterException", "1 to 10 task definitions can be deleted at once.")
        deleted: list[dict[str, Any]] = []
        failures: list[dict[str, str]] = []
        for reference in references:
            definition = self.find(reference)
            if definition is None:
                failures.append({"arn": reference, "reason": "The specified task definition does not exist."})
            elif definition.active:
                failures.append(
                    {"arn": reference, "reason": "The specified task definition is still in ACTIVE status."}
                )
            else:
                definition.document["status"] = "DELETE_IN_PROGRESS"
                deleted.append(definition.document)
                del self.families[definition.document["family"]].revisions[definition.document["revision"]]
        return {"taskDefinitions": deleted, "failures": failures}

    def _list_task_definitions(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        family, status = params.get("familyPrefix"), params.get("status", "ACTIVE")
        found = [d.arn for d in self.all() if d.document["status"] == status and family in {None, d.document["family"]}]
        if params.get("sort") == "DESC":
            found.reverse()
        return page_of("taskDefinitionArns", found, params)

    def _list_task_definition_families(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        prefix, status = params.get("familyPrefix", ""), params.get("status", "ALL")
        found = []
        for name, family in sorted(self.families.items()):
            active = any(d.active for d in family.revisions.values())
            if name.startswith(prefix) and status in {"ALL", "ACTIVE" if active else "INACTIVE"}:
                found.append(name)
        return page_of("families", found, params)

    def _known(self, reference: str) -> Definition:
        definition = self.find(reference)
        if definition is None:
            raise ServiceError("ClientException", "Unable to describe task definition.")
        return definition


def _answer(definition: Definition, *, tags: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {"taskDefinition": definition.document}
    return answer | ({"tags": definition.tags} if tags else {})


def page_of(key: str, items: list[Any], params: dict[str, Any]) -> dict[str, Any]:
    """One page of a list, as ECS pages: at most 100."""
    size = params.get("maxResults", 100)
    if not 1 <= size <= 100:
        raise ServiceError("InvalidParameterException", "maxResults must be between 1 and 100.")
    token = params.get("nextToken", "0")
    if not token.isdecimal():
        raise ServiceError("InvalidParameterException", "Invalid token.")
    start = int(token)
    page: dict[str, Any] = {key: items[start : start + size]}
    return page | ({"nextToken": str(start + size)} if start + size < len(items) else {})


def check_tags(tags: list[dict[str, str]]) -> None:
    """ECS's rules for tags; raises InvalidParameterException."""
    problem = ""
    keys = [tag.get("key", "") for tag in tags]
    if len(tags) > 50:
        problem = "Tags can have at most 50 items."
    elif len(set(keys)) < len(keys):
        problem = "Duplicate tag keys found. Please note that Tag keys are case insensitive."
    for tag in tags:
        key, value = tag.get("key", ""), tag.get("value", "")
        if not 1 <= len(key) <= 128 or len(value) > 256:
            problem = "Tag keys have 1 to 128 characters, values at most 256."
        elif not _TAG.fullmatch(key) or not _TAG.fullmatch(value):
            problem = "Invalid character in a tag."
        elif key.lower().startswith("aws:"):
            problem = "Tag keys can't begin with 'aws:'."
    if problem:
        raise ServiceError("InvalidParameterException", problem)


def check_definition(params: dict[str, Any]) -> None:
    """What AWS refuses in RegisterTaskDefinition; raises ClientException."""
    check_tags(params.get("tags", []))
    containers = params["containerDefinitions"]
    problem = _family_problem(params, containers)
    for container in containers:
        problem = problem or _container_problem(container, params)
    if "FARGATE" in params.get("requiresCompatibilities", []):
        problem = problem or _fargate_problem(params, containers)
    if problem:
        raise ServiceError("ClientException", problem)


def _family_problem(params: dict[str, Any], containers: list[dict[str, Any]]) -> str:
    names = [container.get("name") for container in containers]
    if not _NAME.fullmatch(params["family"]):
        return "Invalid family: only letters, numbers, hyphens and underscores are allowed, at most 255."
    if len(json.dumps(params, separators=(",", ":"))) > 65_536:
        return "Actual length of the task definition is greater than the allowed 65536 bytes."
    if not 1 <= len(containers) <= 10:
        return "Task definitions have 1 to 10 containers."
    if len(set(names)) < len(names):
        return "Container names must be unique within a task definition."
    if not any(container.get("essential", True) for container in containers):
        return "At least one container in the task must be marked as essential."
    return ""


def _container_problem(container: dict[str, Any], params: dict[str, Any]) -> str:
    name = container.get("name") or ""
    if not name:
        return "Container.name should not be null or empty."
    if not _NAME.fullmatch(name):
        return f"Invalid container name {name!r}."
    if not container.get("image"):
        return "Container.image should not be null or empty."
    if not (params.get("memory") or container.get("memory") or container.get("memoryReservation")):
        return (
            f"Invalid setting for container '{name}'. "
            "At least one of 'memory' or 'memoryReservation' must be specified."
        )
    return ""


def _fargate_problem(params: dict[str, Any], containers: list[dict[str, Any]]) -> str:
    cpu, memory = _units(params.get("cpu")), _units(params.get("memory"))
    if params.get("networkMode") != "awsvpc":
        return "Fargate only supports network mode 'awsvpc'."
    if not cpu or not memory:
        return "Fargate requires that 'cpu' be defined at the task level."
    if memory not in _FARGATE_MEMORY.get(cpu, set()):
        return "No Fargate configuration exists for given values."
    if not params.get("executionRoleArn"):
        if any(c.get("logConfiguration", {}).get("logDriver") == "awslogs" for c in containers):
            return "Fargate requires task definition to have execution role ARN to support log driver awslogs."
        if any(c.get("secrets") for c in containers):
            return "When you are specifying container secrets, you must also specify a value for 'executionRoleArn'."
    return ""


def _units(value: str | None) -> int:
    """ "1 vCPU", "2GB" and plain numbers, in CPU units or MiB; 0 when absent or not a number."""
    match = re.fullmatch(r"\s*([\d.]+)\s*(vcpu|gb)?\s*", value or "", re.IGNORECASE)
    if match is None:
        return 0
    return int(float(match[1]) * (_GIB if match[2] else 1))


def fargate_size_exists(cpu: str | None, memory: str | None) -> bool:
    """Whether Fargate offers that size."""
    return _units(memory) in _FARGATE_MEMORY.get(_units(cpu), set())
