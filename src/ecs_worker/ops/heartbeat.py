"""Heartbeat: tell the work pool that this worker lives, and keep up with changes of the pool."""

from __future__ import annotations

import json
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random

from ecs_worker.errors import (
    PrefectError,
    PrefectNotFound,
    PrefectRejected,
    PrefectUnauthorized,
    PrefectUnavailable,
    PrefectUnreachable,
    UserError,
)
from ecs_worker.job.variables import default_base_job_template
from ecs_worker.lifecycle.loops import every
from ecs_worker.prefect_api.channel import Channel
from ecs_worker.prefect_api.schemas import last_heartbeats

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from pathlib import Path
    from uuid import UUID

    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import WorkPool
    from ecs_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

MARK_EVERY = 2.0  # seconds between two heartbeats that are marks for a successor
PATIENCE = 60.0  # seconds to wait at the start for a server that is not up yet; then the worker ends and says why


class Heartbeat:
    """Keeps the worker ONLINE. Learns of changes of the pool within one interval, or at once over the channel.

    While `marks` says so, this worker's successor goes on from its last heartbeat, and so it beats more often.
    """

    def __init__(
        self, api: PrefectClient, settings: WorkerSettings, api_url: str, marks: Callable[[], bool] = bool
    ) -> None:
        self._api = api
        self._settings = settings
        self._api_url = api_url
        self._marks = marks
        self._before: dict[str, datetime] | None = None
        self._pool: WorkPool | None = None
        self.channel = Channel(api, settings, self._know)
        self.server_version: str | None = None
        self.worker_id: UUID | None = None
        self.beat_at: float | None = None

    @property
    def pool(self) -> WorkPool:
        """The pool as last read."""
        assert self._pool is not None, "begin() comes first"
        return self._pool

    @property
    def before(self) -> Mapping[str, datetime]:
        """When each worker of the pool had beaten last before this one's first heartbeat, one of its own name too."""
        return self._before or {}

    async def begin(self) -> None:
        """Find or create the pool, and appear among its workers. Raises UserError if that is not possible."""
        template = read_template(self._settings.base_job_template)
        try:
            with anyio.fail_after(PATIENCE):
                await self._reach()
            busy = AsyncRetrying(
                retry=retry_if_exception_type((PrefectUnavailable, PrefectUnreachable)),
                wait=wait_random(1, 3),
                stop=stop_after_delay(PATIENCE),
                reraise=True,
            )
            await busy(self._introduce, template)
        except TimeoutError:
            raise UserError(
                f"The Prefect API at {self._api_url} did not answer within {PATIENCE:.0f} s. "
                "Is the server running, and PREFECT_API_URL right?"
            ) from None
        except PrefectUnauthorized as error:
            raise UserError(
                f"The Prefect API at {self._api_url} refuses this worker's credentials ({error}). "
                "Check PREFECT_API_KEY, or PREFECT_API_AUTH_STRING for a server that asks for user:password."
            ) from None
        except PrefectRejected as error:
            raise UserError(f"The work pool {self._settings.pool!r} can't be set up: {error}.") from None
        except PrefectError as error:
            raise UserError(
                f"The Prefect API at {self._api_url} can't be used: {error}. Is PREFECT_API_URL right? It ends in /api."
            ) from None

    async def run(self) -> None:
        """Beat for ever: over the channel while there is one, which also brings changes of the pool."""
        trouble = "The heartbeat did not reach the Prefect API"
        async with anyio.create_task_group() as loops:
            loops.start_soon(every, MARK_EVERY, self._mark)
            await every(self._settings.heartbeat_seconds, self._keep_up, trouble=trouble)

    async def _mark(self) -> None:
        if not self._marks() or self._settings.heartbeat_seconds <= MARK_EVERY:
            return
        if not await self._beat_by_channel() and not self._api.is_cloud:  # which counts calls
            with suppress(PrefectError):  # the next regular heartbeat tells
                await self.beat()

    async def _keep_up(self) -> None:
        if await self._beat_by_channel():
            return
        try:
            await self.beat()
        except PrefectNotFound:
            log.warning("The work pool %s does not exist any more.", self._settings.pool)
            return
        pool = await self._api.read_pool(self._settings.pool)
        if pool is not None and not self.channel.ready:  # what the channel has brought meanwhile is newer
            self._know(pool)

    async def _beat_by_channel(self) -> bool:
        """Whether there is a channel, and the heartbeat went over it."""
        sent = time.monotonic()
        if went := await self.channel.beat():
            self.beat_at = sent
        return went

    def _know(self, pool: WorkPool) -> None:
        self._pool = pool

    async def beat(self) -> UUID | None:
        """Tell the server once. The worker's id, on Cloud. Raises PrefectError."""
        settings, sent = self._settings, time.monotonic()
        worker_id = await self._api.heartbeat(settings.pool, settings.name, settings.heartbeat_seconds)
        self.beat_at = sent
        return worker_id

    async def _introduce(self, template: Mapping[str, Any] | None) -> None:
        self._pool = await self._find_or_create(template)
        if self._before is None:  # only once: after a lost answer it would be our own heartbeat
            workers = await self._api.newest_workers(self._settings.pool)
            self._before = last_heartbeats(workers)
        self.worker_id = await self.beat()
        self.server_version = await self._api.server_version()

    async def _reach(self) -> None:
        """Wait until the server answers at all; it may start at the same time as this worker."""
        warned = False
        while not await self._api.health():
            if not warned:
                log.warning("The Prefect API at %s does not answer yet; trying for %.0f s.", self._api_url, PATIENCE)
                warned = True
            await anyio.sleep(1.0)

    async def _find_or_create(self, template: Mapping[str, Any] | None) -> WorkPool:
        name = self._settings.pool
        pool = await self._api.read_pool(name)
        if pool is None:
            if not self._settings.create_pool_if_not_found:
                raise UserError(
                    f"There is no work pool {name!r} at {self._api_url}. Create it (`prefect work-pool create {name} "
                    "--type ecs`), correct --pool, or leave --no-create-pool-if-not-found out."
                )
            pool = await self._api.create_pool(name, template or default_base_job_template())
            log.info("Created work pool %s.", name)
        elif template is not None:
            log.info("--base-job-template is not used: the work pool %s exists already and has its own.", name)
        if pool.type != "ecs":
            log.warning(
                "The work pool %s is of type %r, not 'ecs': its jobs may not suit this worker.", name, pool.type
            )
        if not pool.base_job_template:
            await self._api.update_pool(name, base_job_template=template or default_base_job_template())
            log.info("Gave work pool %s the default base job template, since it had none.", name)
            pool = await self._api.read_pool(name) or pool
        return pool


def read_template(path: Path | None) -> Mapping[str, Any] | None:
    """The base job template in a JSON file. Raises UserError that says what is wrong with the file."""
    if path is None:
        return None
    try:
        template: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--base-job-template {path} can't be read: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"--base-job-template {path} is not JSON: {error}.") from None
    missing = [
        key for key in ("job_configuration", "variables") if not isinstance(template, dict) or key not in template
    ]
    if missing:
        raise UserError(
            f"--base-job-template {path} lacks {' and '.join(repr(key) for key in missing)}. "
            "`prefect work-pool get-default-base-job-template --type ecs` prints one to start from."
        )
    return template
