"""The real Prefect server, which also says what requests it got: GET /calls. For `uvicorn --factory`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from prefect.server.api.server import create_app

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

OWN = b"x-bench"
"""The bench's own requests carry this header and aren't counted."""


def create() -> Callable[..., Awaitable[None]]:
    """The application."""
    app = create_app()
    calls: list[tuple[float, str, str]] = []  # monotonic seconds, method, path

    async def counted(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/calls":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": json.dumps(calls).encode()})
            return
        if scope["type"] == "http" and all(name != OWN for name, _ in scope["headers"]):
            calls.append((time.monotonic(), scope["method"], scope["path"]))
        await app(scope, receive, send)

    return counted
