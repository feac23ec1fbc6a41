"""A flow whose container dies without reporting, as when the kernel kills it because memory runs out."""

import os
import signal
import time

from prefect import flow


@flow
def crashing_flow(seconds: float = 1.0) -> None:
    """Work for a while, then kill this process, and the one that would have reported its end."""
    print("Reading far too large a file …", flush=True)
    time.sleep(seconds)
    for process in (os.getppid(), os.getpid()):
        os.kill(process, signal.SIGKILL)
