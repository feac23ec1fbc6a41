"""A flow that works for long."""

import time

from prefect import flow


@flow  # type: ignore[untyped-decorator] # prefect is read without its types
def long() -> None:
    """Work for two minutes, unless cancelled."""
    for _ in range(240):
        time.sleep(0.5)
