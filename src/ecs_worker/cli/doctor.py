"""`ecs-worker doctor`: everything that keeps runs from starting, a line for each check."""

from __future__ import annotations

import io
import json
import sys
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import anyio
import typer
from rich.console import Console
from rich.text import Text

from ecs_worker.aws.session import Aws
from ecs_worker.cli.jobs import Jobs
from ecs_worker.cli.server import PATIENCE
from ecs_worker.doctor.examine import Examination, Patient
from ecs_worker.doctor.finding import Result
from ecs_worker.doctor.probe import Probe, unprobed
from ecs_worker.errors import UserError
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.settings import PrefectSettings, load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ecs_worker.doctor.examine import Examined
    from ecs_worker.doctor.finding import Finding
    from ecs_worker.settings import JobDefaults

# A word beside each mark, and a mark beside each colour: none of them is needed to tell.
_MARKS = {
    Result.OK: ("✓", "green"),
    Result.WARNING: ("!", "yellow"),
    Result.FAILED: ("✗", "red"),
    Result.SKIPPED: ("-", "dim"),
}
_CONSOLE = Console(soft_wrap=True, highlight=False)
_WIDTH = max(map(len, Result))
_SHOWN = 3  # deployments that a line names


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line gives."""

    pool: str | None
    deployment: str | None
    worker_role: str | None
    probe: bool
    as_json: bool


def doctor(asked: Asked, defaults: JobDefaults) -> None:
    """Print the findings; exits with 1 if a check has failed. Raises UserError for what can't be looked at."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no ✓ is no reason to end
    findings = anyio.run(_findings, asked, defaults)
    if asked.as_json:
        typer.echo(as_json(findings))
    else:
        counts = ", ".join(f"{sum(each.result is result for each in findings)} {result.value}" for result in Result)
        _CONSOLE.print(Text(counts, style="bold"))
    if any(each.result is Result.FAILED for each in findings):
        raise typer.Exit(1)


async def _findings(asked: Asked, defaults: JobDefaults) -> list[Finding]:
    """All of them; for people they are printed as soon as they are known."""
    settings = load(PrefectSettings)
    jobs = Jobs(defaults, settings)
    patient = Patient(asked.pool, asked.deployment, asked.worker_role)
    async with Aws() as aws, _api(settings) as api:
        examined = await Examination(api, aws, settings.shown_url, jobs.in_pool).examine(patient)
        if asked.probe and len(examined.jobs) > 1:
            names = ", ".join(each.name for each in examined.jobs[:_SHOWN])
            raise UserError(f"--probe launches a task of one deployment: give it with --deployment ({names} …).")
        found = list(examined.findings)
        if not asked.as_json:
            show(found)
        if asked.probe:
            found += await _probed(aws, examined, shown=not asked.as_json)
        return found


async def _probed(aws: Aws, examined: Examined, *, shown: bool) -> list[Finding]:
    """The steps of the probe."""
    steps: list[Finding] = []

    def tell(step: Finding) -> None:
        if shown:
            show([step], heading=not steps)
        steps.append(step)

    facts = examined.jobs[0] if examined.jobs else None
    if facts is None or facts.job is None or facts.problems:
        tell(unprobed("a task", "there is no job that ECS would take"))
    else:
        await Probe(aws, tell).run(facts.name, facts.job)
    return steps


@asynccontextmanager
async def _api(settings: PrefectSettings) -> AsyncIterator[PrefectClient | None]:
    """A client, if there is a URL to ask at: without one, that is a finding."""
    if not settings.api_url:
        yield None
        return
    async with PrefectClient(settings, patience_seconds=PATIENCE) as api:
        yield api


def as_json(findings: Sequence[Finding]) -> str:
    """The findings for machines, and how many there are of each result."""
    counts = {result.value: sum(each.result is result for each in findings) for result in Result}
    return json.dumps({"counts": counts, "findings": [asdict(each) for each in findings]}, indent=2)


def show(findings: Sequence[Finding], *, heading: bool = True) -> None:
    """Print a line for each finding, under the names of the groups."""
    group = None if heading else findings[0].group
    for each in findings:
        if each.group is not group:
            group = each.group
            _CONSOLE.print(Text(group.value, style="bold"))
        _CONSOLE.print(line(each))


def line(finding: Finding) -> Text:
    """One finding as it is shown."""
    mark, style = _MARKS[finding.result]
    text = Text(f"  {mark} {finding.result.value:{_WIDTH}}  ", style=style)
    text.append(finding.check, style="default")
    text.append(f": {finding.told}", style="default")
    if finding.about:
        more = len(finding.about) - _SHOWN
        others = f" and {more} more" if more > 0 else ""
        text.append(f" [{', '.join(finding.about[:_SHOWN])}{others}]", style="dim")
    if finding.remedy:
        text.append(f" → {finding.remedy}", style="default")
    return text
