"""What goes wrong, when, and the record of every call: shared by the AWS simulator and the chaos proxy.

A request passes two points: *before* (received, nothing has happened yet) and *after* (its effect is there, the
answer is not sent). Faults strike at one of them, and a test can hold the request at either.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class What(StrEnum):
    """The ways in which a call goes wrong."""

    THROTTLE = "throttle"  # the service's own throttling error; HTTP 429 from the proxy
    DISGUISED_THROTTLE = "disguised_throttle"  # InvalidParameterException … Rate exceeded
    SERVER_ERROR = "server_error"  # 5xx, nothing happened
    SERVER_ERROR_AFTER = "server_error_after"  # 5xx, and yet it happened
    LOST_BEFORE = "lost_before"  # connection closed, nothing happened
    LOST_AFTER = "lost_after"  # connection closed, and yet it happened
    HANG_BEFORE = "hang_before"  # no answer for `delay` seconds, nothing happened; then the connection is closed
    HANG_AFTER = "hang_after"  # no answer for `delay` seconds, and yet it happened; then the connection is closed
    TRUNCATED = "truncated"  # it happened; half of the answer arrives, then the connection is closed
    ERROR = "error"  # the error that `code`, `message` and `status` say; nothing happened
    LATENCY = "latency"  # `delay` seconds more before the effect; combines with the other faults
    FAILURES = "failures"  # RunTask: HTTP 200 with `failures[]` of that `reason`
    EMPTY_PAGE = "empty_page"  # GetLogEvents, FilterLogEvents: no events, and a token that goes on
    DISCONNECT = "disconnect"  # a WebSocket is closed `delay` seconds after it opened


_BEFORE = {
    What.THROTTLE,
    What.DISGUISED_THROTTLE,
    What.SERVER_ERROR,
    What.ERROR,
    What.LOST_BEFORE,
    What.HANG_BEFORE,
}
_AFTER = {What.SERVER_ERROR_AFTER, What.LOST_AFTER, What.HANG_AFTER, What.TRUNCATED}


class Phase(StrEnum):
    """The two points that every request passes."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A rule: which calls go wrong, and how. All conditions must hold.

    `action`, `caller` and `place` ("account/region") are shell patterns (`Describe*`); `containing` is a text that the
    request must hold; `nth` names calls among those that match so far, from 1; `probability` is drawn from the seed,
    the rule, the action and that action's count, so that neither timing nor other actions change it; `start` and `end`
    are real seconds since the rule was added; `times` bounds how often it strikes. Of several kinds in `what` one is
    drawn.
    """

    what: tuple[What, ...]
    action: str = "*"
    caller: str = "*"
    place: str = "*"
    containing: str = ""
    nth: tuple[int, ...] = ()
    probability: float = 1.0
    start: float = 0.0
    end: float | None = None
    times: int | None = None
    code: str = ""
    message: str = ""
    status: int | None = None
    reason: str = "RESOURCE:MEMORY"
    delay: float | None = None  # real seconds; None: until the simulator closes
    retry_after: float | None = None  # the proxy's Retry-After header, seconds


def fault(*what: What, **conditions: object) -> Fault:
    """A rule in few words: `fault(What.THROTTLE, action="RunTask", nth=(1, 2))`."""
    return Fault(what=what, **conditions)  # type: ignore[arg-type]  # the dataclass names and types them


@dataclass(slots=True)
class Call:
    """One request that was received."""

    index: int  # from 0, over all actions
    action: str
    occurrence: int  # from 1, among this action's calls by this caller
    caller: str  # its User-Agent
    subject: str  # what it is about: the startedBy, the flow run's id, the task …; empty when it is many things
    at: float  # real seconds, time.monotonic()
    text: str = field(default="", repr=False)
    place: str = ""  # account/region; empty where there is none
    what: What | None = None  # the fault that struck
    fault: Fault | None = field(default=None, repr=False)
    effect: bool = False  # whether it happened
    outcome: str = ""  # "200", an error code, or "dropped"; empty while it is under way
    seconds: float = 0.0
    pauses: tuple[Pause, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Point:
    """Where a request can be held: `occurrence` counts the matching calls from the moment the pause is set."""

    action: str
    phase: Phase
    occurrence: int = 1
    caller: str = "*"

    def __str__(self) -> str:
        return f"{self.phase} {self.action} #{self.occurrence}"


def points_of(calls: Iterable[Call], caller: str = "*") -> list[Point]:
    """Both points of every call of that caller, in order: what a kill matrix walks through."""
    seen: Counter[str] = Counter()
    points: list[Point] = []
    for call in calls:
        if fnmatchcase(call.caller, caller):
            seen[call.action] += 1
            points += [Point(call.action, phase, seen[call.action], caller) for phase in Phase]
    return points


class ConnectionDropped(Exception):
    """The connection is to be closed without an answer."""


class Injected(Exception):
    """The call is to be answered with a fault."""

    def __init__(self, what: What, rule: Fault) -> None:
        super().__init__(what)
        self.what = what
        self.rule = rule


class Pause:
    """A request will be held at `point`. `wait()` for it, then `resume()` or `drop()` it (once).

    `drop()` before the effect means that the request never arrived; `resume()` that it arrives although its sender
    may be dead by now.
    """

    def __init__(self, point: Point, *, freeze: bool, held: Callable[[], None] | None, director: Director) -> None:
        self.point = point
        self.freeze = freeze
        self.held = held
        self.call: Call | None = None
        self._director = director
        self._seen = 0
        self._reached = asyncio.Event()
        self._released = asyncio.Event()
        self._dropped = False

    @property
    def reached(self) -> bool:
        return self._reached.is_set()

    @property
    def released(self) -> bool:
        return self._released.is_set()

    async def wait(self, seconds: float) -> Call:
        """The held call. TimeoutError when none came in `seconds` real seconds."""
        await asyncio.wait_for(self._reached.wait(), seconds)
        if self.call is None:
            raise RuntimeError("reached without a call")
        return self.call

    def resume(self) -> None:
        self._release()

    def drop(self) -> None:
        self._dropped = True
        self._release()

    def matches(self, call: Call) -> bool:
        """Counts the call as it is received; true for the one to hold."""
        point = self.point
        if self._seen >= point.occurrence or not (
            fnmatchcase(call.action, point.action) and fnmatchcase(call.caller, point.caller)
        ):
            return False
        self._seen += 1
        return self._seen == point.occurrence

    async def hold(self, call: Call) -> None:
        self.call = call
        if self.freeze:
            self._director.freeze()
        if self.held is not None:
            self.held()
        self._reached.set()
        await self._released.wait()
        if self._dropped:
            raise ConnectionDropped

    def _release(self) -> None:
        self._released.set()
        self._director.forget(self)


class Rule:
    """A fault with its own counters."""

    __slots__ = ("added", "fault", "ordinal", "seen", "struck")

    def __init__(self, rule: Fault, ordinal: int) -> None:
        self.fault = rule
        self.ordinal = ordinal
        self.added = time.monotonic()
        self.seen = 0
        self.struck = 0

    def strike(self, call: Call, seed: int) -> What | None:
        """Counts the call if it matches; the fault that strikes it, if any."""
        rule = self.fault
        if not self._matches(call):
            return None
        self.seen += 1
        age = call.at - self.added
        if age < rule.start or (rule.end is not None and age >= rule.end):
            return None
        if (rule.nth and self.seen not in rule.nth) or (rule.times is not None and self.struck >= rule.times):
            return None
        if rule.probability < 1 and draw(seed, self.ordinal, call.action, call.occurrence) >= rule.probability:
            return None
        self.struck += 1
        return rule.what[int(draw(seed, self.ordinal, call.action, call.occurrence, "kind") * len(rule.what))]

    def _matches(self, call: Call) -> bool:
        rule = self.fault
        return (
            fnmatchcase(call.action, rule.action)
            and fnmatchcase(call.caller, rule.caller)
            and fnmatchcase(call.place, rule.place)
            and rule.containing in call.text
        )


def draw(*parts: object) -> float:
    """A number in [0, 1) that only the parts decide."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=7).digest()
    return int.from_bytes(digest) / 2**56


