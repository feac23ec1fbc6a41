"""Health and metrics over HTTP: /health for the checks of ECS and load balancers, /metrics for Prometheus."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from ecs_worker import __version__
from ecs_worker.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric

    from ecs_worker.lifecycle.journal.journal import Journal
    from ecs_worker.lifecycle.loops import Pulse
    from ecs_worker.lifecycle.poll import Poll
    from ecs_worker.lifecycle.run.ledger import Ledger
    from ecs_worker.lifecycle.watch import Watch
    from ecs_worker.settings import WorkerSettings

log = logging.getLogger(__name__)


class Observed(Protocol):
    """The parts of the worker that are shown."""

    @property
    def ledger(self) -> Ledger:
        """The runs that it holds."""

    @property
    def journal(self) -> Journal:
        """What happened to them."""

    @property
    def poll(self) -> Poll:
        """The loop that asks for scheduled runs."""

    @property
    def pulse(self) -> Pulse:
        """Whether its loops turn."""

    @property
    def watch(self) -> Watch:
        """The loop that looks at tasks."""


class _Metrics:
    """Reads the ledger when asked, so that nothing has to be counted a second time."""

    def __init__(self, worker: Observed) -> None:
        self._worker = worker

    def collect(self) -> Iterable[Metric]:
        held = GaugeMetricFamily("ecs_worker_runs", "Flow runs held now, by phase.", labels=["phase"])
        for phase, number in self._worker.ledger.phases.items():
            held.add_metric([phase], number)
        yield held
        events = CounterMetricFamily(
            "ecs_worker_events", "What happened to flow runs since the start.", labels=["event"]
        )
        for event, number in self._worker.journal.counts.items():
            events.add_metric([event], number)
        yield events
        late = "How many seconds the most overdue look at a task is late."
        yield GaugeMetricFamily("ecs_worker_watch_late_seconds", late, value=self._worker.watch.late)
        loops = GaugeMetricFamily("ecs_worker_loop_age_seconds", "Seconds since each loop turned.", labels=["loop"])
        for loop, seconds in self._worker.pulse.ages().items():
            loops.add_metric([loop], seconds)
        yield loops
        if self._worker.poll.last is not None:
            age = self._worker.ledger.clock() - self._worker.poll.last
            yield GaugeMetricFamily(
                "ecs_worker_last_poll_age_seconds", "Seconds since the server answered a poll.", value=age
            )


def health_of(worker: Observed, settings: WorkerSettings) -> dict[str, Any]:
    """What /health says. Only the loops decide: Prefect, AWS and the slots may be as they are, the process is well."""
    hanging, clock = worker.pulse.hanging(), worker.ledger.clock()
    return {
        "healthy": not hanging,
        "hanging": hanging,
        "name": settings.name,
        "pool": settings.pool,
        "version": __version__,
        "runs": len(worker.ledger),
        "free_slots": worker.ledger.free,
        "last_poll_seconds_ago": round(clock - worker.poll.last, 1) if worker.poll.last is not None else None,
        "loops_seconds_ago": {loop: round(age, 1) for loop, age in worker.pulse.ages().items()},
    }


async def serve(worker: Observed, settings: WorkerSettings) -> None:
    """Serve until cancelled. Raises UserError if the address can't be used."""
    registry = CollectorRegistry()
    registry.register(_Metrics(worker))

    async def health(_: web.Request) -> web.Response:
        told = health_of(worker, settings)
        return web.json_response(told, status=200 if told["healthy"] else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.add_routes([web.get("/health", health), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    host, _, port = settings.health_address.rpartition(":")
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except OSError as error:
            raise UserError(
                f"--health-address {settings.health_address} can't be used: {error.strerror}. Choose another."
            ) from None
        log.info("Health and metrics are served at http://%s.", settings.health_address)
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await runner.cleanup()
