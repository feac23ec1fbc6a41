"""The jobs themselves: whether requests for ECS can be made of them, and Prefect's address in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ecs_worker.doctor.finding import Finding, Group, Line, Untold
from ecs_worker.ops.reach import only_here

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ecs_worker.job.job import Job

API_URL = "PREFECT_API_URL"


@dataclass(frozen=True)
class JobFacts:
    """A deployment's job. `job` None: nothing could be made of it; `problems` then says why.

    `troubles`: what AWS didn't tell while it was made. `ecs`: the URL that ECS is asked at; empty: not known.
    """

    name: str
    job: Job | None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    troubles: tuple[Untold, ...] = ()
    untold: Untold | None = None
    ecs: str = ""


def findings(facts: JobFacts) -> Iterator[Finding]:
    """Of all checks of one job."""
    about = (facts.name,)
    if facts.untold is not None:
        yield Line(Group.JOB, f"requests of {facts.name}").untold(facts.untold)
        return
    yield requests(facts)
    for trouble in facts.troubles:
        yield Line(Group.JOB, "what AWS tells of jobs", about).untold(trouble)
    for warning in facts.warnings:
        yield Line(Group.JOB, f"in vain in {facts.name}").warning(warning.rstrip("."), "Leave it out, or correct it.")
    if facts.job is not None:
        yield address(facts, facts.job)


def requests(facts: JobFacts) -> Finding:
    """Whether ECS would take them."""
    line = Line(Group.JOB, f"requests of {facts.name}")
    if facts.problems:
        shown = f" -d {facts.name}" if "/" in facts.name else ""
        return line.failed(
            " ".join(facts.problems),
            f"Correct that: `ecs-worker render{shown} --explain` says where each value is from.",
        )
    return line.ok("keep all rules of ECS, as far as they can be told")


def address(facts: JobFacts, job: Job) -> Finding:
    """Whether containers can reach Prefect there."""
    line = Line(Group.JOB, "Prefect's address in containers", (facts.name,))
    given = environment(job)
    url = given.get(API_URL)
    if url is None and API_URL in secrets(job):
        return line.skipped("it comes from a secret, which isn't read")
    if not url:
        return line.failed(
            "the container has none: no flow run could tell its state", f"Set {API_URL} for the worker, or in env."
        )
    shown = job.hidden.hide(_shown(url))
    if only_here(url) and facts.ecs and not only_here(facts.ecs):
        return line.failed(
            f"{shown} is an address by which each machine calls itself",
            f"Set {API_URL} to an address that containers reach, too, or give them one of their own in env.",
        )
    return line.ok(shown)


def _shown(url: str) -> str:
    """Without what stands before an @."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def environment(job: Job) -> dict[str, str]:
    """What the job's containers get, the flow's own above the others'."""
    found: dict[str, str] = {}
    for part in (*job.containers, *job.container_overrides):
        found |= _pairs(part)
    return found


def secrets(job: Job) -> set[str]:
    """The variables that come from secrets."""
    return {str(each.get("name")) for container in job.containers for each in container.get("secrets") or []}


def _pairs(part: Mapping[str, object]) -> dict[str, str]:
    listed = part.get("environment") or []
    assert isinstance(listed, list), "requests are made of lists"
    return {str(each.get("name")): str(each.get("value") or "") for each in listed}
