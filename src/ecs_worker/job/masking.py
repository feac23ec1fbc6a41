"""Requests as they may be shown: without the secrets that can be recognised."""

from __future__ import annotations

import re
from typing import Any

MASK = "********"
_SECRET = re.compile(r"secret|token|key|passw|pwd|auth|credential|headers|private|dsn", re.IGNORECASE)
_PASSWORD_IN_URL = re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]+@")
# Maps of free names to texts that ECS hands to drivers and to Docker.
_MAPS = {"options", "driverOpts", "dockerLabels"}


def masked(request: Any) -> Any:
    """A copy of an ECS request with ******** for values under names that sound secret and for passwords in URLs.

    Secrets that ECS fetches itself stand in requests by their ARN, which stays.
    """
    if isinstance(request, dict):
        if isinstance(request.get("name"), str) and isinstance(request.get("value"), str):
            return {**request, "value": _value(request["name"], request["value"])}
        return {key: _map(value) if key in _MAPS else masked(value) for key, value in request.items()}
    if isinstance(request, list):
        return [masked(item) for item in request]
    return _text(request) if isinstance(request, str) else request


def _map(values: Any) -> Any:
    if not isinstance(values, dict):
        return masked(values)
    return {
        name: _value(str(name), value) if isinstance(value, str) else masked(value) for name, value in values.items()
    }


def _value(name: str, value: str) -> str:
    return MASK if value and _SECRET.search(name) else _text(value)


def _text(value: str) -> str:
    return _PASSWORD_IN_URL.sub(rf"\1:{MASK}@", value)
