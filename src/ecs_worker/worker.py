"""The worker: one process. It builds the parts, runs their loops under one root task group, and stops in two steps.

The way of a flow run, one module of `lifecycle/` for each step (`lifecycle/way.py` shows it on one screen):

    poll → claim → render → define → launch → sign → watch → report
                                        ↑ adopt (after a restart, or another worker's death)
                            cancel ─────┘

- `poll` asks for scheduled runs; `way` carries each from its claim to its task, side by side for up to
  `max_launching` runs, with the `patience` that AWS needs.
- `run/` is the state: `Run` the facts of one run, `ledger` all runs that are held, `decide` every judgement of an end.
- `watch` sweeps over all launched tasks, `listen` hears of them sooner; `report` tells the ends that the runs can't
  tell themselves.
- `cancel`, `cleanup`, `renew` and `adopt` look at the server's side; `journal/` tells what happens.

Every loop runs under the root group: one that ends unexpectedly ends the worker, and ECS starts it anew. Stopping
takes two steps: first no more is taken in, then open launches get their time. Tasks keep running and are adopted.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
from anyio.lowlevel import checkpoint

from ecs_worker import __version__
from ecs_worker.aws.session import Aws
from ecs_worker.errors import PrefectError, PrefectNotFound, UserError
from ecs_worker.job.unread import unread_in_template
from ecs_worker.lifecycle.adopt import Adopt
from ecs_worker.lifecycle.cancel import Cancel
from ecs_worker.lifecycle.claim import Claim
from ecs_worker.lifecycle.cleanup import Cleanup
from ecs_worker.lifecycle.colleagues import Colleagues
from ecs_worker.lifecycle.define import Define
from ecs_worker.lifecycle.journal.event_feed import EventFeed
from ecs_worker.lifecycle.journal.journal import Journal
from ecs_worker.lifecycle.journal.output import ContainerOutput
from ecs_worker.lifecycle.journal.run_logs import RunLogs
from ecs_worker.lifecycle.journal.sieve import Sieve
from ecs_worker.lifecycle.launch import Launch
from ecs_worker.lifecycle.listen import Listener
from ecs_worker.lifecycle.locate import Locate
from ecs_worker.lifecycle.loops import PULSE, Pulse
from ecs_worker.lifecycle.patience import Patience
from ecs_worker.lifecycle.poll import Poll
from ecs_worker.lifecycle.rendering.render import Render
from ecs_worker.lifecycle.renew import Renewal
from ecs_worker.lifecycle.report import Report
from ecs_worker.lifecycle.run.ledger import Ledger
from ecs_worker.lifecycle.sign import Sign
from ecs_worker.lifecycle.watch import Watch
from ecs_worker.lifecycle.way import Steps, Way
from ecs_worker.ops.heartbeat import Heartbeat
from ecs_worker.ops.reach import warn_of_loopback
from ecs_worker.prefect_api.client import PrefectClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from anyio import CancelScope
    from anyio.abc import TaskGroup

    from ecs_worker.settings import PrefectSettings, WorkerSettings

log = logging.getLogger(__name__)

SLOW_START = 8.0  # seconds after which a start that waits says so
LAST_WORDS = 2.0  # seconds that the last ends, lines and events are worth at the very end


@dataclass(frozen=True, slots=True)
class Parts:
    """All that a worker is made of."""

    api: PrefectClient
    aws: Aws
    ledger: Ledger
    heartbeat: Heartbeat
    run_logs: RunLogs
    events: EventFeed
    output: ContainerOutput
    journal: Journal
    locate: Locate
    patience: Patience
    steps: Steps
    way: Way
    poll: Poll
    adopt: Adopt
    watch: Watch
    listener: Listener | None
    report: Report
    cancel: Cancel
    cleanup: Cleanup
    renewal: Renewal
    pulse: Pulse

    @property
    def loops(self) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
        """What runs for ever beside the intake (`poll`, `adopt`)."""
        listening = () if self.listener is None else (self.listener.run,)
        return (
            self.heartbeat.run,
            self.run_logs.run,
            self.events.run,
            self.output.run,
            self.steps.sign.run,
            self.watch.run,
            *listening,
            self.report.run,
            self.cancel.run,
            self.cancel.listen,
            self.cleanup.run,
            self.renewal.run,
        )


def build(
    settings: WorkerSettings,
    prefect: PrefectSettings,
    api: PrefectClient,
    aws: Aws,
    *,
    stopping: anyio.Event,
    clock: Callable[[], float] = time.monotonic,
) -> Parts:
    """Put the parts together. Nothing is asked and no loop runs yet; `clock` is what they judge time by."""
    ledger = Ledger(limit=settings.limit, max_launching=settings.max_launching, clock=clock)
    run_logs = RunLogs(api)
    output = ContainerOutput(aws, run_logs, Sieve(api), ledger)
    heartbeat = Heartbeat(api, settings, prefect.shown_url, marks=output.in_log)
    events = EventFeed(api, settings.name, heartbeat)
    journal = Journal(run_logs, events, output, settings.name)

    render = Render(api, aws, settings, prefect, heartbeat)
    locate = Locate(aws, render, settings.cluster)
    patience = Patience(api, ledger, journal, stopping)
    steps = Steps(
        claim=Claim(api, ledger, journal, settings.name, lambda: locate.home),
        render=render,
        define=Define(aws),
        launch=Launch(aws, ledger, locate, patience),
        sign=Sign(api, ledger, settings.name),
    )
    way = Way(steps, patience, locate, ledger, journal)
    watch = Watch(aws, ledger, locate, journal, settings)
    return Parts(
        api=api,
        aws=aws,
        ledger=ledger,
        heartbeat=heartbeat,
        run_logs=run_logs,
        events=events,
        output=output,
        journal=journal,
        locate=locate,
        patience=patience,
        steps=steps,
        way=way,
        poll=Poll(api, ledger, settings, way.send_scheduled),
        adopt=Adopt(api, ledger, locate, way, settings, Colleagues(api, settings, heartbeat, aws.shared_by)),
        watch=watch,
        listener=Listener(aws, ledger, watch, settings.events_queue) if settings.events_queue else None,
        report=Report(api, ledger, journal, locate, way, settings.report_grace_seconds),
        cancel=Cancel(api, ledger, watch, settings, heartbeat),
        cleanup=Cleanup(api, aws, ledger, locate, watch, heartbeat.channel),
        renewal=Renewal(api, ledger),
        pulse=Pulse(clock),
    )


class Worker:
    """One worker process."""

    def __init__(self, settings: WorkerSettings, prefect: PrefectSettings) -> None:
        self._settings = settings
        self._prefect = prefect
        self.stopping = anyio.Event()
        """Set to make the worker take its leave politely, as SIGTERM does."""
        self.parts: Parts | None = None
        """What the worker is made of, once it runs."""

    async def run(self) -> None:
        """Work until `stopping` is set or a signal comes. Raises UserError if it can't begin.

        Signals are heard from the first moment, so that an interrupt never breaks in where nobody awaits it.
        """
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with anyio.create_task_group() as whole:
                whole.start_soon(self._heed_signals, signals)
                await self._work()
                whole.cancel_scope.cancel()

    async def _work(self) -> None:
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(PrefectClient(self._prefect))
            aws = await stack.enter_async_context(Aws())
            await aws.check()
            self.parts = parts = build(self._settings, self._prefect, api, aws, stopping=self.stopping)
            name, pool = self._settings.name, self._settings.pool
            await self._begin(parts)
            if self.stopping.is_set():
                log.info("Worker %s has stopped before it took any flow run.", name)
                return
            log.info(
                "Worker %s %s takes flow runs of work pool %s at %s.", name, __version__, pool, self._prefect.shown_url
            )
            for unread in unread_in_template(parts.heartbeat.pool.base_job_template):
                log.warning("The base job template of work pool %s: %s", pool, unread)
            parts.events.started()
            PULSE.set(parts.pulse)
            await self._live(parts)
            log.info("Worker %s has stopped; ECS tasks that still run go on.", name)

    async def _begin(self, parts: Parts) -> None:
        async with anyio.create_task_group() as patience:
            patience.start_soon(self._tell_slow_start)
            patience.start_soon(self._break_off, patience.cancel_scope)
            async with anyio.create_task_group() as beginnings:
                beginnings.start_soon(parts.locate.settle)
                await parts.heartbeat.begin()
            patience.cancel_scope.cancel()

    async def _break_off(self, begun: CancelScope) -> None:
        """Who is told to stop while it begins has nothing to finish."""
        await self.stopping.wait()
        begun.cancel()

    async def _tell_slow_start(self) -> None:
        """A start that hangs is not to look like one that never was."""
        await anyio.sleep(SLOW_START)
        log.warning("The start waits for the Prefect API at %s, %.0f s by now.", self._prefect.shown_url, SLOW_START)

    async def _live(self, parts: Parts) -> None:
        async with anyio.create_task_group() as root:
            template = parts.heartbeat.pool.base_job_template
            root.start_soon(warn_of_loopback, self._prefect, self._settings, template, parts.aws)
            for loop in parts.loops:
                root.start_soon(loop)
            if self._settings.with_healthcheck:
                root.start_soon(self._serve_health, parts)
            async with parts.way.open(self._settings.stop_seconds):
                await self._take_in(parts)
            parts.events.stopped()
            with anyio.move_on_after(LAST_WORDS):
                async with anyio.create_task_group() as ends:
                    try:
                        await parts.report.look(ends)
                    except PrefectError as error:
                        log.warning("The ends of runs can't be told any more: %s", error)
                async with anyio.create_task_group() as last:
                    last.start_soon(parts.run_logs.flush)
                    last.start_soon(parts.events.flush)
            root.cancel_scope.cancel()

    async def _take_in(self, parts: Parts) -> None:
        """Take runs in until it is time to stop."""
        if self._settings.run_once:
            await self._take_in_once(parts)
            return
        async with anyio.create_task_group() as intake:
            if self._settings.limit is not None:
                await self._look_first(parts, intake)
            intake.start_soon(parts.poll.run)
            intake.start_soon(parts.adopt.run)
            await self.stopping.wait()
            intake.cancel_scope.cancel()

    async def _look_first(self, parts: Parts, intake: TaskGroup) -> None:
        """A limit holds over restarts: what the last worker left takes its slots before anything new does."""
        while not self.stopping.is_set():
            try:
                await parts.adopt.look(intake)
            except PrefectError as error:
                log.warning("Runs without a worker can't be looked for, so none is taken yet: %s", error)
            else:
                return
            with anyio.move_on_after(self._settings.adopt_seconds):
                await self.stopping.wait()

    async def _take_in_once(self, parts: Parts) -> None:
        """One poll, then wait for the ends and the last lines of what it gave."""
        try:
            await parts.poll.look()
        except PrefectNotFound as error:
            raise UserError(f"{error}: create or correct it.") from None
        except PrefectError as error:
            raise UserError(f"Scheduled runs can't be read: {error}. Try again later.") from None
        await checkpoint()  # the claims have begun, and hold their slots, after this
        while (len(parts.ledger) or len(parts.output)) and not self.stopping.is_set():
            with anyio.move_on_after(1.0):
                await self.stopping.wait()
        self.stopping.set()

    async def _heed_signals(self, signals: AsyncIterator[signal.Signals]) -> None:
        async for number in signals:
            if self.stopping.is_set():
                _exit_at_once(number)
            log.info("%s: no more runs are taken; open launches are finished.", number.name)
            self.stopping.set()

    async def _serve_health(self, parts: Parts) -> None:
        from ecs_worker.ops.health import serve  # noqa: PLC0415 - its server costs start-up time; most have none

        await serve(parts, self._settings)


def _exit_at_once(number: signal.Signals) -> NoReturn:
    """The user asked twice. Whatever is open is adopted by the next worker."""
    logging.shutdown()
    os._exit(128 + number)
