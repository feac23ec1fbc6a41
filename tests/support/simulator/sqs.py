"""SQS standard queues, and EventBridge's way of filling them with ECS task state changes."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import json
import math
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from support.simulator.service import Ids, Place, ServiceError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from support.simulator.clock import Clock
    from support.simulator.faults import Call

_TIMES = (
    "connectivityAt",
    "createdAt",
    "executionStoppedAt",
    "pullStartedAt",
    "pullStoppedAt",
    "startedAt",
    "stoppedAt",
    "stoppingAt",
)


@dataclass(slots=True, eq=False)
class Message:
    id: str
    body: str
    sent: float
    receipt: str = ""
    received: int = 0
    first_received: float = 0.0
    visible_at: float = 0.0


class Queue:
    """A standard queue: at least once, no order promised. Times are simulated."""

    def __init__(self, name: str, clock: Clock, ids: Ids, visibility: float = 30.0) -> None:
        self.name = name
        self.visibility = visibility
        self.deleted = 0
        self._clock = clock
        self._ids = ids
        self._messages: OrderedDict[str, Message] = OrderedDict()
        self._receipts: dict[str, Message] = {}
        self._ready: list[tuple[float, int, Message]] = []
        self._wake = asyncio.Event()

    def send(self, body: str, delay: float = 0.0) -> str:
        now = self._clock.now()
        message = Message(str(uuid.UUID(self._ids.hex())), body, now)
        self._messages[message.id] = message
        self._show_at(message, now + delay)
        return message.id

    def receive(self, most: int, visibility: float | None) -> list[Message]:
        """Takes what is visible; it comes back after the visibility timeout unless deleted."""
        now = self._clock.now()
        taken: list[Message] = []
        while self._ready and len(taken) < most and self._ready[0][0] <= now:
            when, _, message = heapq.heappop(self._ready)
            if message.id not in self._messages or message.visible_at != when:
                continue  # deleted, or its visibility was changed since
            message.received += 1
            message.first_received = message.first_received or now
            message.receipt = self._ids.hex()
            self._receipts[message.receipt] = message
            message.visible_at = math.inf
            taken.append(message)
        for message in taken:
            self._show_at(message, now + (self.visibility if visibility is None else visibility))
        return taken

    def delete(self, receipt: str) -> None:
        message = self._find(receipt)
        if self._messages.pop(message.id, None) is not None:
            self.deleted += 1
        message.body = ""  # the receipt stays valid (deleting twice succeeds), the text need not stay in memory

    def show_in(self, receipt: str, seconds: float) -> None:
        message = self._find(receipt)
        if message.id in self._messages:
            self._show_at(message, self._clock.now() + seconds)

    def purge(self) -> None:
        self._messages.clear()
        self._receipts.clear()
        self._ready.clear()

    async def until_ready(self, seconds: float) -> None:
        """Returns when a message is visible, or after so many real seconds."""
        deadline = time.monotonic() + seconds
        while not (self._ready and self._ready[0][0] <= self._clock.now()):
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), left)
            except TimeoutError:
                return

    def counts(self) -> tuple[int, int]:
        """How many messages are visible, and how many are received but not deleted."""
        now = self._clock.now()
        visible = sum(message.visible_at <= now for message in self._messages.values())
        return visible, len(self._messages) - visible

    def _show_at(self, message: Message, when: float) -> None:
        message.visible_at = when
        heapq.heappush(self._ready, (when, self._ids.serial(), message))
        self._clock.call_at(when, lambda _: self._wake.set())

    def _find(self, receipt: str) -> Message:
        message = self._receipts.get(receipt)
        if message is None:
            raise ServiceError("com.amazonaws.sqs#ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
        return message


@dataclass(slots=True)
class EventFeed:
    """EventBridge's rule: task state changes go to `queues`, sometimes twice, late, out of order or not at all."""

    queues: list[str] = field(default_factory=list)
    duplicates: float = 0.0  # probability that an event comes twice
    losses: float = 0.0  # probability that it never comes
    delay: float = 0.0  # simulated seconds until it comes
    disorder: float = 0.0  # up to so many simulated seconds more, drawn for each


