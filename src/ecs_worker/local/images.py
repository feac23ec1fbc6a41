"""What an image brings along where a container's definition is silent. There are no images here, so few are known.

Known is the worker's own image (see Dockerfile): any whose repository is called `ecs-worker`, in whatever registry and
with whatever tag or digest. All others bring nothing: a definition must name the whole command.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_WORKERS = re.compile(r"(?:.*/)?ecs-worker(?::[^/@]+)?(?:@.+)?")


@dataclass(frozen=True, slots=True)
class Image:
    """An image's configuration: ENTRYPOINT, CMD and ENV, as far as they matter without the image's files."""

    entry_point: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def argv(self, definition: Mapping[str, Any], override: Mapping[str, Any]) -> tuple[str, ...]:
        """What a container runs. An entry point of the definition's own drops the image's command, as with Docker."""
        entry_point = definition.get("entryPoint") or ()
        command = override.get("command") or definition.get("command") or (() if entry_point else self.command)
        return (*(entry_point or self.entry_point), *command)


_WORKER = Image(
    entry_point=("ecs-worker",),
    command=("start",),
    environment={
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ECS_WORKER_WITH_HEALTHCHECK": "true",
    },
)


def image(name: str) -> Image:
    """The image of that name."""
    return _WORKER if _WORKERS.fullmatch(name) else Image()


def image_environment(name: str) -> dict[str, str]:
    """The image's variables. Workers share the host's network here, so that each needs a health address of its own."""
    found = image(name)
    if found is not _WORKER:
        return dict(found.environment)
    with socket.create_server(("127.0.0.1", 0)) as free:
        return {**found.environment, "ECS_WORKER_HEALTH_ADDRESS": f"127.0.0.1:{free.getsockname()[1]}"}
