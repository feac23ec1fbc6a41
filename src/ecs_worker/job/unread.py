"""What jobs and pools say that nobody reads, mostly because it is misspelt. It stops no run; it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ecs_worker.job.configuration import JobConfiguration, declared
from ecs_worker.job.template import variable_in, variables_of
from ecs_worker.job.variables import IN_REQUESTS, JobVariables
from ecs_worker.spelling import nearest, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MOST = 10  # variables that are told of; a job that sets more was written for something else


def unknown_variables(
    base_job_template: Mapping[str, Any], deployment: Mapping[str, Any], run: Mapping[str, Any], pool: str
) -> list[str]:
    """A sentence for each job variable that the work pool `pool` doesn't know, so that it has no effect."""
    said = dict.fromkeys(map(variable_in, deployment), "the deployment") | dict.fromkeys(
        map(variable_in, run), "the flow run"
    )
    known = {*declared(base_job_template), "env"}
    if said.keys() <= known:
        return []  # as it is for nearly every run
    known |= _asked(base_job_template)
    unknown = {name: source for name, source in said.items() if name not in known}
    sentences = [
        f"The job variable {shown(name)} (from {source}'s job variables) has no effect: the work pool {pool} doesn't "
        f"know it{_remedy(name, known, pool)}"
        for name, source in list(unknown.items())[:_MOST]
    ]
    if len(unknown) > _MOST:
        sentences.append(f"{len(unknown) - _MOST} more job variables have no effect either.")
    return sentences


def _remedy(name: str, known: set[str], pool: str) -> str:
    if name in JobVariables.model_fields:
        return f"; `ecs-worker pool update {pool}` adds it."
    if meant := nearest(name, known):
        return f". Did you mean {meant!r}?"
    if meant := nearest(name, JobVariables.model_fields):
        return f". Did you mean {meant!r}? `ecs-worker pool update {pool}` adds that."
    return "; correct its name, or declare it in the pool's base job template."


def unread_in_template(base_job_template: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each part of a pool's base job template that has no effect."""
    configuration = base_job_template.get("job_configuration")
    keys = configuration if isinstance(configuration, dict) else {}
    read = JobConfiguration.model_fields.keys() - IN_REQUESTS.keys()
    for key in keys:
        if key in IN_REQUESTS:
            place = IN_REQUESTS[key]
            yield f"its job_configuration has {shown(key)}, which is only read at {place}; move it there."
        elif key not in read:
            meant = nearest(key, read)
            yield f"its job_configuration has {shown(key)}, which nobody reads" + (
                f". Did you mean {meant!r}?" if meant else "; remove it."
            )
    asked = _asked(base_job_template)
    for name in sorted(declared(base_job_template).keys() - asked - {"env"}):
        meant = nearest(name, asked)
        yield f"it declares the variable {shown(name)}, which its job_configuration doesn't ask for" + (
            f". Did you mean {meant!r}?" if meant else ": it has no effect."
        )


def _asked(base_job_template: Mapping[str, Any]) -> frozenset[str]:
    return variables_of(base_job_template.get("job_configuration"))
