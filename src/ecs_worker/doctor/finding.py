"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_ALLOW_IT = "Allow it: `ecs-worker iam policy doctor` prints the rights that this command needs."
_LATER = "Give the command again; if that lasts, look for what is between this machine and AWS."


class Group(StrEnum):
    """What a check is about."""

    PREFECT = "Prefect"
    AWS = "AWS"
    RIGHTS = "Rights"
    NETWORK = "Network"
    IMAGE = "Image"
    JOB = "Job"
    PROBE = "Probe"


class Result(StrEnum):
    """How it is. Only FAILED keeps runs from starting, as far as a check can tell."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it is, and what to do about it.

    `about`: the deployments that it concerns; empty: all, or none in particular.
    """

    group: Group
    check: str
    result: Result
    told: str
    remedy: str = ""
    about: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Untold:
    """What could not be found out, and why. `denied`: whoever asks isn't allowed to. `remedy`: if it is known."""

    why: str
    denied: bool = False
    error: Exception | None = None
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """The place that a check's findings have: `Line(group, check).ok("…")`."""

    group: Group
    check: str
    about: tuple[str, ...] = ()

    def ok(self, told: str) -> Finding:
        """As it should be."""
        return Finding(self.group, self.check, Result.OK, told, about=self.about)

    def warning(self, told: str, remedy: str) -> Finding:
        """Runs start, but not as they should; or it can't be told."""
        return Finding(self.group, self.check, Result.WARNING, told, remedy, self.about)

    def failed(self, told: str, remedy: str) -> Finding:
        """Runs don't start, or don't run."""
        return Finding(self.group, self.check, Result.FAILED, told, remedy, self.about)

    def skipped(self, because: str) -> Finding:
        """Not looked at."""
        return Finding(self.group, self.check, Result.SKIPPED, because, about=self.about)

    def untold(self, untold: Untold) -> Finding:
        """Not known: that is said, and not guessed."""
        remedy = untold.remedy or (_ALLOW_IT if untold.denied else _LATER)
        return self.warning(f"can't be told: {untold.why.rstrip('.')}", remedy)


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Each finding once, about all deployments that share it, in their groups' order."""
    found: dict[Finding, dict[str, None]] = {}
    for each in findings:
        found.setdefault(replace(each, about=()), {}).update(dict.fromkeys(each.about))
    groups = list(Group)
    together = [replace(each, about=tuple(about)) for each, about in found.items()]
    return sorted(together, key=lambda each: groups.index(each.group))
