"""CloudWatch Logs: reading what containers wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ecs_worker.aws.errors import usable
from ecs_worker.aws.service import Service, read_plainly

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from ecs_worker.aws.limits import Limits
    from ecs_worker.model import AwsTarget


class LogEvent(NamedTuple):
    """One line. Times are milliseconds since 1970 (UTC)."""

    timestamp: int
    message: str
    ingestion_time: int = 0
    stream: str = ""  # FilterLogEvents only
    event_id: str = ""  # FilterLogEvents only; the same line always has the same


class Logs(Service):
    """CloudWatch Logs in one account and Region.

    If a group or stream doesn't exist (yet), AwsError has the code ResourceNotFoundException.
    """

    name = "logs"

    def __init__(self, client: Any, target: AwsTarget, limits: Limits, account: Hashable) -> None:
        super().__init__(client, target, limits, account)
        for operation in ("GetLogEvents", "FilterLogEvents"):
            client.meta.events.register(f"before-parse.logs.{operation}", read_plainly)

    async def get_log_events(
        self,
        group: str,
        stream: str,
        token: str | None = None,
        *,
        start_time: int | None = None,
        end_time: int | None = None,
        start_from_head: bool = True,
        limit: int | None = None,
    ) -> tuple[list[LogEvent], str]:
        """One page of one stream (at most 10,000 lines or 1 MB), and the token for the next page.

        Only lines from `start_time` (inclusive) to `end_time` (exclusive).

        At the stream's end the answer has the same token as the request. An empty page alone doesn't mean the end.
        `start_from_head` False without a token gives the last page.
        """
        answer = await self._call(
            "GetLogEvents",
            logGroupName=group,
            logStreamName=stream,
            nextToken=token,
            startTime=start_time,
            endTime=end_time,
            startFromHead=start_from_head,
            limit=limit,
        )
        with usable("GetLogEvents"):
            return [_event(event) for event in answer.get("events", ())], str(answer.get("nextForwardToken", ""))

    async def filter_log_events(
        self,
        group: str,
        streams: Sequence[str],
        *,
        start_time: int | None = None,
        end_time: int | None = None,
        token: str | None = None,
        limit: int | None = None,
    ) -> tuple[list[LogEvent], str | None]:
        """One page of up to 100 streams of a group, and the next page's token.

        Only lines from `start_time` to `end_time`, both inclusive (GetLogEvents excludes the end). All the streams
        must exist.

        No token: there is nothing more now. An empty page may still have a next one.
        """
        answer = await self._call(
            "FilterLogEvents",
            logGroupName=group,
            logStreamNames=list(streams),
            startTime=start_time,
            endTime=end_time,
            nextToken=token,
            limit=limit,
        )
        with usable("FilterLogEvents"):
            return [_event(event) for event in answer.get("events", ())], answer.get("nextToken")

    async def delete_group(self, group: str) -> None:
        """Delete a group with all its lines."""
        await self._call("DeleteLogGroup", logGroupName=group)


def _event(event: Mapping[str, Any]) -> LogEvent:
    get = event.get
    return LogEvent(
        get("timestamp", 0), get("message", ""), get("ingestionTime", 0), get("logStreamName", ""), get("eventId", "")
    )
