"""The Prefect API as this worker uses it, the same for 2.20 and 3.x."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote
from uuid import UUID

from ecs_worker import __version__
from ecs_worker.errors import PrefectNotFound, PrefectRejected
from ecs_worker.prefect_api.budget import Urgency, as_urgent
from ecs_worker.prefect_api.schemas import (
    Deployment,
    Flow,
    FlowRun,
    LogEntry,
    Orchestration,
    ProposedState,
    RunState,
    StateType,
    Worker,
    WorkPool,
    WorkQueue,
)
from ecs_worker.prefect_api.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from datetime import datetime
    from types import TracebackType

    from ecs_worker.settings import PrefectSettings

_T = TypeVar("_T")

_PAGE = 200  # the server's own default and maximum; an administrator can lower it

_CONFLICT, _GONE, _UNPROCESSABLE = 409, 410, 422


class PrefectClient:
    """One client for the life of the worker; safe for concurrent use.

    Methods raise kinds of PrefectError: PrefectNotFound if an object is missing, unless the method says otherwise;
    PrefectUnreachable and PrefectUnavailable after bounded retries, when nobody knows whether the request took effect.
    `patience_seconds`: no attempt starts later than this after a request's first attempt.
    """

    def __init__(self, settings: PrefectSettings, version: str = __version__, *, patience_seconds: float = 60) -> None:
        self.transport = Transport(settings, version, patience_seconds)
        self._page = _PAGE
        self._has_labels = True
        self._has_events = True

    async def __aenter__(self) -> Self:
        await self.transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.transport.__aexit__(kind, error, trace)

    # -- the server

    @property
    def is_cloud(self) -> bool:
        """Whether the API is Prefect Cloud's: its URL names an account and a workspace."""
        return self.transport.is_cloud

    async def health(self) -> bool:
        """Whether the API answers now: one attempt, without retries."""
        return await self.transport.answers()

    async def server_version(self) -> str | None:
        """The server's Prefect version, such as "3.8.8"; None on Cloud, which has none."""
        return None if self.is_cloud else await self.transport.get("/admin/version", str)

    # -- pools and workers

    async def read_pool(self, name: str) -> WorkPool | None:
        """The work pool, or None when there is none of that name."""
        try:
            return await self.transport.get(f"/work_pools/{_part(name)}", WorkPool.from_json)
        except PrefectNotFound:
            return None

    async def create_pool(
        self, name: str, template: Mapping[str, Any], *, pool_type: str = "ecs", **fields: Any
    ) -> WorkPool:
        """Create a work pool. If it exists already (another worker was faster), it is returned as it is.

        `fields` are further ones, such as `is_paused`, `concurrency_limit` and `description`.
        """
        body = {"name": name, "type": pool_type, "base_job_template": template, **fields}
        try:
            return await self.transport.post("/work_pools/", body, WorkPool.from_json)
        except PrefectRejected as error:
            if error.status != _CONFLICT:
                raise
        return await self.transport.get(f"/work_pools/{_part(name)}", WorkPool.from_json)

    async def update_pool(self, name: str, **fields: Any) -> None:
        """Change fields of a work pool, such as `base_job_template` or `concurrency_limit`."""
        await self.transport.tell("PATCH", f"/work_pools/{_part(name)}", fields)

    async def heartbeat(self, pool: str, worker_name: str, interval_seconds: int) -> UUID | None:
        """Tell the pool that this worker lives. Returns the worker's id on Cloud, None on self-hosted servers."""
        path = f"/work_pools/{_part(pool)}/workers/heartbeat"
        body = {"name": worker_name, "heartbeat_interval_seconds": interval_seconds}
        with as_urgent(Urgency.BEAT):
            if not self.is_cloud:
                await self.transport.tell("POST", path, body)
                return None
            return await self.transport.post(path, body | {"return_id": True}, _worker_id)

    async def workers(self, pool: str, status: str | None = None) -> list[Worker]:
        """The pool's workers; with `status` ("ONLINE", "OFFLINE") only those."""
        body = {"workers": {"status": {"any_": [status]}}} if status else {}
        workers = await self._pages(f"/work_pools/{_part(pool)}/workers/filter", body, _workers)
        # 2.20 accepts the status filter, but doesn't apply it.
        return [worker for worker in workers if status is None or worker.status == status]

    async def queue_names(self, pool: str, queues: Collection[str]) -> list[str]:
        """Those of the work queues that the pool has. PrefectNotFound: there is no such pool."""
        body = {"work_queues": {"name": {"any_": list(queues)}}}
        return await self._pages(f"/work_pools/{_part(pool)}/queues/filter", body, _names)

    async def queues(self, pool: str) -> list[WorkQueue]:
        """All the pool's work queues. PrefectNotFound: there is no such pool."""
        return await self._pages(f"/work_pools/{_part(pool)}/queues/filter", {}, _queues)

    async def count_slots(self, pool: str, queue: str | None = None) -> int:
        """How many slots are taken of the pool's concurrency limit, or of one of its queues'.

        Only Pending and Running runs take one.
        """
        states = [StateType.PENDING, StateType.RUNNING]
        body: dict[str, Any] = {
            "work_pools": {"name": {"any_": [pool]}},
            "flow_runs": {"state": {"type": {"any_": states}}},
        }
        if queue is not None:
            body["work_pool_queues"] = {"name": {"any_": [queue]}}
        return await self.transport.post("/flow_runs/count", body, int)

    async def newest_workers(self, pool: str) -> list[Worker]:
        """Those of the pool's workers that beat last, dead or alive: one page, which the server sorts so."""
        return await self._limited(f"/work_pools/{_part(pool)}/workers/filter", {}, self._page, _workers)

    # -- flow runs

    async def scheduled_runs(
        self, pool: str, *, queues: Sequence[str] = (), before: datetime | None = None, limit: int | None = None
    ) -> list[FlowRun]:
        """Runs of the pool that wait to be claimed and are due `before`, in the order to take them.

        At most `limit`; none if the pool is paused. Nothing is reserved: other workers see the same runs.
        PrefectNotFound: the pool or one of `queues` does not exist.
        """
        body: dict[str, Any] = {}
        if queues:
            body["work_queue_names"] = list(queues)
        if before is not None:
            body["scheduled_before"] = before.isoformat()
        path = f"/work_pools/{_part(pool)}/get_scheduled_flow_runs"
        with as_urgent(Urgency.POLL):
            if limit is None or limit >= self._page:
                runs = await self.transport.post(path, body, _polled)  # as many as the server allows
            else:
                runs = await self._limited(path, body, limit, _polled)
        return runs[:limit]

    async def propose_state(
        self, run_id: UUID, state: ProposedState, *, force: bool = False, patience_seconds: float | None = None
    ) -> Orchestration:
        """Propose a state. Every retry is the same request with the same transition id, which identifies it.

        After PrefectUnreachable or PrefectUnavailable the server may have accepted the state: propose the same again.
        """
        body = {"state": state.to_json(run_id), "force": force}
        path = f"/flow_runs/{run_id}/set_state"
        return await self.transport.post(path, body, Orchestration.from_json, patience_seconds=patience_seconds)

    async def read_run(self, run_id: UUID) -> FlowRun | None:
        """The flow run, or None when it has been deleted."""
        try:
            return await self.transport.get(f"/flow_runs/{run_id}", FlowRun.from_json)
        except PrefectNotFound:
            return None

    async def update_run(self, run_id: UUID, **fields: Any) -> bool:
        """Change fields of a run, such as `infrastructure_pid`. False when it has been deleted."""
        try:
            await self.transport.tell("PATCH", f"/flow_runs/{run_id}", fields)
        except PrefectNotFound:
            return False
        return True

    async def label_run(self, run_id: UUID, labels: Mapping[str, Any]) -> None:
        """Add labels to the run's. Does nothing on servers without labels (before 3.1.6)."""
        if not self._has_labels:
            return
        try:
            with as_urgent(Urgency.TELL):
                await self.transport.tell("PATCH", f"/flow_runs/{run_id}/labels", labels)
        except PrefectNotFound:
            # The answer is the same for a deleted run and from a server without labels. Only the latter is remembered.
            self._has_labels = await self.read_run(run_id) is None

    async def runs(
        self,
        *,
        pool: str | None = None,
        states: Collection[StateType] | None = None,
        ids: Collection[UUID] | None = None,
        names: Collection[str] | None = None,
    ) -> list[FlowRun]:
        """All flow runs that match every given filter, each once, by expected start time.

        Pages are read one after the other. If a run leaves the filter meanwhile, another may be missed until the next
        call.
        """
        body: dict[str, Any] = {"sort": "EXPECTED_START_TIME_ASC"}
        if pool is not None:
            body["work_pools"] = {"name": {"any_": [pool]}}
        wanted: dict[str, Any] = {}
        if states is not None:
            wanted["state"] = {"type": {"any_": list(states)}}
        if names is not None:
            wanted["name"] = {"any_": list(names)}
        found: dict[UUID, FlowRun] = {}
        for chunk in [None] if ids is None else _chunks([str(run_id) for run_id in ids], _PAGE):
            flow_runs = wanted if chunk is None else wanted | {"id": {"any_": chunk}}
            most = None if chunk is None else len(chunk)
            page = await self._pages("/flow_runs/filter", body | {"flow_runs": flow_runs}, _runs, most)
            found |= {run.id: run for run in page}
        return list(found.values())

    async def run_ids(
        self, *, pool: str, states: Collection[StateType], queues: Collection[str] = (), named: str | None = None
    ) -> list[UUID]:
        """The ids of all flow runs of the pool that are in these states: little to keep, however many there are.

        `queues`: only runs of these work queues; `named`: only runs whose state has that name.
        """
        state: dict[str, Any] = {"type": {"any_": list(states)}}
        if named is not None:
            state["name"] = {"any_": [named]}
        body: dict[str, Any] = {
            "work_pools": {"name": {"any_": [pool]}},
            "flow_runs": {"state": state},
            "sort": "ID_DESC",
        }
        if queues:
            body["work_pool_queues"] = {"name": {"any_": list(queues)}}
        return await self._linked_ids("/flow_runs/filter", body)

    async def count_runs(self, ids: Collection[UUID]) -> int:
        """How many of these runs exist."""
        body = {"flow_runs": {"id": {"any_": list(map(str, ids))}}}
        return await self.transport.post("/flow_runs/count", body, int)

    async def state_history(self, run_id: UUID) -> list[RunState]:
        """All states the run has been in, oldest first."""
        return await self.transport.get(f"/flow_run_states/?flow_run_id={run_id}", _states)

    # -- flows, deployments, blocks and variables

    async def read_flow(self, flow_id: UUID) -> Flow:
        """The flow."""
        return await self.transport.get(f"/flows/{flow_id}", Flow.from_json)

    async def flow_names(self, ids: Collection[UUID]) -> dict[UUID, str]:
        """What the flows are called; without those that have been deleted."""
        found: dict[UUID, str] = {}
        for chunk in _chunks(sorted(map(str, ids)), self._page):
            body = {"flows": {"id": {"any_": chunk}}}
            found |= {flow.id: flow.name for flow in await self._pages("/flows/filter", body, _flows, len(chunk))}
        return found

    async def read_deployment(self, deployment_id: UUID) -> Deployment | None:
        """The deployment, or None when it has been deleted."""
        try:
            return await self.transport.get(f"/deployments/{deployment_id}", Deployment.from_json)
        except PrefectNotFound:
            return None

    async def deployment_by_name(self, name: str) -> Deployment | None:
        """The deployment called "flow/deployment", or None."""
        flow, _, deployment = name.partition("/")
        path = f"/deployments/name/{_part(flow)}/{_part(deployment)}"
        try:
            return await self.transport.get(path, Deployment.from_json)
        except PrefectNotFound:
            return None

    async def deployments(self, pool: str) -> list[Deployment]:
        """All deployments of the work pool, by name."""
        body = {"work_pools": {"name": {"any_": [pool]}}, "sort": "NAME_ASC"}
        return await self._pages("/deployments/filter", body, _deployments)

    async def read_block_document(self, block_id: UUID | str, *, secrets: bool = True) -> dict[str, Any]:
        """A block's data: keep it out of logs and errors. Its secrets are ******** if `secrets` is False."""
        path = f"/block_documents/{_part(str(block_id))}?include_secrets={str(secrets).lower()}"
        return await self.transport.get(path, _data)

    async def read_block_document_by_name(self, type_slug: str, name: str, *, secrets: bool = True) -> dict[str, Any]:
        """The same, by the block's type and name, as in `{{ prefect.blocks.<type>.<name> }}`."""
        path = f"/block_types/slug/{_part(type_slug)}/block_documents/name/{_part(name)}"
        return await self.transport.get(f"{path}?include_secrets={str(secrets).lower()}", _data)

    async def read_variable(self, name: str) -> Any:
        """A Prefect variable's value: any JSON, null too; a string on 2.20. PrefectNotFound: there is none."""
        return await self.transport.get(f"/variables/name/{_part(name)}", _value)

    # -- logs, events and leases

    async def write_logs(self, entries: Sequence[LogEntry]) -> int:
        """Send log lines. Returns the number of lines that the server refused.

        The server refuses a whole batch because of one bad entry. A refused batch is halved until only the bad entries
        are left out. After a lost answer the lines are sent again: a line may appear twice, but is never lost.
        """
        with as_urgent(Urgency.TELL):
            return await self._write_logs([entry.to_json() for entry in entries])

    async def newest_logs(self, run_id: UUID, *, offset: int = 0) -> list[LogEntry]:
        """One page of a run's log lines, newest first; empty after the last."""
        body = {"logs": {"flow_run_id": {"any_": [str(run_id)]}}, "sort": "TIMESTAMP_DESC", "offset": offset}
        return await self._limited("/logs/filter", body, self._page, _logs)

    async def logs_between(self, run_id: UUID, first: datetime, last: datetime, *, most_pages: int) -> list[LogEntry]:
        """A run's log lines of that time, oldest first: at most so many pages."""
        timestamps = {"after_": first.isoformat(), "before_": last.isoformat()}
        logs = {"flow_run_id": {"any_": [str(run_id)]}, "timestamp": timestamps}
        body = {"logs": logs, "sort": "TIMESTAMP_ASC"}
        return await self._pages("/logs/filter", body, _logs, most_pages=most_pages)

    async def write_events(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Send events. Does nothing on servers without events (2.20)."""
        if not self._has_events or not events:
            return
        try:
            with as_urgent(Urgency.TELL):
                await self.transport.tell("POST", "/events", list(events))
        except PrefectNotFound:
            self._has_events = False

    async def renew_lease(self, lease_id: UUID, seconds: int) -> bool:
        """Keep a deployment concurrency slot for `seconds` more (60 to 86400). False: the slot is gone."""
        try:
            with as_urgent(Urgency.BEAT):
                path = f"/v2/concurrency_limits/leases/{lease_id}/renew"
                await self.transport.tell("POST", path, {"lease_duration": seconds})
        except PrefectNotFound:
            return False
        except PrefectRejected as error:
            if error.status != _GONE:
                raise
            return False
        return True

    async def _write_logs(self, entries: list[dict[str, Any]]) -> int:
        if not entries:
            return 0
        try:
            await self.transport.tell("POST", "/logs/", entries)
        except PrefectRejected as error:
            if not 400 <= error.status < 500:  # noqa: PLR2004 - the client errors
                raise
        else:
            return 0
        if len(entries) == 1:
            return 1
        middle = len(entries) // 2
        return await self._write_logs(entries[:middle]) + await self._write_logs(entries[middle:])

    async def _pages(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Any], list[_T]],
        most: int | None = None,
        most_pages: int | None = None,
    ) -> list[_T]:
        """All objects, or those of the first `most_pages`. `most`: the caller knows that there are no more."""
        found: list[_T] = []
        for number in count(1):
            page = await self._limited(path, {**body, "offset": len(found)}, self._page, read)
            found += page
            if len(page) < self._page or len(found) == most or number == most_pages:
                break
        return found

    async def _linked_ids(self, path: str, body: Mapping[str, Any]) -> list[UUID]:
        """All ids, page by page.

        Each page begins with the last id of the one before. Where it doesn't, runs have left the filter meanwhile and
        others have moved up: then the pages go back until they link again, so that none stays hidden between two.
        """
        found: dict[UUID, None] = {}  # in their order
        offset = back = 0
        while True:
            page = await self._limited(path, {**body, "offset": offset}, self._page, _ids)
            linked = offset == 0 or back >= self._page or (bool(page) and page[0] in found)
            if not linked:
                back = min(2 * back, self._page)
            else:
                found |= dict.fromkeys(page)
                if len(page) < self._page:
                    return list(found)
                back = 1
            offset = max(len(found) - back, 0)

    async def _limited(
        self, path: str, body: Mapping[str, Any], limit: int, read: Callable[[Any], list[_T]]
    ) -> list[_T]:
        """Ask for at most `limit` objects; for fewer if the server's own limit, which can't be read, is lower."""
        while True:
            limit = min(limit, self._page)
            try:
                return await self.transport.post(path, {**body, "limit": limit}, read)
            except PrefectRejected as error:
                if error.status != _UNPROCESSABLE or "Invalid limit" not in str(error) or limit == 1:
                    raise
                self._page = min(self._page, limit // 2)


def _part(name: str) -> str:
    return quote(name, safe="")


def _chunks(values: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _polled(answer: list[Any]) -> list[FlowRun]:
    return [FlowRun.from_json(entry["flow_run"]) for entry in answer]


def _runs(answer: list[Any]) -> list[FlowRun]:
    return [FlowRun.from_json(raw) for raw in answer]


def _ids(answer: list[Any]) -> list[UUID]:
    return [UUID(raw["id"]) for raw in answer]


def _names(answer: list[Any]) -> list[str]:
    return [str(raw["name"]) for raw in answer]


def _states(answer: list[Any]) -> list[RunState]:
    return [RunState.from_json(raw) for raw in answer]


def _logs(answer: list[Any]) -> list[LogEntry]:
    return [LogEntry.from_json(raw) for raw in answer]


def _queues(answer: list[Any]) -> list[WorkQueue]:
    return [WorkQueue.from_json(raw) for raw in answer]


def _flows(answer: list[Any]) -> list[Flow]:
    return [Flow.from_json(raw) for raw in answer]


def _workers(answer: list[Any]) -> list[Worker]:
    return [Worker.from_json(raw) for raw in answer]


def _deployments(answer: list[Any]) -> list[Deployment]:
    return [Deployment.from_json(raw) for raw in answer]


def _worker_id(answer: Mapping[str, Any]) -> UUID:
    return UUID(answer["id"])


def _data(answer: Mapping[str, Any]) -> dict[str, Any]:
    return dict(answer["data"])


def _value(answer: Mapping[str, Any]) -> Any:
    return answer["value"]
