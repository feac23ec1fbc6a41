"""Virtual time: all clocks go together, nobody waits for them, and what really takes time is waited for."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest
from aiohttp import web
from anyio import to_thread

from support.virtual import VirtualTime

if TYPE_CHECKING:
    from collections.abc import Callable

START = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)


def clocks() -> tuple[float, float, float, datetime]:
    return time.monotonic(), time.time(), asyncio.get_running_loop().time(), datetime.now(UTC)


def test_all_clocks_jump_together() -> None:
    async def main() -> None:
        before = clocks()
        await asyncio.sleep(DAY.total_seconds())
        monotonic, wall, loop, now = clocks()
        for passed in (monotonic - before[0], wall - before[1], loop - before[2], (now - START).total_seconds()):
            assert passed == pytest.approx(DAY.total_seconds())

    with VirtualTime(START) as virtual:
        virtual.run(main())


def test_who_has_got_hold_of_a_clock_before_has_the_same_time() -> None:
    def asked(clock: Callable[[], float] = time.monotonic) -> float:
        return clock()

    with VirtualTime(START) as virtual:
        virtual.pass_by(5.0)
        assert asked() == virtual.seconds == 5.0
    assert asked() != 5.0


def test_the_real_time_is_back_afterwards() -> None:
    real = time.monotonic()
    with VirtualTime(START) as virtual:
        virtual.run(asyncio.sleep(1e6))
    assert real < time.monotonic() < real + 1e6
    assert abs(datetime.now(UTC) - START) > DAY


def test_threads_are_waited_for_and_no_time_passes() -> None:
    async def main() -> None:
        released = threading.Event()
        timer = asyncio.get_running_loop().call_later(1.0, released.set)  # would come first, if the clock jumped
        began = time.monotonic()
        assert await to_thread.run_sync(released.wait, 0.1) is False
        found = await asyncio.get_running_loop().getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
        assert found
        assert time.monotonic() - began < 0.1
        timer.cancel()

    with VirtualTime(START) as virtual:
        virtual.run(main())


def test_an_answer_that_takes_long_costs_only_virtual_time() -> None:
    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(25)
        return web.Response(text="late")

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/", slow)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
            began = time.monotonic()
            assert (await client.get("/", timeout=30)).text == "late"
            assert time.monotonic() - began == pytest.approx(25, abs=0.1)
            with pytest.raises(httpx.ReadTimeout):
                await client.get("/", timeout=20)
            assert time.monotonic() - began == pytest.approx(45, abs=0.1)
        await runner.cleanup()

    with VirtualTime(START) as virtual:
        virtual.run(main())


def test_what_nothing_can_end_is_told() -> None:
    with VirtualTime(START, patience=0.05) as virtual, pytest.raises(RuntimeError, match="everything waits"):
        virtual.run(asyncio.Event().wait())


def test_signals_are_for_the_test_itself() -> None:
    async def main() -> None:
        with anyio.open_signal_receiver(signal.SIGINT):
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(1)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with VirtualTime(START) as virtual, pytest.raises(KeyboardInterrupt):
            virtual.run(main())
    finally:
        signal.signal(signal.SIGINT, before)


def test_waiting_for_next_to_nothing_ends() -> None:
    async def main() -> None:
        began = time.monotonic()
        while time.monotonic() == began:  # noqa: ASYNC110 - it is the clock that is to move
            await asyncio.sleep(1e-18)

    with VirtualTime(START) as virtual:
        virtual.pass_by(1e6)
        virtual.run(main())
