"""A flow that waits for people twice: within its container, and without one."""

from prefect import flow
from prefect.flow_runs import pause_flow_run, suspend_flow_run


@flow  # type: ignore[untyped-decorator] # prefect is read without its types
def pausing() -> None:
    """Pause, then be suspended."""
    pause_flow_run(timeout=120, poll_interval=1, key="pause")
    suspend_flow_run(timeout=120, key="suspend")
