"""From a validated configuration to a job. Pure: what must be looked up is handed in.

usable → draft → in_network, if `network_need` says that a network must be looked up
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ecs_worker.errors import JobInvalid
from ecs_worker.job.attached import derived
from ecs_worker.job.configuration import origin_of
from ecs_worker.job.job import Job
from ecs_worker.job.masking import Redactor
from ecs_worker.job.names import container_slug
from ecs_worker.job.requests import DEFAULT_CONTAINER, network_configuration, prepare_requests, with_network, words
from ecs_worker.job.sizes import cpu_units, memory_mib

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ecs_worker.job.configuration import JobConfiguration
    from ecs_worker.job.context import FlowRunContext
    from ecs_worker.job.requests import FoundNetwork, NetworkNeed

_SIZES = {"cpu", "memory"}
_READ = {"cpu": cpu_units, "memory": memory_mib, "command": words}


def usable(configuration: JobConfiguration, came_from: Mapping[str, str]) -> tuple[JobConfiguration, list[str]]:
    """The configuration without the values that no request can be made of, and what is wrong with them.

    So that what is wrong elsewhere is found at once, too.
    """
    problems: dict[str, None] = {}  # in their order, each once: a size stands in both requests
    wrong: set[str] = set()

    def without_unusable(item: Mapping[str, Any]) -> dict[str, Any]:
        kept = dict(item)
        for name, read in _READ.items():
            if kept.get(name) and not isinstance(kept[name], list):
                try:
                    read(kept[name], origin_of(name, came_from))
                except JobInvalid as error:
                    problems.update(dict.fromkeys(error.problems))
                    wrong.add(name)
                    del kept[name]
        return kept

    def all_without(items: Any) -> list[dict[str, Any]]:
        return [without_unusable(item) for item in items or []]

    definition = without_unusable(configuration.task_definition)
    definition["containerDefinitions"] = all_without(definition.get("containerDefinitions"))
    overrides = without_unusable(configuration.task_run_request.get("overrides") or {})
    overrides["containerOverrides"] = all_without(overrides.get("containerOverrides"))
    if wrong & _SIZES:  # half a pair can't be judged
        definition, overrides = ({k: v for k, v in item.items() if k not in _SIZES} for item in (definition, overrides))
    kept = without_unusable({"command": configuration.command})
    changes: dict[str, Any] = {
        "command": kept.get("command"),
        "task_definition": definition,
        "task_run_request": {**configuration.task_run_request, "overrides": overrides},
    }
    if (problem := _lost_container(configuration, came_from)) is not None:
        problems[problem] = None
        changes["container_name"] = None
    return configuration.model_copy(update=changes), list(problems)


def _lost_container(configuration: JobConfiguration, came_from: Mapping[str, str]) -> str | None:
    given = configuration.container_name or DEFAULT_CONTAINER
    name = container_slug(given)
    containers = configuration.task_definition.get("containerDefinitions") or []
    names = [container_slug(str(item["name"])) for item in containers if item.get("name")]
    if configuration.reused_definition or name == DEFAULT_CONTAINER or name in names:
        return None
    return (
        f"container_name is {given!r}{origin_of('container_name', came_from)}, but the task definition has only "
        f"{', '.join(names) or 'containers without names'}; name one that it has."
    )


def draft(
    configuration: JobConfiguration,
    context: FlowRunContext,
    reused: Mapping[str, Any] | None = None,
    *,
    confidential: Collection[str] = (),
    came_from: Mapping[str, str] | None = None,
    hidden: Redactor | None = None,
) -> Job:
    """The job, without a network that must be looked up.

    `reused` is how ECS describes the definition that the job reuses; None: there is none, or ECS was not asked.
    `confidential`: as in `prepare_requests`. Raises JobInvalid where no request can be made.
    """
    described = reused is not None or not configuration.reused_definition
    if reused is not None and configuration.derive_task_definition:
        configuration = derived(configuration, reused, context) or configuration
    definition, run_task = prepare_requests(configuration, context, reused, confidential)
    return Job(configuration, context, definition, run_task, came_from or {}, described, hidden or Redactor())


def in_network(job: Job, need: NetworkNeed, found: FoundNetwork) -> Job:
    """The job in the network that was found for its need. Raises JobInvalid if that doesn't do."""
    network = network_configuration(need, found)
    return replace(job, run_task=with_network(job.run_task, network, job.configuration))
