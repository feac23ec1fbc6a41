"""AWS and a canned Prefect API in a thread of their own: what the test's own thread uses is the worker's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from support.servers.canned import CannedApi
    from support.simulator import AwsSimulator

POOL = "scale"


@dataclass(frozen=True)
class Outside:
    """All that a worker talks to. `portal` runs functions in its thread."""

    portal: BlockingPortal
    aws: AwsSimulator
    api: CannedApi
