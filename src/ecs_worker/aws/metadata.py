"""The task metadata endpoint: what ECS tells a container about its own task.

Source: ECS developer guide, "Amazon ECS task metadata endpoint version 4". It answers on a link-local address, over
plain HTTP and without credentials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp

from ecs_worker.aws.errors import usable
from ecs_worker.errors import AwsError, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "ECS_CONTAINER_METADATA_URI_V4"
_OPERATION = "task metadata endpoint"
_TIMEOUT = aiohttp.ClientTimeout(total=5)  # seconds; it is on the same machine


async def own_mac_address(environ: Mapping[str, str]) -> str:
    """The MAC address of this container's task's network interface.

    Raises UserError if this is not an ECS task or shares its host's network, AwsError if the endpoint doesn't answer.
    """
    url = environ.get(VARIABLE)
    if not url:
        raise UserError(
            f"inherit_network needs a worker that runs as an ECS task, but {VARIABLE} is not set here: set subnets or "
            "vpc_id, or leave inherit_network out."
        )
    container = await _container(url)
    with usable(_OPERATION):
        networks = container.get("Networks") or ()
        found = next((str(n["MACAddress"]) for n in networks if n.get("MACAddress")), None)
    if found is None:
        modes = ", ".join(str(network.get("NetworkMode")) for network in networks) or "unknown"
        raise UserError(
            f"inherit_network needs a worker with a network interface of its own, but the network mode of its task is "
            f"{modes}: use awsvpc for the worker, or set subnets or vpc_id."
        )
    return found


async def _container(url: str) -> dict[str, Any]:
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as http, http.get(url) as response:
            response.raise_for_status()
            answer: dict[str, Any] = await response.json(content_type=None)
    except (TimeoutError, aiohttp.ClientError, ValueError) as error:
        raise AwsError(_OPERATION, type(error).__name__, str(error) or "No usable answer came.") from None
    return answer
