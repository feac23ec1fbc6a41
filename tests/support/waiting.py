"""Waiting for what becomes true elsewhere: in another process, on a server, in a loop of the worker."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


async def until(
    look: Callable[[], Any], seconds: float = 30, *, every: float = 0.05, told: Callable[[], object] | None = None
) -> Any:
    """Look until something true is seen, and give it. `look` may be a coroutine function.

    Fails after so many `seconds`, with what `told` gives by then; waits `every` so many seconds between two looks.
    """
    try:
        async with asyncio.timeout(seconds) as time:
            while True:
                seen = look()
                if inspect.isawaitable(seen):
                    seen = await seen
                if seen:
                    return seen
                await asyncio.sleep(every)
    except TimeoutError:
        if not time.expired():  # it is the look's own
            raise
        raise AssertionError(f"It did not come about in {seconds} s{f': {told()}' if told else ''}") from None
