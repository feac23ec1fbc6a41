"""Waiting for what becomes true elsewhere: in another process, on a server, in a loop of the worker."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

NEAR, FAR, FARTHEST = 0.02, 0.2, 1.0  # seconds between two looks


async def until(
    look: Callable[[], Any],
    seconds: float = 30,
    *,
    every: float | None = None,
    told: Callable[[], object] | None = None,
) -> Any:
    """Look until something true is seen, and give it.

    A coroutine function as a rule asks a server, which costs both sides' time: it is called less often than others,
    and still less often the longer it takes. `every` says how often, in seconds, where that matters. Fails after so
    many `seconds`, with what `told` gives then.
    """
    try:
        async with asyncio.timeout(seconds) as time:
            far = FAR
            while True:
                seen = look()
                asked = inspect.isawaitable(seen)
                if asked:
                    seen = await seen
                if seen:
                    return seen
                await asyncio.sleep(every or (far if asked else NEAR))
                far = min(far * 1.15, FARTHEST)
    except TimeoutError:
        if not time.expired():  # it is the look's own
            raise
        raise AssertionError(f"It did not come about in {seconds} s{f': {told()}' if told else ''}") from None
