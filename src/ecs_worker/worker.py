"""The worker: everything assembled under one root task group.

The way of a flow run, one module of `lifecycle/` for each step:

    poll → claim → render → define → launch → watch → report
                                        ↑ adopt (after a restart, or another worker's death)
                            cancel ─────┘

- `poll` asks for scheduled runs, `claim` makes each ours; `ledger` holds them from there on.
- `render` turns job variables into the ECS requests, `define` finds or registers the task definition,
  `launch` calls RunTask. These three run side by side for up to `max_launching` runs.
- `watch` sweeps over all launched tasks; `report` tells the ends that the runs can't tell themselves.
- `cancel`, `cleanup` and `adopt` look at the server's side; `logs` and `feed` carry lines.
- `events` hears of tasks sooner than `watch` looks; `announce` tells Prefect's event feed.

Every loop runs under the root group: one that ends unexpectedly ends the worker, and ECS starts it anew. Stopping
takes two steps: first no more is taken in, then open launches get their time. Tasks keep running and are adopted.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import anyio
from anyio.lowlevel import checkpoint

from ecs_worker import __version__
from ecs_worker.aws.session import Aws
from ecs_worker.errors import EcsWorkerError, JobInvalid, PrefectError, PrefectNotFound, UserError
from ecs_worker.lifecycle.adopt import Adopt
from ecs_worker.lifecycle.cancel import Cancel
from ecs_worker.lifecycle.claim import Claim
from ecs_worker.lifecycle.cleanup import Cleanup
from ecs_worker.lifecycle.define import Define
from ecs_worker.lifecycle.journal.event_feed import EventFeed
from ecs_worker.lifecycle.journal.output import ContainerOutput
from ecs_worker.lifecycle.journal.run_logs import RunLogs
from ecs_worker.lifecycle.launch import Launch, LaunchFailed, NotOurs, NotWanted
from ecs_worker.lifecycle.listen import Events
from ecs_worker.lifecycle.poll import Poll
from ecs_worker.lifecycle.rendering.render import Render
from ecs_worker.lifecycle.renew import Lease
from ecs_worker.lifecycle.report import Report
from ecs_worker.lifecycle.run.ledger import Ledger
from ecs_worker.lifecycle.watch import Watch
from ecs_worker.ops.heartbeat import Heartbeat
from ecs_worker.prefect_api.client import PrefectClient

if TYPE_CHECKING:
    from ecs_worker.lifecycle.run.ledger import Held
    from ecs_worker.prefect_api.schemas import FlowRun
    from ecs_worker.settings import PrefectSettings, WorkerSettings

log = logging.getLogger(__name__)

RETRY_AFTER = 30.0  # seconds until a run is tried again that could not be rendered for want of an answer


class Worker:
    """One worker process."""

    def __init__(self, settings: WorkerSettings, prefect: PrefectSettings) -> None:
        self.settings = settings
        self._prefect = prefect
        self.stopping = anyio.Event()
        """Set to make the worker take its leave politely, as SIGTERM does."""

    async def run(self) -> None:
        """Work until `stopping` is set or a signal comes. Raises UserError if it can't begin."""
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(PrefectClient(self._prefect))
            aws = await stack.enter_async_context(Aws())
            await aws.check()
            self._assemble(api, aws)
            await self._heartbeat.begin()
            log.info(
                "Worker %s %s takes flow runs of work pool %s at %s.",
                self.settings.name,
                __version__,
                self.settings.pool,
                self._prefect.api_url,
            )
            self._announce.started()
            await self._live()
            log.info("Worker %s has stopped; ECS tasks that still run go on.", self.settings.name)

    def _assemble(self, api: PrefectClient, aws: Aws) -> None:
        settings = self.settings
        self.ledger = Ledger(limit=settings.limit, max_launching=settings.max_launching)
        self._heartbeat = Heartbeat(api, settings, self._prefect.api_url)
        self._feed = RunLogs(api)
        self._claim = Claim(api, self.ledger, settings.name)
        self._render = Render(api, aws, settings, self._prefect, self._heartbeat)
        define = Define(aws)
        self._announce = EventFeed(api, settings.name, self._heartbeat, self._render.names)
        self._launch = Launch(api, aws, self.ledger, define, self._feed, self.stopping, settings.name, self._announce)
        self.logs = ContainerOutput(aws, self._feed, self.ledger)
        self._report = Report(
            api, self.ledger, define, self._feed, self.logs, settings.report_grace_seconds, self._send_held
        )
        self.watch = Watch(aws, self.ledger, self.logs, self._feed, self._announce, settings)
        self.events = Events(aws, self.ledger, self.watch, settings.events_queue) if settings.events_queue else None
        self._cancel = Cancel(api, self.ledger, self.watch, settings, self._heartbeat)
        self._cleanup = Cleanup(api, aws, self.ledger, self._render, self._launch, self.watch, self._heartbeat.channel)
        self._lease = Lease(api, self.ledger)
        self.poll = Poll(api, self.ledger, settings, self._send_scheduled)
        self._adopt = Adopt(
            api, aws, self.ledger, self._render, self._launch, self._report, self._feed, settings, self._send_held
        )

    async def _live(self) -> None:
        async with anyio.create_task_group() as root:
            for loop in (
                self._heartbeat.run,
                self._feed.run,
                self._announce.run,
                self._launch.run,
                self.watch.run,
                self._report.run,
                self._cancel.run,
                self._cancel.listen,
                self._cleanup.run,
                self._lease.run,
                self.logs.run,
            ):
                root.start_soon(loop)
            root.start_soon(self._signals)
            if self.events is not None:
                root.start_soon(self.events.run)
            if self.settings.with_healthcheck:
                root.start_soon(self._serve_health)
            async with anyio.create_task_group() as launches:
                self._launches = launches
                await self._intake()
                self._launch.break_off()  # a RunTask that is under way is seen to its end
                launches.cancel_scope.deadline = anyio.current_time() + self.settings.stop_seconds
            self._announce.stopped()
            with anyio.move_on_after(2.0):  # seconds; the last ends, lines and events are worth that much
                await self._report.look()
                async with anyio.create_task_group() as last:
                    last.start_soon(self._feed.once)
                    last.start_soon(self._announce.once)
            root.cancel_scope.cancel()

    async def _intake(self) -> None:
        """Take runs in until it is time to stop."""
        if self.settings.run_once:
            await self._run_once()
            return
        async with anyio.create_task_group() as intake:
            intake.start_soon(self.poll.run)
            intake.start_soon(self._adopt.run)
            await self.stopping.wait()
            intake.cancel_scope.cancel()

    async def _run_once(self) -> None:
        """One poll, then wait for the ends and the last lines of what it gave."""
        await self.poll.once()
        await checkpoint()  # the claims have begun, and hold their slots, after this
        while (len(self.ledger) or len(self.logs)) and not self.stopping.is_set():
            with anyio.move_on_after(1.0):
                await self.stopping.wait()
        self.stopping.set()

    # -- the way of a run

    def _send_scheduled(self, scheduled: FlowRun, polled_at: float) -> None:
        self._launches.start_soon(self._carry, scheduled, polled_at)

    def _send_held(self, held: Held) -> None:
        if self.stopping.is_set():
            self.ledger.drop(held)  # still Pending by its claim: the next worker adopts it
        else:
            self._launches.start_soon(self._bring_up, held)

    async def _carry(self, scheduled: FlowRun, polled_at: float) -> None:
        """A scheduled run's way up to its task."""
        held = await self._claim.once(scheduled, polled_at)
        if held is not None:
            await self._bring_up(held)

    async def _bring_up(self, held: Held) -> None:
        """A claimed run's way up to its task; or an end that says why there is none."""
        try:
            render = partial(self._launch.while_wanted, lambda: self._render.once(held.run))
            request = await self._launch.patiently(held, render)
            await self._launch.once(held, request)
        except NotOurs as error:
            await self._let_go(held, error)
        except (JobInvalid, PrefectNotFound) as error:  # or what it is made of was deleted, be it the run itself
            self._report.give_up(held, str(error))
        except (LaunchFailed, NotWanted, UserError, PrefectError) as error:
            await self._give_up(held, error)
        except Exception as error:
            # The rim of one run's way: a fault of ours must not take the other runs along, nor meet this one for ever.
            log.exception("%s could not be launched, by a fault of ecs-worker: please report it.", held.run.name)
            await self._give_up(
                held, LaunchFailed(f"ecs-worker has a fault ({type(error).__name__}); its log says more.")
            )

    async def _let_go(self, held: Held, why: NotOurs) -> None:
        """The run is others' business now. A task of this claim that may exist all the same must not run it."""
        log.info("%s: %s", held.run.name, why)
        try:
            task = await self._launch.find(held) if held.uncertain else None
        except EcsWorkerError as unknown:
            log.warning(
                "%s: should ECS have a task of it, startedBy %s, stop it: %s",
                held.run.name,
                held.run.started_by,
                unknown,
            )
            task = None
        if task is None:
            self.ledger.drop(held)
            return
        held.cancelling_since = time.monotonic()  # `cancel` stops it, and `report` then lets the run go
        held.theirs = held.identifier_written = True
        self._launch.settle(held, task)

    async def _give_up(self, held: Held, error: Exception) -> None:
        """No launch. But when a RunTask was never answered, a task may exist: then that is the launch."""
        if held.uncertain:
            try:
                task = await self._launch.find(held)
            except EcsWorkerError as unknown:
                # Still Pending by our claim; `adopt` looks again, as it would after a crash.
                log.warning("%s: whether it has a task is not known: %s", held.run.name, unknown)
                self.ledger.drop(held)
                return
            if task is not None:
                self._launch.settle(held, task)
                await self._launch.write_identifier(held)
                return  # `watch` has it from here, and `cancel` stops it if need be
            if isinstance(error, NotWanted):
                # ECS may show the task a little later: `adopt` asks once more before it ends or launches anything.
                self.ledger.drop(held)
                return
        if held.cancelling_since is not None or isinstance(error, LaunchFailed | UserError):
            self._report.give_up(held, str(error))
        else:
            # Leaving, or the Prefect API could not tell what the launch needs: any worker may try, this one later.
            after = 0.0 if isinstance(error, NotWanted) else RETRY_AFTER
            await self._report.release(held, str(error), after)

    # -- signals and health

    async def _signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                if self.stopping.is_set():
                    _exit_at_once(number)
                log.info("%s: no more runs are taken; open launches are finished.", number.name)
                self.stopping.set()

    async def _serve_health(self) -> None:
        from ecs_worker.ops.health import serve  # noqa: PLC0415 - its server costs start-up time; most have none

        await serve(self)


def _exit_at_once(number: signal.Signals) -> NoReturn:
    """The user asked twice. Whatever is open is adopted by the next worker."""
    logging.shutdown()
    os._exit(128 + number)
