"""`ecs-worker health`: ask a worker how it is. Imports little, as a container's check runs every few seconds."""

from __future__ import annotations

import sys
from http.client import HTTPConnection, HTTPException

_OK = 200
_SECONDS = 4  # a container's check has five


def check(address: str) -> int:
    """Print what the worker at HOST:PORT says of itself. The exit code: 0 if it is well, else 1."""
    try:
        connection = HTTPConnection(address, timeout=_SECONDS)
        connection.request("GET", "/health")
        answer = connection.getresponse()
        sys.stdout.write(f"{answer.read().decode()}\n")
    except (OSError, HTTPException) as error:
        sys.stderr.write(f"No worker answers at {address}: {error}\n")
        return 1
    return 0 if answer.status == _OK else 1
