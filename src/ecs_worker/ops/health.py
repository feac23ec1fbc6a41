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
from ecs_worker.model import DEFAULT_CLUSTER, AwsTarget

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric

    from ecs_worker.aws.session import Aws
    from ecs_worker.lifecycle.journal.journal import Journal
    from ecs_worker.lifecycle.loops import Pulse
    from ecs_worker.lifecycle.poll import Poll
    from ecs_worker.lifecycle.run.ledger import Ledger
    from ecs_worker.lifecycle.watch import Watch
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.settings import WorkerSettings

log = logging.getLogger(__name__)


class Observed(Protocol):
    """The parts of the worker that are shown."""

    @property
    def api(self) -> PrefectClient:
        """The Prefect API."""

    @property
    def aws(self) -> Aws:
        """The AWS services that it has asked."""

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
        yield GaugeMetricFamily(
            "ecs_worker_free_slots", "How many more flow runs may be claimed.", value=self._worker.ledger.free
        )
        waiting = GaugeMetricFamily(
            "ecs_worker_launches_waiting", "Launches that wait for AWS, by where they are asked for.", labels=["place"]
        )
        for place, (number, _, _) in self._worker.ledger.aside.waits().items():
            waiting.add_metric([_named(place)], number)
        yield waiting
        prefect = self._worker.api.transport.answered_ago
        if prefect is not None:
            text = "Seconds since the Prefect API answered last, whatever it said."
            yield GaugeMetricFamily("ecs_worker_prefect_answer_age_seconds", text, value=prefect)
        aws = GaugeMetricFamily(
            "ecs_worker_aws_answer_age_seconds",
            "Seconds since each AWS service answered last, by service, Region and account.",
            labels=["target"],
        )
        for target, seconds_ago in self._worker.aws.answers().items():
            if seconds_ago is not None:
                aws.add_metric([target], seconds_ago)
        yield aws
        if self._worker.poll.last is not None:
            age = self._worker.ledger.clock() - self._worker.poll.last
            yield GaugeMetricFamily(
                "ecs_worker_last_poll_age_seconds", "Seconds since the server answered a poll.", value=age
            )


def health_of(worker: Observed, settings: WorkerSettings) -> dict[str, Any]:
    """What /health says. Only the loops decide: Prefect, AWS and the slots may be as they are, the process is well."""
    hanging, ledger, clock = worker.pulse.hanging(), worker.ledger, worker.ledger.clock()
    prefect = worker.api.transport.answered_ago
    return {
        "healthy": not hanging,
        "hanging": hanging,
        "name": settings.name,
        "pool": settings.pool,
        "version": __version__,
        "runs": len(worker.ledger),
        "slots": {
            "free": ledger.free,
            "limit": ledger.limit,
            "kept_for_orphans": ledger.reserved,
            "launches_aside": len(ledger.aside),
        },
        "waits": [
            {"place": _named(place), "launches": number, "seconds": round(seconds, 1), "why": why}
            for place, (number, seconds, why) in ledger.aside.waits().items()
        ],
        "prefect_answered_seconds_ago": round(prefect, 1) if prefect is not None else None,
        "aws_answered_seconds_ago": worker.aws.answers(),
        "last_poll_seconds_ago": round(clock - worker.poll.last, 1) if worker.poll.last is not None else None,
        "loops_seconds_ago": {loop: round(age, 1) for loop, age in worker.pulse.ages().items()},
    }


def _named(place: object) -> str:
    """What a place where launches wait is called: a launch's own, or its deployment while the job is rendered."""
    match place:
        case (AwsTarget() as target, str(cluster), tuple(capacity)):
            parts = (target.region, cluster or DEFAULT_CLUSTER, "+".join(capacity))
            return " ".join(part for part in parts if part)
        case _:
            return f"deployment {place}"


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
