"""The rim of one run's affairs: a fault of ours in them must neither end the worker nor keep the others from theirs."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)


@contextmanager
def rim(run: str) -> Iterator[None]:
    """What goes wrong inside, for the run of that name, is told in the worker's log. Cancellation passes."""
    try:
        yield
    except Exception:
        log.exception("%s met a fault of ecs-worker: please report it.", run)
