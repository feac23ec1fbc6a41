"""CloudWatch Logs: groups, streams, what containers write, and reading it by token or by filter."""

from __future__ import annotations

import bisect
import heapq
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from support.simulator.faults import What
from support.simulator.service import Ids, Place, ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.simulator.clock import Clock
    from support.simulator.faults import Call
    from support.simulator.tasks import LogScript

_PAGE_EVENTS = 10_000
_PAGE_BYTES = 1_048_576
_EVENT_OVERHEAD = 26  # bytes that CloudWatch counts per event (PutLogEvents)


@dataclass(frozen=True, slots=True, order=True)
class LogEvent:
    """A line. Ordered as CloudWatch orders: by time, then as written."""

    timestamp: int  # milliseconds since the epoch
    serial: int
    message: str = field(compare=False)
    visible_at: float = field(compare=False)  # simulated seconds since the epoch

    @property
    def event_id(self) -> str:
        return f"{self.timestamp:026d}{self.serial:030d}"


@dataclass(slots=True, eq=False)
class LogStream:
    """One stream. What was written waits in `_coming` until it is visible."""

    name: str
    created: float
    ids: Ids
    script: LogScript | None = None
    written: int = 0  # lines that the script has produced
    ended: float | None = None
    visible: list[LogEvent] = field(default_factory=list)  # by (timestamp, serial)
    arrived: list[LogEvent] = field(default_factory=list)  # as they became visible
    _coming: list[tuple[float, int, LogEvent]] = field(default_factory=list)

    def write(self, timestamp: float, message: str, delay: float = 0.0) -> None:
        event = LogEvent(int(timestamp * 1000), self.ids.serial(), message, timestamp + delay)
        heapq.heappush(self._coming, (event.visible_at, event.serial, event))

    def catch_up(self, now: float) -> None:
        """Writes what the script has due, and lets appear what is visible by now."""
        self._write_due(now if self.ended is None else min(now, self.ended))
        while self._coming and self._coming[0][0] <= now:
            event = heapq.heappop(self._coming)[2]
            self.arrived.append(event)
            if self.visible and event < self.visible[-1]:
                bisect.insort(self.visible, event)
            else:
                self.visible.append(event)

    def _write_due(self, until: float) -> None:
        script = self.script
        if script is None:
            return
        due = len(script.lines) + int((until - self.created) * script.rate)
        if script.total is not None:
            due = min(due, script.total)
        first_generated = len(script.lines)
        while self.written < due:
            n = self.written
            if n < first_generated:
                message, at = script.lines[n], self.created
            else:
                message = f"{self.name} line {n}".ljust(script.size, ".")
                at = self.created + (n - first_generated + 1) / script.rate
            self.write(at, message, script.delay + (self.ids.uniform(0, script.jitter) if script.jitter else 0.0))
            self.written += 1


@dataclass(slots=True, eq=False)
class LogGroup:
    name: str
    created: float
    streams: dict[str, LogStream] = field(default_factory=dict)


