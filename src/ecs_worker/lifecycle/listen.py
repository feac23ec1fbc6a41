"""Listen: hear of tasks by an SQS queue that EventBridge fills with ECS task state changes.

It only makes sooner what `watch` finds out anyway. Events may come twice, late, in the wrong order or never; `version`
orders them among what DescribeTasks tells. A message is deleted once its facts are in memory: if the process dies
then, `adopt` of the next worker describes the task.

Workers may share a queue: what belongs to a colleague is given back.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import UUID

import anyio

from ecs_worker.aws.ecs import task_facts
from ecs_worker.aws.sqs import LONG_POLL, PER_REQUEST
from ecs_worker.errors import EcsWorkerError
from ecs_worker.lifecycle.loops import guarded
from ecs_worker.model import AwsTarget, TaskFacts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ecs_worker.aws.session import Aws
    from ecs_worker.aws.sqs import Message, Sqs
    from ecs_worker.lifecycle.run.ledger import Ledger
    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.lifecycle.watch import Watch

log = logging.getLogger(__name__)

OF_NO_USE_AFTER = 300.0  # seconds; whoever watches the task knows better by now, so nobody needs the message
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds, while the queue can't be read
IDLE_PAUSE = 1.0  # seconds, about, after messages that were all others': they get them, and nobody spins
GATHER = 0.5  # seconds for more to come, once fewer are there than a request takes: each costs CPU and money
ANSWERED_AT_ONCE = 10  # batches whose messages are being deleted or given back while more are received

_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d+")


class Fate(Enum):
    """What becomes of a message."""

    DELETE = "delete"  # understood, and ours; or of no use to anybody any more
    GIVE_BACK = "give back"  # a colleague's, seen for the first time
    LEAVE = "leave"  # not understood, or a colleague's again: it shows up after the queue's visibility timeout


class Listener:
    """Listens to `queue`, a name or a URL, in the worker's own account."""

    def __init__(self, aws: Aws, ledger: Ledger, watch: Watch, queue: str) -> None:
        self._aws = aws
        self._ledger = ledger
        self._watch = watch
        self._queue = queue
        self._early: dict[str, tuple[Run, TaskFacts]] = {}  # by task ARN: its RunTask is not answered yet
        self._warned: set[str] = set()

    async def run(self) -> None:
        """Listen for ever. A queue that is missing or can't be read is a warning, and asked for again."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._take_in_early)
            group.start_soon(self._listen)

    async def _listen(self) -> None:
        url, failures = "", 0
        room = anyio.Semaphore(ANSWERED_AT_ONCE)
        async with anyio.create_task_group() as answers:
            while True:
                try:
                    sqs = await self._aws.sqs(AwsTarget(region=region_of(self._queue)))
                    url = url or await self._find(sqs)
                    messages = await sqs.receive(url, wait=0 if failures else LONG_POLL)
                except EcsWorkerError as error:
                    url, failures = "", failures + 1
                    await self._pause(error, failures)
                    continue
                if failures:
                    log.info("Task events are read from queue %s again.", self._queue)
                    failures = 0
                fates = self.sort(messages)
                await room.acquire()
                answers.start_soon(self._answer, sqs, url, fates, room)
                if messages and not fates[Fate.DELETE]:
                    await anyio.sleep(IDLE_PAUSE * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not cryptography
                elif len(messages) < PER_REQUEST:
                    await anyio.sleep(GATHER)

    async def _find(self, sqs: Sqs) -> str:
        return self._queue if "://" in self._queue else await sqs.queue_url(self._queue)

    async def _pause(self, error: EcsWorkerError, failures: int) -> None:
        if failures == 1:
            log.warning("Task events can't be read from queue %s, so tasks are only polled: %s", self._queue, error)
        else:
            log.debug("Task events still can't be read from queue %s: %s", self._queue, error)
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures, 10))
        await anyio.sleep(longest * random.uniform(0.5, 1))  # noqa: S311 - jitter, not cryptography

    async def _answer(self, sqs: Sqs, url: str, fates: Mapping[Fate, Sequence[Message]], room: anyio.Semaphore) -> None:
        try:
            if fates[Fate.DELETE]:
                await sqs.delete(url, fates[Fate.DELETE])
            if fates[Fate.GIVE_BACK]:
                await sqs.give_back(url, fates[Fate.GIVE_BACK])
        except EcsWorkerError as error:
            # They come again after the queue's visibility timeout, and change nothing then.
            self._warn_once("answer", f"Messages of the events queue {self._queue} can't be put away: {error}")
        finally:
            room.release()

    # -- messages

    def sort(self, messages: Sequence[Message]) -> dict[Fate, list[Message]]:
        """Take in what the messages say of this worker's tasks; what is to become of each."""
        fates: dict[Fate, list[Message]] = {fate: [] for fate in Fate}
        for message in messages:
            fates[self._take_in(message)].append(message)
        return fates

    def _take_in(self, message: Message) -> Fate:
        task = read(message.body)
        if task is None:
            self._warn_once(
                "foreign",
                f"The events queue {self._queue} holds messages that are no ECS task state changes; they are left "
                "there. Is it a queue of its own, and does the EventBridge rule match only this detail-type?",
            )
            return Fate.LEAVE
        run_id = run_of(task)
        if run_id is None:
            self._warn_once(
                "others",
                f"The events queue {self._queue} holds events of tasks that no ecs-worker launched; they are left "
                'there. Let the EventBridge rule match {"detail": {"startedBy": [{"prefix": "prefect/"}]}}.',
            )
            return Fate.LEAVE
        run = self._ledger.get(run_id)
        if run is not None and run.claim.started_by == task.started_by:
            self._observe(run, task)
            return Fate.DELETE
        if time.time() - message.sent > OF_NO_USE_AFTER:
            return Fate.DELETE
        return Fate.GIVE_BACK if message.receives <= 1 else Fate.LEAVE

    def _observe(self, run: Run, task: TaskFacts) -> None:
        if run.task is None:
            earlier = self._early.get(task.arn)
            if earlier is None or earlier[1].version <= task.version:
                self._early[task.arn] = (run, task)
        elif run.task.arn == task.arn:  # an earlier attempt's task changes nothing any more
            with guarded(run.label):
                self._watch.observe(run, task)

    async def _take_in_early(self) -> None:
        """Facts that came before RunTask's answer wait for it: then the run has a task, or is not held any more."""
        while True:
            await self._ledger.wait_freed()
            for arn, (run, task) in list(self._early.items()):
                if self._ledger.get(run.id) is not run:
                    del self._early[arn]
                elif run.task is not None:
                    del self._early[arn]
                    self._observe(run, task)

    def _warn_once(self, what: str, message: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            log.warning("%s", message)


def read(body: str) -> TaskFacts | None:
    """The task that an ECS task state change event tells of; None: the message is something else."""
    try:
        event = json.loads(body)
        if event["source"] != "aws.ecs" or event["detail-type"] != "ECS Task State Change":
            return None
        task = task_facts(event["detail"])
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        return None
    texts = (task.arn, task.cluster_arn, task.last_status, task.started_by, task.stop_code, task.stopped_reason)
    usable = isinstance(task.version, int) and all(isinstance(text, str) for text in texts)
    return task if usable else None


def run_of(task: TaskFacts) -> UUID | None:
    """The flow run that an ecs-worker launched the task for (`ClaimedRun.started_by`); None: nobody did."""
    match task.started_by.split("/"):
        case ["prefect", run_id, _]:
            try:
                return UUID(run_id)
            except ValueError:
                return None
        case _:
            return None


def region_of(queue: str) -> str | None:
    """The Region in a queue's URL; None: it names none, so it is the worker's own."""
    host = urlsplit(queue).hostname or ""
    return next((label for label in host.split(".") if _REGION.fullmatch(label)), None)
