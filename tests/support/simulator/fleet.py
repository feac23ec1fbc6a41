"""The tasks of one Place and their lives."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from support.simulator.flow_container import FlowEnd, play_flow
from support.simulator.tasks import LogScript, TaskScript, fails_to_start

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from support.simulator.clock import Clock, Timer
    from support.simulator.definitions import Definition
    from support.simulator.logs import Logs, LogStream
    from support.simulator.service import Ids, Place
    from support.simulator.sqs import Sqs

Player = Callable[["Task", Callable[[], None]], Awaitable[FlowEnd]]
"""What a flow container does: gets its task, and what to call once the server lets the flow run."""
RETENTION = 3600.0  # simulated seconds that a stopped task can be described (at least; ECS API, DescribeTasks)
_START = ("PROVISIONING", "PENDING", "ACTIVATING", "RUNNING")
_STOP = ("DEACTIVATING", "STOPPING", "DEPROVISIONING")


@dataclass(slots=True, eq=False)
class Task:
    """One task. `document` is what DescribeTasks gives, without tags."""

    id: str
    cluster: str
    definition: Definition
    document: dict[str, Any]
    tags: list[dict[str, str]]
    script: TaskScript
    environment: dict[str, str]  # of the container that the overrides name first
    token: str
    visible_at: float
    started: bool = False
    streams: list[LogStream] = field(default_factory=list)
    flow: asyncio.Task[None] | None = None
    timer: Timer | None = None
    exit_code: int | None = None
    _plain: bytes | None = None

    @property
    def arn(self) -> str:
        return str(self.document["taskArn"])

    @property
    def status(self) -> str:
        return str(self.document["lastStatus"])

    @property
    def stopping(self) -> bool:
        return bool(self.document["desiredStatus"] == "STOPPED")

    @property
    def started_by(self) -> str:
        return str(self.document.get("startedBy", ""))

    @property
    def flow_run_id(self) -> str:
        return self.environment.get("PREFECT__FLOW_RUN_ID", "")

    def changed(self, **values: Any) -> None:
        self.document |= values
        self.document["version"] += 1
        self._plain = None

    def json(self, *, tags: bool) -> bytes:
        """The document as sent. Kept until it changes: fleets are described far more often than they change."""
        if self._plain is None:
            self._plain = json.dumps(self.document, separators=(",", ":")).encode()
        if not tags:
            return self._plain
        return self._plain[:-1] + b',"tags":' + json.dumps(self.tags).encode() + b"}"


class Fleet:
    """Starts tasks and leads them through their scripts. `player` plays the flows of those whose script has one."""

    def __init__(self, place: Place, clock: Clock, ids: Ids, logs: Logs, sqs: Sqs) -> None:
        self.place = place
        self.tasks: dict[str, Task] = {}  # by id, in the order of their launch
        self.launched: list[Task] = []  # all that ever were, the forgotten too
        self.by_started_by: dict[str, list[Task]] = defaultdict(list)
        self.flow_runs: dict[str, list[str]] = defaultdict(list)  # flow run -> ARNs of tasks that really ran it
        self.http: ClientSession | None = None  # for the flow containers
        self.player: Player = self._play_over_http
        self._clock = clock
        self._ids = ids
        self._logs = logs
        self._sqs = sqs

    def find(self, reference: str, cluster: str, *, unseen: bool = False) -> Task | None:
        """By ARN or id; None when it isn't (yet, any more, or in that cluster) known. `unseen`: the yet missing too."""
        task = self.tasks.get(reference.rsplit("/", 1)[-1])
        if task is None or task.cluster != cluster or (task.visible_at > self._clock.now() and not unseen):
            return None
        return task if not reference.startswith("arn:") or reference == task.arn else None

    def living(self, cluster: str) -> int:
        """How many tasks of the cluster have not stopped."""
        return sum(task.cluster == cluster and task.status != "STOPPED" for task in self.tasks.values())

    def forget(self) -> None:
        """Keep no record of tasks that can't be described any more."""
        self.launched = [task for task in self.launched if task.id in self.tasks]
        known = {task.flow_run_id for task in self.launched}
        for run_id in [run_id for run_id in self.flow_runs if run_id not in known]:
            del self.flow_runs[run_id]

    def launch(
        self,
        cluster: str,
        definition: Definition,
        document: dict[str, Any],
        *,
        tags: list[dict[str, str]],
        script: TaskScript,
        token: str,
    ) -> Task:
        """A new task, PROVISIONING. `document` has what the request decides; the rest is added here."""
        now = self._clock.now()
        task_id = self._ids.hex()
        arn = self.place.arn("ecs", f"task/{cluster}/{task_id}")
        document |= {
            "taskArn": arn,
            "clusterArn": self.place.arn("ecs", f"cluster/{cluster}"),
            "taskDefinitionArn": definition.arn,
            "availabilityZone": f"{self.place.region}{'abc'[len(self.launched) % 3]}",
            "connectivity": "CONNECTED",
            "connectivityAt": now,
            "containers": self._containers(arn, definition, script),
            "createdAt": now,
            "desiredStatus": "RUNNING",
            "healthStatus": "UNKNOWN",
            "lastStatus": "PROVISIONING",
            "version": 1,
        }
        environment = _environment(definition, document.get("overrides", {}))
        task = Task(
            task_id, cluster, definition, document, tags, script, environment, token, visible_at=now + script.missing
        )
        self.tasks[task_id] = task
        self.launched.append(task)
        self.by_started_by[task.started_by].append(task)
        self._sqs.publish(document)
        self._stay(task, "PROVISIONING", now)
        return task

    def stop(self, task: Task, stop_code: str, reason: str, exit_code: int | None, when: float | None = None) -> None:
        """Begins the task's end; nothing when it has begun already."""
        if task.stopping:
            return
        when = self._clock.now() if when is None else when
        if task.timer is not None:
            task.timer.cancel()
        task.exit_code = exit_code
        changes = {"desiredStatus": "STOPPED", "stopCode": stop_code, "stoppedReason": reason, "stoppingAt": when}
        task.document |= changes
        self._wind_down(task, when)
        # Last: the flow itself may be what ends the task, and then this cancels it where it stands.
        if task.flow is not None and task.flow is not asyncio.current_task():
            task.flow.cancel()

    async def close(self) -> None:
        flows = [task.flow for task in self.launched if task.flow is not None and not task.flow.done()]
        for flow in flows:
            flow.cancel()
        await asyncio.gather(*flows, return_exceptions=True)

    # -- a task's way -----------------------------------------------------------------

    def _stay(self, task: Task, status: str, when: float) -> None:
        """Plans what follows a status that the task entered at `when`."""
        script = task.script
        seconds = {
            "PROVISIONING": script.provisioning,
            "PENDING": script.pending,
            "ACTIVATING": script.activating,
            "RUNNING": script.running,
        }[status]
        if status == "RUNNING" and script.flow is not None:
            task.flow = asyncio.get_running_loop().create_task(self._play(task))
        elif seconds is not None:
            task.timer = self._clock.call_at(when + seconds, lambda due: self._leave(task, status, due))

    def _leave(self, task: Task, status: str, when: float) -> None:
        script = task.script
        if status == "RUNNING":
            self.stop(task, script.stop_code, script.reason, script.exit_code, when)
            return
        if script.fails_in == status:
            self.stop(task, script.stop_code, script.reason, None, when)
            return
        following = _START[_START.index(status) + 1]
        if following == "RUNNING":
            self._start(task, when)
        else:
            times = {"PENDING": {}, "ACTIVATING": {"pullStartedAt": task.document["createdAt"], "pullStoppedAt": when}}
            self._enter(task, following, times[following])
            self._stay(task, following, when)

    def _start(self, task: Task, when: float) -> None:
        if not self._open_streams(task, when):
            broken = fails_to_start("log_group_missing")
            self.stop(task, broken.stop_code, broken.reason, None, when)
            return
        task.started = True
        for container in task.document["containers"]:
            container |= {"lastStatus": "RUNNING", "runtimeId": f"{task.id}-{self._ids.serial()}"}
            container["imageDigest"] = f"sha256:{self._ids.hex(64)}"
        self._enter(task, "RUNNING", {"startedAt": when})
        self._stay(task, "RUNNING", when)

    def _wind_down(self, task: Task, when: float) -> None:
        """The statuses from RUNNING to STOPPED, spread over the script's `stopping`."""
        step = task.script.stopping / len(_STOP)
        if not step:
            self._stopped(task, when)
            return
        self._enter(task, _STOP[0], {})
        for number, status in enumerate(_STOP[1:], 1):
            self._enter_at(task, status, when + step * number)
        self._clock.call_at(when + task.script.stopping, lambda due: self._stopped(task, due))

    def _stopped(self, task: Task, when: float) -> None:
        for stream in task.streams:
            stream.ended = when
        for position, container in enumerate(task.document["containers"]):
            self._end_container(task, position, container)
        self._enter(task, "STOPPED", {"stoppedAt": when, "executionStoppedAt": when})
        self._clock.call_at(when + RETENTION, lambda _: self._forget(task))

    def _end_container(self, task: Task, position: int, container: dict[str, Any]) -> None:
        own = task.script.containers.get(container["name"])
        container["lastStatus"] = "STOPPED"
        reason = own.reason if own else task.script.container_reason if position == 0 else ""
        if reason:
            container["reason"] = reason
        if own is not None and own.health != "UNKNOWN":
            container["healthStatus"] = own.health
            task.document["healthStatus"] = own.health
        code = own.exit_code if own else task.exit_code if position == 0 else 143
        if task.started and code is not None:
            container["exitCode"] = code

    def _enter(self, task: Task, status: str, times: dict[str, float]) -> None:
        task.changed(lastStatus=status, **times)
        self._sqs.publish(task.document)

    def _enter_at(self, task: Task, status: str, when: float) -> None:
        self._clock.call_at(when, lambda _: self._enter(task, status, {}))

    def _forget(self, task: Task) -> None:
        self.tasks.pop(task.id, None)
        remaining = [other for other in self.by_started_by[task.started_by] if other is not task]
        if remaining:
            self.by_started_by[task.started_by] = remaining
        else:
            del self.by_started_by[task.started_by]

    # -- what containers do -----------------------------------------------------------

    async def _play_over_http(self, task: Task, on_running: Callable[[], None]) -> FlowEnd:
        if self.http is None or task.script.flow is None:
            raise RuntimeError("a flow container needs the simulator to be open and a flow script")
        return await play_flow(self.http, task.environment, task.script.flow, on_running)

    async def _play(self, task: Task) -> None:
        end = await self.player(task, lambda: self._ran(task))
        code = {FlowEnd.DONE: 0, FlowEnd.UNREACHABLE: 1, FlowEnd.UNTOLD: task.script.exit_code}[end]
        self.stop(task, task.script.stop_code, task.script.reason, code)

    def _ran(self, task: Task) -> None:
        self.flow_runs[task.flow_run_id].append(task.arn)

    def _open_streams(self, task: Task, when: float) -> bool:
        """The containers' log streams. False when a group is missing that the definition does not create."""
        containers = task.definition.document["containerDefinitions"]
        for position, container in enumerate(containers):
            configuration = container.get("logConfiguration") or {}
            options = configuration.get("options") or {}
            group, prefix = options.get("awslogs-group"), options.get("awslogs-stream-prefix")
            if configuration.get("logDriver") != "awslogs" or not group:
                continue
            if options.get("awslogs-create-group") == "true":
                self._logs.create_group(group)
            if group not in self._logs.groups:
                return False
            if prefix:
                script = (task.script.log if position == 0 else None) or LogScript()
                name = f"{prefix}/{container['name']}/{task.id}"
                task.streams.append(self._logs.open_stream(group, name, script, when))
        return True

    def _containers(self, arn: str, definition: Definition, script: TaskScript) -> list[dict[str, Any]]:
        task_id = arn.rsplit("/", 1)[-1]
        known = [(c["name"], c["image"], c) for c in definition.document["containerDefinitions"]]
        known += [(name, "injected", {}) for name in script.injected_containers]
        containers = []
        for name, image, defined in known:
            container = {
                "containerArn": self.place.arn("ecs", f"container/{task_id}/{self._ids.hex(12)}"),
                "taskArn": arn,
                "name": name,
                "image": image,
                "lastStatus": "PENDING",
                "networkInterfaces": [],
                "healthStatus": "UNKNOWN",
                "cpu": str(defined.get("cpu", 0)),
            }
            containers.append(container | ({"memory": str(defined["memory"])} if "memory" in defined else {}))
        return containers


def _environment(definition: Definition, overrides: dict[str, Any]) -> dict[str, str]:
    """The flow container's environment: the overridden container's, or the first one's."""
    containers = definition.document["containerDefinitions"]
    override: dict[str, Any] = next(iter(overrides.get("containerOverrides", [])), {})
    name = override.get("name", containers[0]["name"])
    defined = next((c for c in containers if c["name"] == name), containers[0])
    entries = [*defined.get("environment", []), *override.get("environment", [])]
    return {entry["name"]: entry.get("value", "") for entry in entries}