class Logs:
    """The service in one Place.

    `tokens`: what a forward token of GetLogEvents remembers. "timestamp" (the harsh reading of AWS's text) is a
    place in the order of timestamps, so that a line which arrives late with an older timestamp is never given to a
    reader that only follows tokens; "arrival" gives each line once, whenever it appears.
    """

    service = "logs"

    def __init__(self, place: Place, clock: Clock, ids: Ids) -> None:
        self.place = place
        self.tokens: Literal["timestamp", "arrival"] = "timestamp"
        self.groups: dict[str, LogGroup] = {}
        self._clock = clock
        self._ids = ids
        self.actions: dict[str, Callable[[dict[str, Any], Call], dict[str, Any] | bytes]] = {
            "CreateLogGroup": self._create_log_group,
            "DeleteLogGroup": self._delete_log_group,
            "CreateLogStream": self._create_log_stream,
            "DeleteLogStream": self._delete_log_stream,
            "DescribeLogGroups": self._describe_log_groups,
            "DescribeLogStreams": self._describe_log_streams,
            "FilterLogEvents": self._filter_log_events,
            "GetLogEvents": self._get_log_events,
            "PutLogEvents": self._put_log_events,
            "PutRetentionPolicy": self._put_retention_policy,
        }

    # -- in-process -------------------------------------------------------------------

    def create_group(self, name: str) -> LogGroup:
        return self.groups.setdefault(name, LogGroup(name, self._clock.now()))

    def open_stream(self, group: str, name: str, script: LogScript | None, at: float) -> LogStream:
        """The stream a container writes to. The group must exist."""
        streams = self.groups[group].streams
        if name not in streams:
            streams[name] = LogStream(name, at, self._ids, script)
        return streams[name]

    def put(self, group: str, stream: str, *messages: str, delay: float = 0.0) -> None:
        """Lines written now, visible after `delay` simulated seconds."""
        now = self._clock.now()
        self.create_group(group)
        for message in messages:
            self.open_stream(group, stream, None, now).write(now, message, delay)

    # -- actions ----------------------------------------------------------------------

    def _create_log_group(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        if params["logGroupName"] in self.groups:
            raise ServiceError("ResourceAlreadyExistsException", "The specified log group already exists")
        self.create_group(params["logGroupName"])
        return {}

    def _delete_log_group(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        del self.groups[self._group(params).name]
        return {}

    def _create_log_stream(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        group = self._group(params)
        if params["logStreamName"] in group.streams:
            raise ServiceError("ResourceAlreadyExistsException", "The specified log stream already exists")
        self.open_stream(group.name, params["logStreamName"], None, self._clock.now())
        return {}

    def _delete_log_stream(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        group = self._group(params)
        del group.streams[self._stream(group, params["logStreamName"]).name]
        return {}

    def _put_log_events(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        stream = self._stream(self._group(params), params["logStreamName"])
        for event in params["logEvents"]:
            stream.write(event["timestamp"] / 1000, event["message"])
        return {"nextSequenceToken": f"{self._ids.serial():056d}"}

    def _put_retention_policy(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        self._group(params)
        return {}

    def _describe_log_groups(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        prefix = params.get("logGroupNamePrefix", "")
        pattern = params.get("logGroupNamePattern", "").lower()
        names = sorted(n for n in self.groups if n.startswith(prefix) and pattern in n.lower())
        page, token = _page(names, params)
        answer: dict[str, Any] = {"logGroups": [self._group_document(self.groups[name]) for name in page]}
        return answer | token

    def _describe_log_streams(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        group = self._group(params)
        now = self._clock.now()
        prefix = params.get("logStreamNamePrefix", "")
        known = [s for name, s in group.streams.items() if name.startswith(prefix) and _exists(s, now)]
        for stream in known:
            stream.catch_up(now)
        if params.get("orderBy") == "LastEventTime":
            if prefix:
                raise ServiceError(
                    "InvalidParameterException", "Cannot order by LastEventTime with a logStreamNamePrefix."
                )
            known.sort(key=lambda stream: stream.visible[-1].timestamp if stream.visible else 0)
        else:
            known.sort(key=lambda stream: stream.name)
        if params.get("descending"):
            known.reverse()
        page, token = _page(known, params)
        return {"logStreams": [self._stream_document(group, stream) for stream in page]} | token

    def _get_log_events(self, params: dict[str, Any], call: Call) -> dict[str, Any] | bytes:
        now = self._clock.now()
        stream = self._stream(self._group(params), params["logStreamName"])
        stream.catch_up(now)
        limit = min(params.get("limit", _PAGE_EVENTS), _PAGE_EVENTS)
        token = params.get("nextToken")
        empty = call.what is What.EMPTY_PAGE
        if token is None and not params.get("startFromHead"):
            return self._tail(stream, params, limit)
        kind, _, place = (token or "f/").partition("/")
        if kind not in {"f", "b"}:
            raise ServiceError("InvalidParameterException", "The specified nextToken is invalid.")
        if kind == "b":
            return self._backward(stream, place, limit, token or "")
        if self.tokens == "arrival":
            return self._forward_by_arrival(stream, params, place, 0 if empty else limit, token)
        return self._forward(stream, params, place, 0 if empty else limit, token)

    def _forward(
        self, stream: LogStream, params: dict[str, Any], place: str, limit: int, token: str | None
    ) -> dict[str, Any]:
        low, high = _bounds(stream.visible, params)
        if place:
            low = max(low, bisect.bisect_right(stream.visible, _position(place)))
        page = _take(islice(stream.visible, low, max(low, high)), limit)
        if page:
            forward = f"f/{page[-1].timestamp}:{page[-1].serial}"
        elif low < high:  # an empty page that is not the end
            before = stream.visible[low]
            forward = f"f/{before.timestamp}:{before.serial - 1}:{self._ids.hex(8)}"
        else:
            forward = token or f"f/{params.get('startTime', 0)}:0"
        backward = f"b/{page[0].timestamp}:{page[0].serial}" if page else f"b/{forward[2:]}"
        return _events_answer(page, forward, backward)

    def _forward_by_arrival(
        self, stream: LogStream, params: dict[str, Any], place: str, limit: int, token: str | None
    ) -> dict[str, Any]:
        position, _, nonce = place.partition(":")
        low = int(position or 0)
        start, end = params.get("startTime", 0), params.get("endTime")
        coming = islice(stream.arrived, low, None)
        page = _take(coming, limit)
        forward = f"f/{low + len(page)}:"
        if not page:
            more = limit == 0 and low < len(stream.arrived)
            forward = f"f/{low}:{int(nonce or 0) + 1}" if more else (token or f"f/{low}:")
        page = sorted(e for e in page if e.timestamp >= start and (end is None or e.timestamp < end))
        return _events_answer(page, forward, f"b/{page[0].timestamp}:{page[0].serial}" if page else "b/0:0")

    def _tail(self, stream: LogStream, params: dict[str, Any], limit: int) -> dict[str, Any]:
        low, high = _bounds(stream.visible, params)
        page = _take(reversed(stream.visible[low:high]), limit)[::-1]
        last = page[-1] if page else None
        if self.tokens == "arrival":
            forward = f"f/{len(stream.arrived)}:"
        else:
            forward = f"f/{last.timestamp}:{last.serial}" if last else "f/0:0"
        return _events_answer(page, forward, f"b/{page[0].timestamp}:{page[0].serial}" if page else "b/0:0")

    def _backward(self, stream: LogStream, place: str, limit: int, token: str) -> dict[str, Any]:
        end = bisect.bisect_left(stream.visible, _position(place))
        page = _take(reversed(stream.visible[:end]), limit)[::-1]
        forward = f"f/{page[-1].timestamp}:{page[-1].serial}" if page else f"f/{place}"
        return _events_answer(page, forward, f"b/{page[0].timestamp}:{page[0].serial}" if page else token)

    def _filter_log_events(self, params: dict[str, Any], call: Call) -> dict[str, Any]:
        group = self._group(params)
        if params.get("filterPattern"):
            raise ServiceError("InvalidParameterException", "The simulator knows no filter patterns.")
        now = self._clock.now()
        streams = self._chosen(group, params, now)
        token = params.get("nextToken")
        after = _position(token.removeprefix("n/").partition("/")[0]) if token else None
        limit = min(params.get("limit", _PAGE_EVENTS), _PAGE_EVENTS)
        parts: list[Iterator[tuple[int, int, LogEvent, str]]] = []
        for stream in streams:
            stream.catch_up(now)
            low, high = _bounds(stream.visible, params)
            if after is not None:
                low = max(low, bisect.bisect_right(stream.visible, after))
            parts.append(_keyed(islice(stream.visible, low, max(low, high)), stream.name))
        found = [(event, name) for _, _, event, name in islice(heapq.merge(*parts), limit + 1)]
        if call.what is What.EMPTY_PAGE:
            place = f"{after.timestamp}:{after.serial}" if after else "0:0"
            return {"events": [], "searchedLogStreams": [], "nextToken": f"n/{place}/{self._ids.hex(8)}"}
        page = found[: len(_take((event for event, _ in found), limit))]
        answer: dict[str, Any] = {
            "events": [
                _event_document(event) | {"logStreamName": name, "eventId": event.event_id} for event, name in page
            ],
            "searchedLogStreams": [],
        }
        if len(page) < len(found):
            last = page[-1][0]
            answer["nextToken"] = f"n/{last.timestamp}:{last.serial}/{self._ids.hex(8)}"
        return answer

    # -- inside -----------------------------------------------------------------------

    def _chosen(self, group: LogGroup, params: dict[str, Any], now: float) -> list[LogStream]:
        names = params.get("logStreamNames")
        prefix = params.get("logStreamNamePrefix")
        if names and prefix:
            raise ServiceError(
                "InvalidParameterException", "logStreamNames and logStreamNamePrefix are mutually exclusive."
            )
        if names is not None:
            if not 1 <= len(names) <= 100:
                raise ServiceError("InvalidParameterException", "1 to 100 logStreamNames are allowed.")
            return [self._stream(group, name) for name in names]
        return [s for name, s in group.streams.items() if name.startswith(prefix or "") and _exists(s, now)]

    def _group(self, params: dict[str, Any]) -> LogGroup:
        name = params.get("logGroupName") or params.get("logGroupIdentifier", "").rpartition("log-group:")[2]
        group = self.groups.get(name)
        if group is None:
            raise ServiceError("ResourceNotFoundException", "The specified log group does not exist.")
        return group

    def _stream(self, group: LogGroup, name: str) -> LogStream:
        stream = group.streams.get(name)
        if stream is None or not _exists(stream, self._clock.now()):
            raise ServiceError("ResourceNotFoundException", "The specified log stream does not exist.")
        return stream

    def _group_document(self, group: LogGroup) -> dict[str, Any]:
        arn = self.place.arn("logs", f"log-group:{group.name}")
        return {
            "logGroupName": group.name,
            "creationTime": int(group.created * 1000),
            "metricFilterCount": 0,
            "arn": f"{arn}:*",
            "storedBytes": 0,
            "logGroupClass": "STANDARD",
            "logGroupArn": arn,
        }

    def _stream_document(self, group: LogGroup, stream: LogStream) -> dict[str, Any]:
        document = {
            "logStreamName": stream.name,
            "creationTime": int(stream.created * 1000),
            "uploadSequenceToken": f"{len(stream.arrived):056d}",
            "arn": self.place.arn("logs", f"log-group:{group.name}:log-stream:{stream.name}"),
            "storedBytes": 0,
        }
        if stream.visible:
            document |= {
                "firstEventTimestamp": stream.visible[0].timestamp,
                "lastEventTimestamp": stream.visible[-1].timestamp,
                "lastIngestionTime": int(stream.visible[-1].visible_at * 1000),
            }
        return document


def _exists(stream: LogStream, now: float) -> bool:
    return now >= stream.created + (stream.script.stream_delay if stream.script else 0.0)


def _position(place: str) -> LogEvent:
    timestamp, _, rest = place.partition(":")
    try:
        return LogEvent(int(timestamp), int(rest.partition(":")[0]), "", 0.0)
    except ValueError:
        raise ServiceError("InvalidParameterException", "The specified nextToken is invalid.") from None


def _bounds(events: list[LogEvent], params: dict[str, Any]) -> tuple[int, int]:
    """The part from startTime (inclusive) to endTime (exclusive)."""
    start, end = params.get("startTime"), params.get("endTime")
    low = bisect.bisect_left(events, LogEvent(start, 0, "", 0.0)) if start is not None else 0
    high = bisect.bisect_left(events, LogEvent(end, 0, "", 0.0)) if end is not None else len(events)
    return low, high


def _keyed(events: Iterator[LogEvent], stream: str) -> Iterator[tuple[int, int, LogEvent, str]]:
    """For merging streams: tuples of numbers compare faster than events do."""
    return ((event.timestamp, event.serial, event, stream) for event in events)


def _take(events: Iterator[LogEvent], limit: int) -> list[LogEvent]:
    """As many as one page holds: `limit` events, 1 MiB."""
    page: list[LogEvent] = []
    room = _PAGE_BYTES
    for event in islice(events, limit):
        room -= len(event.message.encode()) + _EVENT_OVERHEAD
        if room < 0 and page:
            break
        page.append(event)
    return page


def _event_document(event: LogEvent) -> dict[str, Any]:
    return {
        "timestamp": event.timestamp,
        "message": event.message,
        "ingestionTime": int(event.visible_at * 1000),
    }


def _events_answer(page: list[LogEvent], forward: str, backward: str) -> dict[str, Any]:
    return {
        "events": [_event_document(event) for event in page],
        "nextForwardToken": forward,
        "nextBackwardToken": backward,
    }


def _page(items: list[Any], params: dict[str, Any]) -> tuple[list[Any], dict[str, str]]:
    start, size = int(params.get("nextToken", 0)), min(params.get("limit", 50), 50)
    token = {"nextToken": str(start + size)} if start + size < len(items) else {}
    return items[start : start + size], token
