"""The worker channel: a WebSocket over which a work pool's server informs its workers (Prefect 3.7.2 and later).

It carries heartbeats, changes of the pool, and clean-up messages: orders to stop a flow run's infrastructure. A
clean-up message is reserved for one worker at a time. Unless it is acknowledged before its lease ends, it comes again,
perhaps to another worker. The format is Prefect's `work_pool_worker_channel.v1`.
"""

from __future__ import annotations

import logging
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote
from uuid import UUID, uuid4

import anyio

from ecs_worker.prefect_api.schemas import WorkPool
from ecs_worker.prefect_api.sockets import connections

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.sockets import Socket
    from ecs_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

_VERSION = "work_pool_worker_channel.v1"
_CAPABILITIES = ["worker_heartbeat.v1", "work_pool_snapshot.v1", "cleanup_delivery.v1"]
_TEARDOWN = "cancelling_timeout_teardown.v1"
_AT_ONCE = 10  # clean-up messages that this worker takes at the same time
_UNREADABLE = (AttributeError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Teardown:
    """An order to stop a run's infrastructure, because its cancellation took too long for the server.

    `infrastructure_pid` is the run's at that moment. After `lease_seconds` the order comes again.
    """

    message_id: UUID
    run_id: UUID
    infrastructure_pid: str | None
    lease_seconds: float
    reservation: str = field(repr=False)

    @classmethod
    def from_json(cls, frame: Mapping[str, Any]) -> Self:
        """Read a `cleanup.message.v1`. Both times are the server's, so our own clock doesn't matter."""
        payload = frame["payload"]
        lease = datetime.fromisoformat(payload["lease_expires_at"]) - datetime.fromisoformat(frame["sent_at"])
        return cls(
            message_id=UUID(payload["message_id"]),
            run_id=UUID(payload["target"]["flow_run_id"]),
            infrastructure_pid=payload["target"].get("infrastructure_pid") or None,
            lease_seconds=max(lease.total_seconds(), 1.0),
            reservation=payload["reservation_token"],
        )


def channel_path(pool: str) -> str:
    """Where the API has the channel of that pool's workers."""
    return f"/work_pools/{quote(pool, safe='')}/workers/connect"


class Channel:
    """This worker's channel. `know` is called with the pool at each connection, and whenever the pool changes."""

    def __init__(self, api: PrefectClient, settings: WorkerSettings, know: Callable[[WorkPool], None]) -> None:
        self._api = api
        self._settings = settings
        self._know = know
        self._consumer = str(uuid4())
        self._ready: Socket | None = None

    @property
    def ready(self) -> bool:
        """Whether the server has accepted the connection, which then brings every change of the pool."""
        return self._ready is not None

    async def run(self, obey: Callable[[Teardown], object]) -> None:
        """Listen while the worker runs. `obey` is called with each order, and must return at once.

        Returns if the server has no worker channel (before 3.7.2) or refuses this worker.
        """
        path = channel_path(self._settings.pool)
        otherwise = "Heartbeats and changes of the pool use other calls of the API."
        async with aclosing(connections(self._api, path, otherwise=otherwise)) as sockets:
            async for socket in sockets:
                try:
                    await socket.send(self._frame("worker.hello.v1", self._hello()))
                    while (frame := await socket.receive()) is not None:
                        self._take(socket, frame, obey)
                finally:
                    self._ready = None

    async def beat(self) -> bool:
        """Tell the server that this worker lives. False: there is no channel now, use another call."""
        return await self._send(
            "worker.heartbeat.v1",
            consumer_id=self._consumer,
            worker_name=self._settings.name,
            heartbeat_interval_seconds=self._settings.heartbeat_seconds,
        )

    async def acknowledge(self, order: Teardown) -> None:
        """Say that the order is carried out. If this doesn't arrive, the order comes again."""
        await self._answer("cleanup.ack.v1", order)

    async def release(self, order: Teardown, reason: str) -> None:
        """Say that the order can't be carried out here. The server gives it out again at once, three times in all."""
        await self._answer("cleanup.release.v1", order, reason=reason)

    async def keep(self, order: Teardown) -> None:
        """Renew the reservation until cancelled."""
        while True:
            await anyio.sleep(order.lease_seconds / 3)
            await self._answer("cleanup.renew.v1", order)

    def _take(self, socket: Socket, frame: Mapping[str, Any], obey: Callable[[Teardown], object]) -> None:
        try:
            match frame.get("type"):
                case "worker.ready.v1":
                    self._know(WorkPool.from_json(frame["payload"]["initial_snapshot"]["work_pool"]))
                    self._ready = socket
                case "work_pool.snapshot.v1":
                    self._know(WorkPool.from_json(frame["payload"]["work_pool"]))
                case "cleanup.message.v1":
                    obey(Teardown.from_json(frame))
                case "cleanup.operation_result.v1" if frame["payload"]["status"] != "accepted":
                    # The reservation has ended, so another worker may have the order, too. That does no harm.
                    log.debug("Clean-up: %(operation)s was %(status)s.", frame["payload"])
        except _UNREADABLE as error:
            # A clean-up message without an answer comes again, and the next connection brings the pool again.
            log.warning("The worker channel sent a %s that can't be read: %r", frame.get("type"), type(error))

    async def _answer(self, kind: str, order: Teardown, **more: str) -> None:
        await self._send(kind, message_id=str(order.message_id), reservation_token=order.reservation, **more)

    async def _send(self, kind: str, **payload: Any) -> bool:
        return self._ready is not None and await self._ready.send(self._frame(kind, payload))

    def _hello(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "consumer_id": self._consumer,
            "worker_name": settings.name,
            "worker_type": settings.type,
            "heartbeat_interval_seconds": settings.heartbeat_seconds,
            "supported_channel_versions": [_VERSION],
            "requested_capabilities": _CAPABILITIES,
            "work_queue_names": list(settings.work_queues),
            "handled_cleanup_kinds": [_TEARDOWN],
            "max_cleanup_concurrency": _AT_ONCE,
        }

    @staticmethod
    def _frame(kind: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        return {"type": kind, "id": str(uuid4()), "sent_at": datetime.now(UTC).isoformat(), "payload": payload}
