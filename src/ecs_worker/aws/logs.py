"""CloudWatch Logs: reading what containers wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecs_worker.aws.service import Service

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One line. Times are milliseconds since 1970 (UTC)."""

    timestamp: int
    message: str
    ingestion_time: int = 0
    stream: str = ""  # FilterLogEvents only
    event_id: str = ""  # FilterLogEvents only; the same line always has the same


class Logs(Service):
    """CloudWatch Logs in one account and Region.

    A group or stream that doesn't exist (yet) is an AwsError with the code ResourceNotFoundException.
    """

    name = "logs"

    async def get_log_events(
        self,
        group: str,
        stream: str,
        token: str | None = None,
        *,
        start_from_head: bool = True,
        limit: int | None = None,
    ) -> tuple[list[LogEvent], str]:
        """One page of one stream (at most 10,000 lines or 1 MB), and the token to go on with.

        The stream's end is reached when the token that comes back is the one that was given; an empty page
        alone says nothing. `start_from_head` False without a token gives the last page.
        """
        answer = await self._call(
            "GetLogEvents",
            logGroupName=group,
            logStreamName=stream,
            nextToken=token,
            startFromHead=start_from_head,
            limit=limit,
        )
        events = [_event(event) for event in answer.get("events", ())]
        return events, str(answer.get("nextForwardToken", ""))

    async def filter_log_events(
        self,
        group: str,
        streams: Sequence[str],
        *,
        start_time: int | None = None,
        token: str | None = None,
        limit: int | None = None,
    ) -> tuple[list[LogEvent], str | None]:
        """One page of up to 100 streams of a group from `start_time` on (inclusive), and the next page's token.

        No token: there is nothing more now. A page may be empty and still have a next one.
        """
        answer = await self._call(
            "FilterLogEvents",
            logGroupName=group,
            logStreamNames=list(streams),
            startTime=start_time,
            nextToken=token,
            limit=limit,
        )
        return [_event(event) for event in answer.get("events", ())], answer.get("nextToken")


def _event(event: Mapping[str, Any]) -> LogEvent:
    return LogEvent(
        timestamp=event.get("timestamp", 0),
        message=event.get("message", ""),
        ingestion_time=event.get("ingestionTime", 0),
        stream=event.get("logStreamName", ""),
        event_id=event.get("eventId", ""),
    )
