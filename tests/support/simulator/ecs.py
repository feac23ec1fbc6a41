"""ECS: RunTask and its idempotency, describing, listing and stopping tasks, clusters, tags."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from support.simulator.definitions import Definitions, check_tags, fargate_size_exists, page_of
from support.simulator.faults import What
from support.simulator.fleet import RETENTION, Fleet
from support.simulator.service import Buckets, Ids, Place, ServiceError
from support.simulator.tasks import Scripts, TaskScript

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from support.simulator.clock import Clock
    from support.simulator.definitions import Definition
    from support.simulator.faults import Call
    from support.simulator.fleet import Task
    from support.simulator.logs import Logs
    from support.simulator.sqs import Sqs

_TOKEN = re.compile(r"[\x21-\x7e]{1,64}")
_STARTED_BY = re.compile(r"[A-Za-z0-9\-/_]{0,128}")
_TOKEN_LIFE = 24 * 3600.0  # at most (ECS API reference, "Ensuring idempotency")
_FARGATE = ("FARGATE", "FARGATE_SPOT")
_OVERRIDES_MOST = 8192


@dataclass(slots=True)
class _Recorded:
    """What a clientToken stands for."""

    digest: str
    at: float
    tasks: list[Task] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)

    def expired(self, now: float) -> bool:
        """After min(24 h, the tasks' life + 1 h)."""
        if now >= self.at + _TOKEN_LIFE:
            return True
        ends = [task.document.get("stoppedAt") for task in self.tasks]
        return bool(ends) and all(end is not None and now >= end + RETENTION for end in ends)


@dataclass(slots=True)
class Cluster:
    """`most_tasks`: it has room for no more at once."""

    name: str
    capacity_providers: tuple[str, ...] = _FARGATE
    default_strategy: tuple[dict[str, Any], ...] = ()
    status: str = "ACTIVE"
    most_tasks: int | None = None


class Ecs:
    """The service in one Place. `clusters` holds those that exist."""

    service = "ecs"

    def __init__(self, place: Place, clock: Clock, ids: Ids, buckets: Buckets, logs: Logs, sqs: Sqs) -> None:
        self.place = place
        self.clusters: dict[str, Cluster] = {"default": Cluster("default")}
        self.definitions = Definitions(place, clock)
        self.fleet = Fleet(place, clock, ids, logs, sqs)
        self.scripts = Scripts(TaskScript())
        self.replays = 0  # RunTask calls that a clientToken answered
        self._clock = clock
        self._buckets = buckets
        self._tokens: dict[tuple[str, str], _Recorded] = {}
        self.actions: dict[
            str, Callable[[dict[str, Any], Call], dict[str, Any] | bytes | Awaitable[dict[str, Any]]]
        ] = {
            "CreateCluster": self._create_cluster,
            "DescribeClusters": self._describe_clusters,
            "DescribeTasks": self._describe_tasks,
            "ListClusters": self._list_clusters,
            "ListTagsForResource": self._list_tags_for_resource,
            "ListTasks": self._list_tasks,
            "RunTask": self._run_task,
            "StopTask": self._stop_task,
            "TagResource": self._tag_resource,
            "UntagResource": self._untag_resource,
            **self.definitions.actions,
        }

    def create_cluster(self, name: str) -> Cluster:
        return self.clusters.setdefault(name, Cluster(name))

    def forget(self) -> None:
        """Keep no record of what nobody can ask for any more: a long test needs the memory."""
        now = self._clock.now()
        self._tokens = {key: known for key, known in self._tokens.items() if not known.expired(now)}
        self.fleet.forget()

    # -- tasks ------------------------------------------------------------------------

    def _run_task(self, params: dict[str, Any], call: Call) -> dict[str, Any] | bytes:
        cluster = self._cluster(params)
        token = params.get("clientToken", "")
        digest = hashlib.sha256(
            json.dumps({k: v for k, v in params.items() if k != "clientToken"}, sort_keys=True).encode()
        ).hexdigest()
        check_run_task(params)
        recorded = self._recorded(cluster.name, token)
        if recorded is not None:
            return self._replay(recorded, digest)
        definition = self.definitions.runnable(params["taskDefinition"])
        capacity = _capacity(params, cluster)
        check_against_definition(params, definition, capacity)
        count = params.get("count", 1)
        provider = capacity.get("capacityProviderName", "")
        if capacity["launchType"] == "FARGATE" and not self._buckets.take("Fargate RunTask", count, provider):
            raise ServiceError("ThrottlingException", "Rate exceeded")
        recorded = _Recorded(digest, self._clock.now())
        if token:
            self._tokens[cluster.name, token] = recorded
        if call.what is What.FAILURES and call.fault is not None:
            recorded.failures = [_failure(call.fault.reason) for _ in range(count)]
            return {"tasks": [], "failures": recorded.failures}
        if cluster.most_tasks is not None and self.fleet.living(cluster.name) + count > cluster.most_tasks:
            recorded.failures = [_failure("RESOURCE:MEMORY") for _ in range(count)]
            return {"tasks": [], "failures": recorded.failures}
        for _ in range(count):
            recorded.tasks.append(self._launch(params, call.text, cluster, definition, capacity))
        return _tasks_answer(recorded.tasks, [], tags=bool(params.get("tags")))

    def _launch(
        self, params: dict[str, Any], text: str, cluster: Cluster, definition: Definition, capacity: dict[str, str]
    ) -> Task:
        overrides = params.get("overrides", {})
        defined = definition.document
        document: dict[str, Any] = {
            "attachments": [],
            "attributes": [{"name": "ecs.cpu-architecture", "value": "x86_64"}],
            "cpu": overrides.get("cpu") or defined.get("cpu", "256"),
            "enableExecuteCommand": params.get("enableExecuteCommand", False),
            "group": params.get("group") or f"family:{defined['family']}",
            "memory": overrides.get("memory") or defined.get("memory", "512"),
            "overrides": {"containerOverrides": [], "inferenceAcceleratorOverrides": []} | overrides,
            **capacity,
        }
        if capacity["launchType"] == "FARGATE":
            version = params.get("platformVersion", "LATEST")
            document["platformVersion"] = "1.4.0" if version == "LATEST" else version
            document["platformFamily"] = "Linux"
            document["ephemeralStorage"] = overrides.get("ephemeralStorage", {"sizeInGiB": 20})
        if params.get("startedBy"):
            document["startedBy"] = params["startedBy"]
        tags = list(params.get("tags", []))
        if params.get("propagateTags") == "TASK_DEFINITION":
            given = {tag["key"] for tag in tags}
            tags += [tag for tag in definition.tags if tag["key"] not in given]
        if params.get("enableECSManagedTags"):
            tags.append({"key": "aws:ecs:clusterName", "value": cluster.name})
        return self.fleet.launch(
            cluster.name,
            definition,
            document,
            tags=tags,
            script=self.scripts.choose(text),
            token=params.get("clientToken", ""),
        )

    def _recorded(self, cluster: str, token: str) -> _Recorded | None:
        recorded = self._tokens.get((cluster, token)) if token else None
        if recorded is not None and recorded.expired(self._clock.now()):
            del self._tokens[cluster, token]
            return None
        return recorded

    def _replay(self, recorded: _Recorded, digest: str) -> dict[str, Any]:
        if digest != recorded.digest:
            raise ServiceError(
                "ConflictException",
                "The request could not be processed because of conflict in the current state of the resource: the "
                "clientToken was used with other parameters.",
                members={"resourceIds": [task.arn for task in recorded.tasks]},
            )
        self.replays += 1
        tasks = []
        for task in recorded.tasks:
            document = task.document
            if task.status == "STOPPED":
                document = {key: document[key] for key in ("taskArn", "lastStatus", "desiredStatus")}
            tasks.append(document)
        return {"tasks": tasks, "failures": recorded.failures}

    def _describe_tasks(self, params: dict[str, Any], _: Call) -> bytes:
        references = params["tasks"]
        if not references:
            raise ServiceError("InvalidParameterException", "Tasks cannot be empty.")
        if len(references) > 100:
            raise ServiceError("InvalidParameterException", "Tasks can have at most 100 items.")
        cluster = self._cluster(params).name
        found: list[Task] = []
        failures: list[dict[str, str]] = []
        for reference in references:
            task = self.fleet.find(reference, cluster)
            if task is not None:
                found.append(task)
            else:
                arn = reference
                if not reference.startswith("arn:"):
                    arn = self.place.arn("ecs", f"task/{cluster}/{reference}")
                failures.append(_failure("MISSING", arn))
        return _tasks_answer(found, failures, tags="TAGS" in params.get("include", []))

    def _list_tasks(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        cluster = self._cluster(params).name
        started_by = params.get("startedBy")
        others = [key for key in ("family", "serviceName", "containerInstance", "launchType") if key in params]
        if started_by is not None and others:
            raise ServiceError("InvalidParameterException", "When you specify startedBy, it must be the only filter.")
        desired = params.get("desiredStatus", "RUNNING")
        now = self._clock.now()
        candidates = self.fleet.tasks.values() if started_by is None else self.fleet.by_started_by.get(started_by, ())
        found = [
            task.arn
            for task in candidates
            if task.cluster == cluster
            and task.document["desiredStatus"] == desired
            and task.visible_at <= now
            and params.get("family") in {None, task.definition.document["family"]}
            and params.get("launchType") in {None, task.document["launchType"]}
        ]
        return page_of("taskArns", found, params)

    def _stop_task(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        task = self.fleet.find(params["task"], self._cluster(params).name, unseen=True)
        if task is None:
            raise ServiceError("InvalidParameterException", "The referenced task was not found.")
        if task.status != "STOPPED":
            task.tags.clear()
        reason = params.get("reason", "Task stopped by user")
        self.fleet.stop(task, "UserInitiated", reason, task.script.stopped_exit_code)
        return {"task": task.document}

    # -- clusters and tags ------------------------------------------------------------

    def _create_cluster(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        cluster = self.create_cluster(params.get("clusterName", "default"))
        cluster.capacity_providers = tuple(params.get("capacityProviders", cluster.capacity_providers))
        cluster.default_strategy = tuple(params.get("defaultCapacityProviderStrategy", ()))
        return {"cluster": self._cluster_document(cluster)}

    def _describe_clusters(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        failures: list[dict[str, str]] = []
        for reference in params.get("clusters") or ["default"]:
            cluster = self.clusters.get(reference.rsplit("/", 1)[-1])
            if cluster is not None:
                found.append(self._cluster_document(cluster))
            else:
                failures.append(_failure("MISSING", self._cluster_arn(reference.rsplit("/", 1)[-1])))
        return {"clusters": found, "failures": failures}

    def _list_clusters(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        return page_of("clusterArns", [self._cluster_arn(name) for name in self.clusters], params)

    def _tag_resource(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        check_tags(params["tags"])
        tags = self._tags_of(params["resourceArn"])
        given = {tag["key"] for tag in params["tags"]}
        tags[:] = [tag for tag in tags if tag["key"] not in given] + params["tags"]
        return {}

    def _untag_resource(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        tags = self._tags_of(params["resourceArn"])
        tags[:] = [tag for tag in tags if tag["key"] not in params["tagKeys"]]
        return {}

    def _list_tags_for_resource(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        return {"tags": self._tags_of(params["resourceArn"])}

    # -- inside -----------------------------------------------------------------------

    def _tags_of(self, arn: str) -> list[dict[str, str]]:
        task = self.fleet.tasks.get(arn.rsplit("/", 1)[-1])
        if task is not None and task.arn == arn:
            return task.tags
        definition = self.definitions.find(arn)
        if definition is not None:
            return definition.tags
        raise ServiceError("InvalidParameterException", "The specified resource was not found.")

    def _cluster(self, params: dict[str, Any]) -> Cluster:
        reference = params.get("cluster", "default")
        if not reference:
            raise ServiceError("InvalidParameterException", "Cluster name can not be empty.")
        name = reference.rsplit("/", 1)[-1]
        cluster = self.clusters.get(name)
        if cluster is None or (reference.startswith("arn:") and reference != self._cluster_arn(name)):
            raise ServiceError("ClusterNotFoundException", "Cluster not found.")
        return cluster

    def _cluster_arn(self, name: str) -> str:
        return self.place.arn("ecs", f"cluster/{name}")

    def _cluster_document(self, cluster: Cluster) -> dict[str, Any]:
        tasks = [t for t in self.fleet.tasks.values() if t.cluster == cluster.name and t.status != "STOPPED"]
        running = sum(task.status == "RUNNING" for task in tasks)
        return {
            "clusterArn": self._cluster_arn(cluster.name),
            "clusterName": cluster.name,
            "status": cluster.status,
            "registeredContainerInstancesCount": 0,
            "runningTasksCount": running,
            "pendingTasksCount": len(tasks) - running,
            "activeServicesCount": 0,
            "statistics": [],
            "tags": [],
            "settings": [],
            "capacityProviders": list(cluster.capacity_providers),
            "defaultCapacityProviderStrategy": list(cluster.default_strategy),
        }


def _failure(reason: str, arn: str = "") -> dict[str, str]:
    return {"arn": arn, "reason": reason} if arn else {"reason": reason}


def _tasks_answer(tasks: list[Task], failures: list[dict[str, str]], *, tags: bool) -> bytes:
    """Tasks' kept JSON, put together: a hundred of them cost next to nothing."""
    documents = b",".join([task.json(tags=tags) for task in tasks])
    return b'{"tasks":[' + documents + b'],"failures":' + json.dumps(failures).encode() + b"}"


def _capacity(params: dict[str, Any], cluster: Cluster) -> dict[str, str]:
    """launchType and capacityProviderName of the tasks to come."""
    if "launchType" in params:
        return {"launchType": params["launchType"]}
    strategy = params.get("capacityProviderStrategy") or cluster.default_strategy
    if not strategy:
        return {"launchType": "EC2"}
    unknown = [
        item["capacityProvider"] for item in strategy if item["capacityProvider"] not in cluster.capacity_providers
    ]
    if unknown:
        raise ServiceError(
            "InvalidParameterException",
            f"The specified capacity provider {unknown[0]!r} is not associated with the cluster.",
        )
    chosen = max(strategy, key=lambda item: (item.get("base", 0), item.get("weight", 0)))["capacityProvider"]
    return {"launchType": "FARGATE" if chosen in _FARGATE else "EC2", "capacityProviderName": chosen}


def check_run_task(params: dict[str, Any]) -> None:
    """What AWS refuses in RunTask whatever the definition; raises InvalidParameterException."""
    check_tags(params.get("tags", []))
    for problem in (
        _identity_problem(params),
        _strategy_problem(params),
        _overrides_problem(params),
        _network_problem(params),
    ):
        if problem:
            raise ServiceError("InvalidParameterException", problem)


def _identity_problem(params: dict[str, Any]) -> str:
    token = params.get("clientToken")
    if token is not None and not _TOKEN.fullmatch(token):
        return "clientToken has 1 to 64 ASCII characters from 33 to 126."
    if not _STARTED_BY.fullmatch(params.get("startedBy", "")):
        return "startedBy has at most 128 letters, numbers, hyphens, forward slashes and underscores."
    if not 1 <= params.get("count", 1) <= 10:
        return "Count should be between 1 and 10."
    return ""


def _strategy_problem(params: dict[str, Any]) -> str:
    strategy = params.get("capacityProviderStrategy", [])
    if strategy and "launchType" in params:
        return (
            "Specifying both a launch type and capacity provider strategy is not supported. Remove one and try again."
        )
    if len(strategy) > 20:
        return "A capacity provider strategy has at most 20 items."
    if len(strategy) > 1 and all(not item.get("weight") for item in strategy):
        return "A capacity provider strategy needs one item with a weight greater than zero."
    if sum(bool(item.get("base")) for item in strategy) > 1:
        return "Only one capacity provider in a strategy can have a base defined."
    if len({item["capacityProvider"] in _FARGATE for item in strategy}) > 1:
        return "A capacity provider strategy can't mix Fargate and Auto Scaling group capacity providers."
    return ""


def _overrides_problem(params: dict[str, Any]) -> str:
    overrides = params.get("overrides", {})
    if len(json.dumps(overrides, separators=(",", ":"))) > _OVERRIDES_MOST:
        return "Container Overrides length must be at most 8192"
    size = overrides.get("ephemeralStorage", {}).get("sizeInGiB")
    if size is not None and not 21 <= size <= 200:
        return "Ephemeral storage must be between 21 and 200 GiB."
    if any("roleArn" not in v.get("managedEBSVolume", {"roleArn": ""}) for v in params.get("volumeConfigurations", [])):
        return "managedEBSVolume needs a roleArn."
    return ""


def _network_problem(params: dict[str, Any]) -> str:
    awsvpc = params.get("networkConfiguration", {}).get("awsvpcConfiguration", {})
    if len(awsvpc.get("subnets", [])) > 16:
        return "subnets can have at most 16 items."
    if len(awsvpc.get("securityGroups", [])) > 5:
        return "securityGroups can have at most 5 items."
    return ""


def check_against_definition(params: dict[str, Any], definition: Definition, capacity: dict[str, str]) -> None:
    """What AWS refuses in RunTask for that definition; raises InvalidParameterException."""
    defined = definition.document
    overrides = params.get("overrides", {})
    for problem in (_mode_problem(params, defined, capacity), _container_problem(overrides, defined)):
        if problem:
            raise ServiceError("InvalidParameterException", problem)
    if params.get("enableExecuteCommand") and not (overrides.get("taskRoleArn") or defined.get("taskRoleArn")):
        raise ServiceError(
            "InvalidParameterException",
            "A valid taskRoleArn is not being used. Specify a valid task role in your task definition and try again.",
        )


def _mode_problem(params: dict[str, Any], defined: dict[str, Any], capacity: dict[str, str]) -> str:
    awsvpc = "awsvpcConfiguration" in params.get("networkConfiguration", {})
    fargate = capacity["launchType"] == "FARGATE"
    overrides = params.get("overrides", {})
    if fargate and "FARGATE" not in defined["compatibilities"]:
        return "Task definition does not support launch_type FARGATE."
    if defined.get("networkMode") == "awsvpc" and not awsvpc:
        return "Network Configuration must be provided when networkMode 'awsvpc' is specified."
    if defined.get("networkMode") != "awsvpc" and awsvpc:
        return "Network Configuration is not valid for the given networkMode of this task definition."
    cpu, memory = overrides.get("cpu") or defined.get("cpu"), overrides.get("memory") or defined.get("memory")
    if fargate and not fargate_size_exists(cpu, memory):
        return "No Fargate configuration exists for given values."
    return ""


def _container_problem(overrides: dict[str, Any], defined: dict[str, Any]) -> str:
    names = {container["name"] for container in defined["containerDefinitions"]}
    for override in overrides.get("containerOverrides", []):
        if override.get("name") not in names:
            return f"Override for container named {override.get('name')} is not a container in the TaskDefinition."
    return ""
