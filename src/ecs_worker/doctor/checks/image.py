"""The images of tasks: whether they are there, and run where they are to run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ecs_worker.doctor.asking import code
from ecs_worker.doctor.finding import Finding, Group, Line, Untold
from ecs_worker.iam.jobs import ECR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ecs_worker.aws.ecr import Platform

_LARGE = 2 * 1024**3  # bytes; Fargate pulls the whole image for each task, which then takes minutes
_MEBIBYTE = 1024**2
# ECS's cpuArchitecture → what images call it.
ARCHITECTURES = {"X86_64": "amd64", "ARM64": "arm64"}


@dataclass(frozen=True)
class ImageWanted:
    """An image, and what it is to run on, in ECS's words."""

    image: str
    architecture: str = "X86_64"
    system: str = "LINUX"

    @property
    def place(self) -> tuple[str, str, str, str] | None:
        """Account, Region, repository and reference of an image on ECR; None: it is elsewhere."""
        match = ECR.match(self.image)
        if match is None:
            return None
        rest = self.image[match.end() :]
        digest = re.search(r"@(sha256:[0-9a-f]+)$", rest)
        reference = digest[1] if digest else rest.removeprefix(":") or "latest"
        return match["account"], match["region"], match["name"], reference


@dataclass(frozen=True)
class ImageFacts:
    """What the registry says. `platforms` None: there is no such image."""

    wanted: ImageWanted
    about: tuple[str, ...]
    platforms: tuple[Platform, ...] | Untold | None = None


def findings(facts: ImageFacts) -> Iterator[Finding]:
    """Of all checks of one image."""
    wanted = facts.wanted
    line = Line(Group.IMAGE, wanted.image, facts.about)
    if wanted.place is None:
        yield line.skipped("it isn't on ECR: whether it is there isn't looked at")
        return
    yield there(line, facts)
    if not facts.platforms or isinstance(facts.platforms, Untold):
        return
    yield fits(Line(Group.IMAGE, f"platform of {wanted.image}", facts.about), wanted, facts.platforms)
    yield size(Line(Group.IMAGE, f"size of {wanted.image}", facts.about), wanted, facts.platforms)


def there(line: Line, facts: ImageFacts) -> Finding:
    """Whether there is anything to pull."""
    assert facts.wanted.place is not None, "findings() asks before"
    account, region, repository, reference = facts.wanted.place
    if code(facts.platforms) == "RepositoryNotFoundException":
        return line.failed(
            f"the account {account} has no repository {repository} in {region}",
            f"Make it (`aws ecr create-repository --repository-name {repository} --region {region}`) and push the "
            "image, or correct the job variable image.",
        )
    if isinstance(facts.platforms, Untold):
        return line.untold(facts.platforms)
    if facts.platforms is None:
        return line.failed(
            f"the repository {repository} has no image {reference}", "Push it, or correct the job variable image."
        )
    return line.ok("is there")


def fits(line: Line, wanted: ImageWanted, platforms: tuple[Platform, ...]) -> Finding:
    """Whether it runs on that processor."""
    has = ", ".join(f"{each.system}/{each.architecture}" for each in platforms)
    if _fitting(wanted, platforms) is not None:
        return line.ok(has)
    needed = f"{_system(wanted)}/{_architecture(wanted)}"
    others = [name for name, each in ARCHITECTURES.items() if any(p.architecture == each for p in platforms)]
    instead = f", or set cpu_architecture to {others[0]}" if others else ""
    return line.failed(f"is for {has}, but the task is for {needed}", f"Build it with `--platform {needed}`{instead}.")


def size(line: Line, wanted: ImageWanted, platforms: tuple[Platform, ...]) -> Finding:
    """Whether it is quick to pull."""
    chosen = _fitting(wanted, platforms) or platforms[0]
    if chosen.size is None:
        return line.skipped("the registry doesn't tell it")
    told = f"{chosen.size / _MEBIBYTE:.0f} MiB, compressed"
    if chosen.size > _LARGE:
        return line.warning(told, "Make it smaller: Fargate pulls all of it for each task, before the flow starts.")
    return line.ok(told)


def _fitting(wanted: ImageWanted, platforms: tuple[Platform, ...]) -> Platform | None:
    for each in platforms:
        if (each.system, each.architecture) == (_system(wanted), _architecture(wanted)):
            return each
    return None


def _system(wanted: ImageWanted) -> str:
    return "linux" if wanted.system == "LINUX" else "windows"


def _architecture(wanted: ImageWanted) -> str:
    return ARCHITECTURES.get(wanted.architecture, wanted.architecture.lower())
