"""Amazon SQS: the queue that EventBridge fills with ECS task state changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ecs_worker.aws.errors import usable
from ecs_worker.aws.service import Service

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PER_REQUEST = 10  # messages; ReceiveMessage and the batch calls take no more
LONG_POLL = 20  # seconds; the longest that ReceiveMessage waits for a first message


@dataclass(frozen=True, slots=True)
class Message:
    """One message, as it was received this time.

    `receives`: how often it has been received, including this time. `sent`: seconds since 1970. Both are approximate
    (SQS).
    """

    body: str = field(repr=False)  # events contain the environment variables of tasks
    receipt: str = field(repr=False)
    receives: int = 1
    sent: float = 0.0


class Sqs(Service):
    """SQS in one account and Region."""

    name = "sqs"

    async def queue_url(self, name: str) -> str:
        """The URL of the account's queue of that name."""
        answer = await self._call("GetQueueUrl", QueueName=name)
        with usable("GetQueueUrl"):
            return str(answer["QueueUrl"])

    async def receive(self, url: str, wait: int = LONG_POLL) -> list[Message]:
        """Up to 10 messages, as soon as there is one; none after `wait` seconds.

        For the queue's visibility timeout nobody else receives them. Then they come again, unless they are deleted.
        """
        answer = await self._call(
            "ReceiveMessage",
            QueueUrl=url,
            MaxNumberOfMessages=PER_REQUEST,
            WaitTimeSeconds=wait,
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
        )
        with usable("ReceiveMessage"):
            return [_message(raw) for raw in answer.get("Messages", ())]

    async def delete(self, url: str, messages: Sequence[Message]) -> None:
        """Delete up to 10 messages. One that can't be deleted comes again; with SQS any message may come twice."""
        await self._call("DeleteMessageBatch", QueueUrl=url, Entries=_entries(messages))

    async def give_back(self, url: str, messages: Sequence[Message]) -> None:
        """Let others receive up to 10 messages at once, instead of after the visibility timeout."""
        await self._call("ChangeMessageVisibilityBatch", QueueUrl=url, Entries=_entries(messages, VisibilityTimeout=0))


def _entries(messages: Sequence[Message], **more: Any) -> list[dict[str, Any]]:
    return [{"Id": str(i), "ReceiptHandle": message.receipt, **more} for i, message in enumerate(messages)]


def _message(raw: Mapping[str, Any]) -> Message:
    attributes = raw.get("Attributes", {})
    return Message(
        body=raw.get("Body", ""),
        receipt=raw["ReceiptHandle"],
        receives=int(attributes.get("ApproximateReceiveCount", 1)),
        sent=int(attributes.get("SentTimestamp", 0)) / 1000,
    )
