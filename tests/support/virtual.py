"""Virtual time: an event loop whose clock stands still while anything is to be done, and then jumps to the next timer.

All that this process takes for the time goes by it: the loop's timers, the wall clock and the monotonic clock, in our
code and in every library. Servers and clients live in the same loop, so that a request is answered at once. What
waits for another thread is waited for in real time. Only `time.perf_counter` and the kernel's own time-outs (such as
pytest-timeout's) stay real.
"""

from __future__ import annotations

import asyncio
import ctypes
import selectors
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

import time_machine
from anyio import to_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from datetime import datetime
    from types import TracebackType

T = TypeVar("T")

_TURN = 1e-6  # seconds that each turn of the loop takes: who waits for next to nothing would wait for ever
_THREAD_LOOK = 0.001  # real seconds between two looks at what other threads have done


class VirtualTime:
    """`with VirtualTime(start) as virtual: virtual.run(main())`; `start` is what the wall clock shows then.

    RuntimeError: for `patience` real seconds there was no timer, no thread and no I/O to wait for.
    """

    def __init__(self, start: datetime, *, patience: float = 30.0) -> None:
        self.patience = patience
        self._start = start
        self._stack = ExitStack()
        self._wall: Any = None
        self.seconds = 0.0
        """How much time has passed."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # The libraries that fake the wall clock leave the monotonic one alone, or replace only its name.
            stack.enter_context(_instead_of(time.monotonic, lambda: self.seconds))
            stack.enter_context(_instead_of(time.monotonic_ns, lambda: int(self.seconds * 1e9)))
            self._wall = stack.enter_context(time_machine.travel(self._start, tick=False))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """What `main` returns, in a loop of this time."""
        with asyncio.Runner(loop_factory=lambda: _Loop(self)) as runner:
            return runner.run(_with_threads(main))

    def pass_by(self, seconds: float) -> None:
        """So much time passes at once."""
        self.seconds += seconds
        self._wall.shift(seconds)


async def _with_threads(main: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _Loop)
    limiter = to_thread.current_default_thread_limiter()  # it can only be asked for inside the loop
    loop.threads.append(lambda: limiter.borrowed_tokens)
    return await main


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, virtual: VirtualTime) -> None:
        self.threads: list[Callable[[], float]] = [lambda: self._executing]
        self._virtual = virtual
        self._executing = 0
        super().__init__(_Selector(virtual, self.threads))

    def time(self) -> float:
        return self._virtual.seconds

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:  # type: ignore[override] # likewise
        """Signals are for the test, not for what it plays: Ctrl-C ends it."""

    def remove_signal_handler(self, sig: int) -> bool:  # noqa: ARG002 - asyncio's signature
        return False

    def run_in_executor(  # type: ignore[override] # asyncio's own types say more than can be said again here
        self, executor: Any, func: Any, *args: Any
    ) -> asyncio.Future[Any]:
        future = super().run_in_executor(executor, func, *args)
        self._executing += 1
        future.add_done_callback(self._executed)
        return future

    def _executed(self, _: object) -> None:
        self._executing -= 1


class _Selector(selectors.DefaultSelector):
    """Waits for nothing but threads: without I/O that is ready, the time passes."""

    def __init__(self, virtual: VirtualTime, threads: list[Callable[[], float]]) -> None:
        super().__init__()
        self._virtual = virtual
        self._threads = threads

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._virtual.pass_by(_TURN)
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        while any(pending() for pending in self._threads):
            if ready := super().select(_THREAD_LOOK):
                return ready
        if ready := super().select(0):  # loopback: what was sent is there, or about to be
            return ready
        if timeout is not None:
            self._virtual.pass_by(timeout)
            return []
        if not (ready := super().select(self._virtual.patience)):
            raise RuntimeError("everything waits, and nothing can come any more")
        return ready


class _MethodDefinition(ctypes.Structure):
    _fields_ = (
        ("ml_name", ctypes.c_char_p),
        ("ml_meth", ctypes.c_void_p),
        ("ml_flags", ctypes.c_int),
        ("ml_doc", ctypes.c_char_p),
    )


class _BuiltIn(ctypes.Structure):
    """CPython's PyCFunctionObject, as far as it matters here."""

    _fields_ = (
        ("ob_refcnt", ctypes.c_ssize_t),
        ("ob_type", ctypes.c_void_p),
        ("m_ml", ctypes.POINTER(_MethodDefinition)),
    )


_WITHOUT_ARGUMENTS = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p)


@contextmanager
def _instead_of(built_in: Callable[[], float], other: Callable[[], float]) -> Iterator[None]:
    """The built-in function does what `other` does, for all who have hold of it: default arguments, too."""
    definition = _BuiltIn.from_address(id(built_in)).m_ml.contents
    called = _WITHOUT_ARGUMENTS(lambda _module, _nothing: other())
    own = definition.ml_meth
    definition.ml_meth = ctypes.cast(called, ctypes.c_void_p).value
    try:
        yield
    finally:
        definition.ml_meth = own