class Sqs:
    """The service in one Place."""

    service = "sqs"

    def __init__(self, place: Place, clock: Clock, ids: Ids) -> None:
        self.place = place
        self.queues: dict[str, Queue] = {}
        self.feed = EventFeed()
        self._clock = clock
        self._ids = ids
        self.actions: dict[str, Callable[[dict[str, Any], Call], dict[str, Any] | Awaitable[dict[str, Any]]]] = {
            "ChangeMessageVisibility": self._change_message_visibility,
            "ChangeMessageVisibilityBatch": self._change_message_visibility_batch,
            "CreateQueue": self._create_queue,
            "DeleteMessage": self._delete_message,
            "DeleteMessageBatch": self._delete_message_batch,
            "DeleteQueue": self._delete_queue,
            "GetQueueAttributes": self._get_queue_attributes,
            "GetQueueUrl": self._get_queue_url,
            "PurgeQueue": self._purge_queue,
            "ReceiveMessage": self._receive_message,
            "SendMessage": self._send_message,
        }

    def create_queue(self, name: str, visibility: float = 30.0) -> Queue:
        if name not in self.queues:
            self.queues[name] = Queue(name, self._clock, self._ids, visibility)
        return self.queues[name]

    def publish(self, task: dict[str, Any]) -> None:
        """Sends a task's document (as DescribeTasks gives it, without tags) as EventBridge would."""
        feed = self.feed
        queues = [self.queues[name] for name in feed.queues if name in self.queues]
        if not queues:
            return
        body = json.dumps(self._event(task), separators=(",", ":"))
        for queue in queues:
            if self._ids.chance(feed.losses):
                continue
            for _ in range(2 if self._ids.chance(feed.duplicates) else 1):
                queue.send(body, feed.delay + (self._ids.uniform(0, feed.disorder) if feed.disorder else 0.0))

    def _event(self, task: dict[str, Any]) -> dict[str, Any]:
        detail = {key: _iso(value) if key in _TIMES else value for key, value in task.items()}
        detail["updatedAt"] = _iso(self._clock.now())
        return {
            "version": "0",
            "id": str(uuid.UUID(self._ids.hex())),
            "detail-type": "ECS Task State Change",
            "source": "aws.ecs",
            "account": self.place.account,
            "time": _iso(self._clock.now())[:19] + "Z",
            "region": self.place.region,
            "resources": [task["taskArn"]],
            "detail": detail,
        }

    # -- actions ----------------------------------------------------------------------

    def _create_queue(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        visibility = float(params.get("Attributes", {}).get("VisibilityTimeout", 30))
        return {"QueueUrl": self._url(self.create_queue(params["QueueName"], visibility))}

    def _get_queue_url(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        return {"QueueUrl": self._url(self._named(params["QueueName"]))}

    def _get_queue_attributes(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        queue = self._queue(params)
        visible, taken = queue.counts()
        known = {
            "ApproximateNumberOfMessages": str(visible),
            "ApproximateNumberOfMessagesNotVisible": str(taken),
            "QueueArn": self.place.arn("sqs", queue.name),
            "VisibilityTimeout": str(int(queue.visibility)),
        }
        wanted = params.get("AttributeNames", [])
        chosen = {name: value for name, value in known.items() if name in wanted or "All" in wanted}
        return {"Attributes": chosen} if chosen else {}

    def _send_message(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        body = params["MessageBody"]
        return {
            "MessageId": self._queue(params).send(body, params.get("DelaySeconds", 0)),
            "MD5OfMessageBody": _md5(body),
        }

    async def _receive_message(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        most = params.get("MaxNumberOfMessages", 1)
        if not 1 <= most <= 10:
            raise ServiceError(
                "InvalidParameterValue",
                f"Value {most} for parameter MaxNumberOfMessages is invalid. Reason: Must be between 1 and 10.",
            )
        queue = self._queue(params)
        await queue.until_ready(params.get("WaitTimeSeconds", 0))
        self._queue(params)  # it may have been deleted meanwhile
        wanted = params.get("AttributeNames", []) + params.get("MessageSystemAttributeNames", [])
        messages = [_message_document(m, wanted) for m in queue.receive(most, params.get("VisibilityTimeout"))]
        return {"Messages": messages} if messages else {}

    def _delete_message(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        self._queue(params).delete(params["ReceiptHandle"])
        return {}

    def _delete_message_batch(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        queue = self._queue(params)
        return _batch(params["Entries"], lambda entry: queue.delete(entry["ReceiptHandle"]))

    def _change_message_visibility(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        self._queue(params).show_in(params["ReceiptHandle"], params["VisibilityTimeout"])
        return {}

    def _change_message_visibility_batch(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        queue = self._queue(params)
        return _batch(
            params["Entries"], lambda entry: queue.show_in(entry["ReceiptHandle"], entry.get("VisibilityTimeout", 0))
        )

    def _purge_queue(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        self._queue(params).purge()
        return {}

    def _delete_queue(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        del self.queues[self._queue(params).name]
        return {}

    # -- inside -----------------------------------------------------------------------

    def _url(self, queue: Queue) -> str:
        suffix = "amazonaws.com.cn" if self.place.partition == "aws-cn" else "amazonaws.com"
        return f"https://sqs.{self.place.region}.{suffix}/{self.place.account}/{queue.name}"

    def _queue(self, params: dict[str, Any]) -> Queue:
        return self._named(params["QueueUrl"].rsplit("/", 1)[-1])

    def _named(self, name: str) -> Queue:
        queue = self.queues.get(name)
        if queue is None:
            raise ServiceError("com.amazonaws.sqs#QueueDoesNotExist", "The specified queue does not exist.")
        return queue


def _message_document(message: Message, wanted: list[str]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "MessageId": message.id,
        "ReceiptHandle": message.receipt,
        "MD5OfBody": _md5(message.body),
        "Body": message.body,
    }
    attributes = {
        "ApproximateReceiveCount": str(message.received),
        "SentTimestamp": str(int(message.sent * 1000)),
        "ApproximateFirstReceiveTimestamp": str(int(message.first_received * 1000)),
    }
    chosen = {name: value for name, value in attributes.items() if name in wanted or "All" in wanted}
    return document | ({"Attributes": chosen} if chosen else {})


def _batch(entries: list[dict[str, Any]], act: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    if not 1 <= len(entries) <= 10:
        raise ServiceError("com.amazonaws.sqs#TooManyEntriesInBatchRequest", "1 to 10 entries are allowed in a batch.")
    done: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for entry in entries:
        try:
            act(entry)
        except ServiceError as error:
            failed.append({"Id": entry["Id"], "SenderFault": True, "Code": error.code, "Message": error.message})
        else:
            done.append({"Id": entry["Id"]})
    return {"Successful": done, "Failed": failed}


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
