"""What Prefect says of itself, of the work pool and of its deployments."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from ecs_worker.doctor.asking import side_by_side
from ecs_worker.doctor.checks.prefect import PrefectFacts
from ecs_worker.doctor.finding import Untold
from ecs_worker.errors import UserError
from ecs_worker.prefect_api.channel import channel_path
from ecs_worker.prefect_api.event_stream import PATH as EVENT_STREAM
from ecs_worker.prefect_api.sockets import obstacle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ecs_worker.doctor.asking import Asking
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import Deployment

T = TypeVar("T")


@dataclass(frozen=True)
class PoolFound:
    """What Prefect says, and the pool's deployments by what they are called: `flow/deployment`."""

    facts: PrefectFacts
    deployments: Mapping[str, Deployment] | Untold = field(default_factory=dict)


class PrefectGatherer:
    """Asks the Prefect API. `url`: what it is called."""

    def __init__(self, api: PrefectClient, url: str, asking: Asking) -> None:
        self._api = api
        self._url = url
        self._asking = asking

    async def gather(self, pool: str | None, deployment: str | None) -> PoolFound:
        """Everything about the server, the pool, and its deployments: all, or the one that is named.

        Raises UserError if there is no such deployment, or it is another pool's.
        """
        facts = PrefectFacts(self._url, await self._ask("time", self._api.transport.server_time), wanted=pool)
        if facts.obstacle:
            return PoolFound(facts)
        facts = replace(facts, version=await self._ask("version", lambda: self._version(pool)))
        if facts.obstacle:
            return PoolFound(facts)
        chosen = await self._ask("deployment", lambda: self._deployment(deployment, pool))
        if isinstance(chosen, Untold):
            if isinstance(chosen.error, UserError):
                raise chosen.error
            return PoolFound(facts, chosen)
        if chosen is not None:
            queues = filter(None, [chosen.work_queue_name])
            facts = replace(facts, wanted=chosen.work_pool_name, served=frozenset(queues))
        stream, facts = await side_by_side(
            lambda: self._ask("event stream", lambda: obstacle(self._api, EVENT_STREAM)),
            lambda: self._with_pool(facts),
        )
        facts = replace(facts, event_stream=stream)
        name = facts.wanted
        if facts.pool_obstacle or name is None:
            return PoolFound(facts)
        if chosen is not None and deployment is not None:
            return PoolFound(facts, {deployment: chosen})
        return PoolFound(facts, await self._ask("deployments", lambda: self._deployments(name)))

    async def _ask(self, key: object, ask: Callable[[], Awaitable[T]]) -> T | Untold:
        return await self._asking.get(("prefect", key), ask)

    async def _version(self, pool: str | None) -> str | None:
        """Cloud tells none; so there any other question shows whether it takes the credentials."""
        if self._api.is_cloud:
            await self._api.read_pool(pool or "default")
        return await self._api.server_version()

    async def _deployment(self, name: str | None, pool: str | None) -> Deployment | None:
        if name is None:
            return None
        found = await self._api.deployment_by_name(name)
        if found is None:
            raise UserError(f"There is no deployment {name!r}: write it as flow/deployment.")
        if not found.work_pool_name:
            raise UserError(f"The deployment {name!r} belongs to no work pool: give it one of type 'ecs'.")
        if pool is not None and found.work_pool_name != pool:
            raise UserError(
                f"The deployment {name!r} is of the work pool {found.work_pool_name!r}, not {pool!r}: leave --pool out."
            )
        return found

    async def _deployments(self, pool: str) -> dict[str, Deployment]:
        found = await self._api.deployments(pool)
        names = await self._api.flow_names({each.flow_id for each in found})
        return {f"{names.get(each.flow_id, each.flow_id)}/{each.name}": each for each in found}

    async def _with_pool(self, facts: PrefectFacts) -> PrefectFacts:
        if (name := facts.wanted) is None:
            return facts
        pool = await self._ask("pool", lambda: self._api.read_pool(name))
        if pool is None or isinstance(pool, Untold):
            return replace(facts, pool=pool)
        queues, channel = await side_by_side(
            lambda: self._ask("queues", lambda: self._api.queues(name)),
            lambda: self._ask("channel", lambda: obstacle(self._api, channel_path(name))),
        )
        known = [] if isinstance(queues, Untold) else queues
        limited = [queue.name for queue in known if queue.concurrency_limit] + [""] * bool(pool.concurrency_limit)

        async def taken(queue: str) -> int | Untold:
            return await self._ask(("slots", queue), lambda: self._api.count_slots(name, queue or None))

        slots = {queue: await taken(queue) for queue in limited}
        return replace(facts, pool=pool, queues=queues, channel=channel, slots=slots)
