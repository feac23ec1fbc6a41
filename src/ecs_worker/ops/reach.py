"""Whether containers can reach the Prefect API that the worker names to them."""

from __future__ import annotations

import logging
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ecs_worker.errors import EcsWorkerError
from ecs_worker.job.configuration import pool_defaults

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecs_worker.aws.session import Aws
    from ecs_worker.settings import JobDefaults, PrefectSettings

log = logging.getLogger(__name__)

_API_URL = "PREFECT_API_URL"


def only_here(url: str) -> bool:
    """Whether the URL's host is a name or an address by which each machine calls itself."""
    host = urlsplit(url).hostname or ""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


async def warn_of_loopback(
    prefect: PrefectSettings, defaults: JobDefaults, base_job_template: Mapping[str, Any], aws: Aws
) -> None:
    """Say so if tasks run on AWS, but are given a URL of this machine's own. `defaults` and template may give another.

    Nothing is asked.
    """
    if not only_here(prefect.api_url) or _API_URL in defaults.env or _names_another(base_job_template):
        return
    try:
        endpoint = await aws.ecs_endpoint()
    except EcsWorkerError:
        return  # the first call tells it better
    if not only_here(endpoint):
        log.warning(
            "PREFECT_API_URL is %s, which only this machine reaches, but tasks run on AWS (%s): no flow run could tell "
            "its state. Set it to an address that containers reach, too, or give them one of their own with --env "
            "PREFECT_API_URL=….",
            prefect.shown_url,
            endpoint,
        )


def _names_another(base_job_template: Mapping[str, Any]) -> bool:
    configuration = base_job_template.get("job_configuration")
    fixed = configuration.get("env") if isinstance(configuration, dict) else None
    return any(
        isinstance(env, dict) and _API_URL in env for env in (fixed, pool_defaults(base_job_template).get("env"))
    )
