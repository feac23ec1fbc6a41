"""A flow as you would write it: nothing in it knows about ECS."""

import os
import time

from prefect import flow, get_run_logger, task


@task
def count_words(text: str) -> int:
    """A piece of work for a task of its own."""
    return len(text.split())


@flow
def my_flow(text: str = "a flow run is an ECS task", seconds: float = 1.0) -> int:
    """Log, work for a while, return a result."""
    logger = get_run_logger()
    logger.info("Counting the words of %r", text)
    print(f"{os.environ.get('GREETING', 'Good day')} from the container's output", flush=True)
    time.sleep(seconds)
    words = count_words(text)
    logger.info("Counted %d words", words)
    return words
