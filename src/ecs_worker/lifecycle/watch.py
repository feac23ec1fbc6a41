"""Watch: one sweeper describes the tasks of all held runs, 100 to a call, and passes on what changed.

It works on levels, not on edges: whatever a failed call left undone is still to do at the next sweep. If the process
dies, `adopt` of the next worker describes the same tasks.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from itertools import batched
from typing import TYPE_CHECKING

import anyio

from ecs_worker.errors import AwsError, PrefectError
from ecs_worker.model import Phase, TaskFacts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ecs_worker.aws.session import Aws
    from ecs_worker.lifecycle.feed import Feed
    from ecs_worker.lifecycle.ledger import Held, Ledger
    from ecs_worker.lifecycle.logs import Logs
    from ecs_worker.lifecycle.report import Report
    from ecs_worker.model import AwsTarget

log = logging.getLogger(__name__)

PER_CALL = 100  # DescribeTasks takes no more
MISSING = "MISSING"
MISSING_GRACE = 60.0  # seconds: a new task may be unknown to DescribeTasks for a while (eventual consistency)