class Director:
    """Receives every call, decides its fate by the rules, holds it at pauses, and keeps the record."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.calls: list[Call] = []
        self._rules: list[Rule] = []
        self._ordinals = itertools.count()
        self._pauses: list[Pause] = []
        self._occurrences: Counter[tuple[str, str]] = Counter()
        self._open = asyncio.Event()
        self._open.set()
        self._closing = asyncio.Event()

    # -- what tests say ---------------------------------------------------------------

    def add(self, *rules: Fault) -> None:
        self._rules += [Rule(rule, next(self._ordinals)) for rule in rules]

    def clear(self) -> None:
        """No faults any more; calls that already hang stay so."""
        self._rules.clear()

    def remove(self, *rules: Fault) -> None:
        """These faults are over."""
        self._rules = [rule for rule in self._rules if all(rule.fault is not one for one in rules)]

    def pause_at(self, point: Point, *, freeze: bool = False, held: Callable[[], None] | None = None) -> Pause:
        """Holds a call at `point`; with `freeze`, every later call waits too until `thaw()`.

        `held` is called in the very moment: whoever waits for the pause may hear of it later.
        """
        pause = Pause(point, freeze=freeze, held=held, director=self)
        self._pauses.append(pause)
        return pause

    def freeze(self) -> None:
        self._open.clear()

    def thaw(self) -> None:
        self._open.set()

    def count(self, action: str, caller: str = "*") -> int:
        """How many calls of that action (a pattern) were received."""
        return sum(fnmatchcase(call.action, action) and fnmatchcase(call.caller, caller) for call in self.calls)

    def struck(self) -> Counter[str]:
        """How often each kind of fault struck."""
        return Counter(call.what.value for call in self.calls if call.what is not None)

    def close(self) -> None:
        """Ends what hangs, is held or is frozen: their connections are closed."""
        self._closing.set()
        for pause in tuple(self._pauses):
            pause.drop()
        self.thaw()

    # -- what the servers ask ---------------------------------------------------------

    def receive(self, action: str, *, caller: str, subject: str = "", text: str = "", place: str = "") -> Call:
        self._occurrences[action, caller] += 1
        occurrence = self._occurrences[action, caller]
        call = Call(len(self.calls), action, occurrence, caller, subject, time.monotonic(), text, place)
        self.calls.append(call)
        call.pauses = tuple(pause for pause in self._pauses if pause.matches(call))
        return call

    async def before(self, call: Call) -> None:
        """The first point. Raises Injected or ConnectionDropped when nothing is to happen."""
        await self._open.wait()
        latency = self._decide(call)
        if latency:
            await self._pass(latency)
        await self._hold(call, Phase.BEFORE)
        await self._strike(call, _BEFORE)

    async def after(self, call: Call) -> None:
        """The second point. Raises Injected or ConnectionDropped when the answer is not to be sent as it is."""
        call.effect = True
        await self._hold(call, Phase.AFTER)
        await self._strike(call, _AFTER)

    def done(self, call: Call, outcome: str) -> None:
        call.outcome = outcome
        call.seconds = time.monotonic() - call.at
        call.text = ""
        call.pauses = ()

    def forget(self, pause: Pause) -> None:
        if pause in self._pauses:
            self._pauses.remove(pause)

    # -- inside -----------------------------------------------------------------------

    def _decide(self, call: Call) -> float:
        """Sets the fault that strikes, the first rule's; returns the latencies' sum."""
        latency = 0.0
        for rule in self._rules:
            what = rule.strike(call, self.seed)
            if what is What.LATENCY:
                latency += rule.fault.delay or 0.0
            elif what is not None and call.what is None:
                call.what, call.fault = what, rule.fault
        return latency

    async def _hold(self, call: Call, phase: Phase) -> None:
        for pause in call.pauses:
            if pause.point.phase is phase:
                await pause.hold(call)
                await self._open.wait()

    async def _strike(self, call: Call, kinds: set[What]) -> None:
        if call.what is None or call.fault is None or call.what not in kinds:
            return
        if call.what in {What.HANG_BEFORE, What.HANG_AFTER}:
            await self._pass(call.fault.delay)
            raise ConnectionDropped
        if call.what in {What.LOST_BEFORE, What.LOST_AFTER}:
            raise ConnectionDropped
        raise Injected(call.what, call.fault)

    async def _pass(self, seconds: float | None) -> None:
        """Waits, but no longer than the simulator lives."""
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except TimeoutError:
            return
        raise ConnectionDropped
