"""Names that nobody knows, and the known ones that were meant."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from ecs_worker.settings import WorkerSettings, variable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_PREFIX = str(WorkerSettings.model_config["env_prefix"])
# Kubernetes tells of a service called ecs-worker in such variables.
_OF_A_SERVICE = re.compile(r"(SERVICE_(HOST|PORT)|PORT)(_.*)?")
_LIKE = 0.7  # of difflib's ratio, which is 1 for equal names
_LONGEST = 60  # characters of a name in a message


def nearest(name: str, known: Collection[str]) -> str:
    """The known name that is most like this one, whatever its case and its separators; empty if none is."""
    plain = {_plain(each): each for each in known}
    found = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=_LIKE)
    return plain[found[0]] if found else ""


def shown(name: str) -> str:
    """A name that anybody may have written, for a message."""
    return repr(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…")


def unknown_settings(environ: Iterable[str]) -> list[str]:
    """A sentence for each environment variable that looks like one of the worker's and is none."""
    known = {variable(WorkerSettings, name).removeprefix(_PREFIX) for name in WorkerSettings.model_fields}
    # The settings read them in any case.
    said = {name: name.upper().removeprefix(_PREFIX) for name in sorted(environ) if name.upper().startswith(_PREFIX)}
    return [
        f"The environment variable {name} has no effect: there is no such setting{_meant(rest, known)}"
        for name, rest in said.items()
        if rest not in known and not _OF_A_SERVICE.fullmatch(rest)
    ]


def _meant(rest: str, known: Collection[str]) -> str:
    meant = nearest(rest, known)
    return f". Did you mean {_PREFIX}{meant}?" if meant else "; remove it."


def _plain(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "").replace(" ", "")
