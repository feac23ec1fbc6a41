"""A flow whose container dies without a word, as when the kernel kills it for want of memory."""

import os
import signal
import time

from prefect import flow


@flow
def crashing_flow(seconds: float = 1.0) -> None:
    """Work for a while, then be killed together with the process that would have reported it."""
    print("Reading far too large a file …", flush=True)
    time.sleep(seconds)
    for process in (os.getppid(), os.getpid()):
        os.kill(process, signal.SIGKILL)
