"""Questions to Prefect and AWS: equal ones are asked once, none waits long, and trouble is an answer, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio

from ecs_worker.doctor.finding import Untold
from ecs_worker.errors import AwsError, EcsWorkerError, UserError
from ecs_worker.verdicts.classify import Kind, classify

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable

K = TypeVar("K", bound="Hashable")
T = TypeVar("T")
U = TypeVar("U")

SECONDS = 20.0  # for one question; the SDK's own attempts at an address that nobody answers take longer
_AT_ONCE = 20
_DENIED = ("AccessDenied", "UnauthorizedOperation", "NotAuthorized", "AuthorizationError")


class _Answer:
    def __init__(self) -> None:
        self.done = anyio.Event()
        self.value: Any = Untold("the question was broken off")


class Asking:
    """Asks, and keeps what was answered for as long as it lives. `seconds`: for each question."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._answers: dict[Hashable, _Answer] = {}
        self._limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def get(self, key: Hashable, ask: Callable[[], Awaitable[T]]) -> T | Untold:
        """What `ask` returns; it must not ask such a question itself. `key`: equal for equal questions."""
        if (known := self._answers.get(key)) is not None:
            await known.done.wait()
            return cast("T | Untold", known.value)
        answer = self._answers[key] = _Answer()
        try:
            async with self._limiter:
                answer.value = await self._asked(ask)
        finally:
            answer.done.set()
        return cast("T | Untold", answer.value)

    async def each(
        self, wanted: Iterable[K], key: Callable[[K], Hashable], ask: Callable[[K], Awaitable[T]]
    ) -> dict[K, T | Untold]:
        """What `ask` returns of each that is wanted; all are asked side by side."""
        found: dict[K, T | Untold] = {}

        async def one(each: K) -> None:
            found[each] = await self.get(key(each), lambda: ask(each))

        async with anyio.create_task_group() as group:
            for each in wanted:
                group.start_soon(one, each)
        return found

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T | Untold:
        try:
            with anyio.fail_after(self._seconds):
                return await ask()
        except TimeoutError as error:
            return Untold(f"there was no answer within {self._seconds:g} s", error=error)
        except EcsWorkerError as error:
            return Untold(str(error), denied(error), error, "" if denied(error) else _remedy(error))


def _remedy(error: EcsWorkerError) -> str:
    """Of an error that the next attempt would get, too; empty: of others."""
    if isinstance(error, AwsError):
        verdict = classify(error)
        return verdict.remedy or ("Correct what AWS complains of." if verdict.kind is Kind.PERMANENT else "")
    return "Correct that, and give the command again." if isinstance(error, UserError) else ""


async def all_of(wanted: Collection[K], ask: Callable[[K], Awaitable[T]]) -> dict[K, T]:
    """What `ask` returns of each, in their order; it may ask questions of its own, so that it isn't one."""
    found: dict[K, T] = {}
    limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def one(each: K) -> None:
        async with limiter:
            found[each] = await ask(each)

    async with anyio.create_task_group() as group:
        for each in wanted:
            group.start_soon(one, each)
    return {each: found[each] for each in wanted}


async def side_by_side(one: Callable[[], Awaitable[T]], other: Callable[[], Awaitable[U]]) -> tuple[T, U]:
    """What both return. Raises what one of them raises, once the other has ended, too."""
    found: dict[int, Any] = {}
    errors: list[EcsWorkerError] = []

    async def ask(number: int, question: Callable[[], Awaitable[Any]]) -> None:
        try:
            found[number] = await question()
        except EcsWorkerError as error:  # a group of errors would be none that anybody expects
            errors.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(ask, 1, one)
        group.start_soon(ask, 2, other)
    if errors:
        raise errors[0]
    return found[1], found[2]


def denied(error: Exception) -> bool:
    """Whether AWS says that whoever asks isn't allowed to."""
    return isinstance(error, AwsError) and any(word in error.code for word in _DENIED)


def code(answer: object) -> str:
    """The code of the AWS error that came in place of an answer; empty: there was none."""
    error = answer.error if isinstance(answer, Untold) else None
    return error.code if isinstance(error, AwsError) else ""
