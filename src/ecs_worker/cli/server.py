"""The Prefect API for commands that ask it a few things and end."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ecs_worker.errors import PrefectError, PrefectUnauthorized, UserError
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.settings import PrefectSettings, load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE = 10.0  # seconds; somebody waits at a terminal
GLANCE = 2.0  # seconds, for what can be done without the API


def prefect_settings(**given: Any) -> PrefectSettings:
    """How to reach the API; what is given wins over what is configured. Raises UserError if there is no API URL."""
    settings = load(PrefectSettings, **given)
    if not settings.api_url:
        raise UserError(
            "PREFECT_API_URL is not set and the active Prefect profile has none: set it to your server's API, "
            "for example http://127.0.0.1:4200/api."
        )
    return settings


@asynccontextmanager
async def prefect_api(settings: PrefectSettings, patience: float = PATIENCE) -> AsyncIterator[PrefectClient]:
    """A client; what goes wrong within becomes a UserError of one sentence. `patience`: see PrefectClient."""
    try:
        async with PrefectClient(settings, patience_seconds=patience) as api:
            yield api
    except PrefectUnauthorized as error:
        raise UserError(
            f"The Prefect API at {settings.shown_url} refuses the credentials ({error}). Check PREFECT_API_KEY, or "
            "PREFECT_API_AUTH_STRING for a server that asks for user:password."
        ) from None
    except PrefectError as error:
        raise UserError(f"The Prefect API at {settings.shown_url} did not do what was asked: {error}.") from None
