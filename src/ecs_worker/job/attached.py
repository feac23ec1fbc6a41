"""Definitions and RunTask arguments that a job brings along, as Prefect 1's ECS agent took them, and derived ones.

Each function returns a changed configuration; what follows treats it like one that a template gave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecs_worker.errors import JobInvalid
from ecs_worker.job.configuration import JobConfiguration
from ecs_worker.job.names import LONGEST_NAME, ecs_name
from ecs_worker.job.options import given_network, network_variable, patch
from ecs_worker.job.requests import (
    CAPACITY,
    cleaned,
    definition_digest,
    flow_container_name,
    leaves_to_cluster,
    prepare_requests,
)
from ecs_worker.job.variables import CHANGE_DEFINITION, PLACES
from ecs_worker.settings import JobDefaults, option

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ecs_worker.job.context import FlowRunContext

# The agent's rule: the flow runs in the container of the first of these names, or in a new one of the first name.
_AGENT_CONTAINERS = ("flow", "prefect")
DERIVED = "-derived"
"""How the family of a changed copy of a definition ends."""
# The worker's options.
_DEFAULT_DEFINITION, _DEFAULT_ARGUMENTS = (option(JobDefaults, name) for name in ("task_definition", "run_task_kwargs"))


def _variables_in(*parts: str) -> dict[str, str]:
    """Key in these parts of the requests → the variable that our template puts there."""
    return {at.rpartition(".")[2]: variable for at, variable in PLACES.items() if at.rpartition(".")[0] in parts}


_IN_DEFINITION = _variables_in("task_definition")
# Labels join the tags that are there, and which definition is reused is no matter of patches.
_IN_ARGUMENTS = {
    key: variable
    for key, variable in _variables_in("task_run_request", "task_run_request.overrides").items()
    if key not in {"tags", "taskDefinition"}
}


@dataclass(frozen=True, slots=True)
class Document:
    """A file or `s3://` object that a job is made of; `source` is the variable or the worker's option that names it.

    `anywhere`: the worker's operator named it, who may name any file. What a job names is under `directory`; None: it
    names no files of the worker's machine.
    """

    path: str
    source: str
    directory: Path | None = None
    anywhere: bool = False


def documents(configuration: JobConfiguration, defaults: JobDefaults) -> list[Document]:
    """What must be read for the functions below."""
    of_worker = {_DEFAULT_DEFINITION: defaults.task_definition, _DEFAULT_ARGUMENTS: defaults.run_task_kwargs}
    of_job = {
        "task_definition_path": configuration.task_definition_path,
        "run_task_kwargs_path": configuration.run_task_kwargs_path,
    }
    return [
        *(Document(path, option, anywhere=True) for option, path in of_worker.items() if path),
        *(Document(path, variable, defaults.documents_dir) for variable, path in of_job.items() if path),
    ]


def with_documents(
    configuration: JobConfiguration, contents: Mapping[str, Any], defaults: JobDefaults
) -> JobConfiguration:
    """With the job's own task definition (else the worker's) and RunTask arguments put in; `contents` by path, parsed.

    The task definition lies below what the template says, the RunTask arguments above it, as the agent had it. A job
    that reuses a definition gets no other. Raises JobInvalid if a document is no mapping, or one is given both inline
    and by path.
    """
    definition = _one("task_definition", configuration.inline_task_definition, configuration, contents)
    arguments = _one("run_task_kwargs", configuration.run_task_kwargs, configuration, contents)
    if arguments:
        configuration = _with_arguments(configuration, arguments)
    if not definition and defaults.task_definition:
        definition = _document("task_definition", defaults.task_definition, _DEFAULT_DEFINITION, contents)
    if definition and not configuration.reused_definition:
        names = [container.get("name") for container in definition.get("containerDefinitions") or []]
        found = next((name for name in _AGENT_CONTAINERS if name in names), _AGENT_CONTAINERS[0])
        configuration = _over(definition, configuration, configuration.container_name or found)
    return configuration


def document_origins(
    configuration: JobConfiguration,
    contents: Mapping[str, Any],
    defaults: JobDefaults,
    came_from: Mapping[str, str],
) -> dict[str, str]:
    """Where variables come from, with the documents and patches that hold in their place.

    `configuration` is the one that `with_documents` takes.
    """

    def words(name: str) -> str:
        path = getattr(configuration, f"{name}_path", None)
        return str(path or ", ".join(filter(None, [name, came_from.get(name)])))

    definition = _one("task_definition", configuration.inline_task_definition, configuration, contents)
    source = words("task_definition")
    if not definition and defaults.task_definition:
        definition = _document("task_definition", defaults.task_definition, _DEFAULT_DEFINITION, contents)
        source = f"the worker's {_DEFAULT_DEFINITION}"
    below = {key: value for key, value in definition.items() if not configuration.task_definition.get(key)}
    if configuration.execution_role_arn:
        below.pop("executionRoleArn", None)
    arguments = _one("run_task_kwargs", configuration.run_task_kwargs, configuration, contents)
    layers = (
        (_IN_DEFINITION, below, source),
        (_IN_ARGUMENTS, arguments, words("run_task_kwargs")),
        (_IN_DEFINITION, configuration.task_definition_patch, words("task_definition_patch")),
        (_IN_ARGUMENTS, configuration.run_task_patch, words("run_task_patch")),
    )
    found = dict(came_from)
    for names, request, said_by in layers:
        said = {**request, **(request.get("overrides") or {})}
        found |= {variable: said_by for key, variable in names.items() if said.get(key)}
    return found


def with_default_arguments(
    configuration: JobConfiguration,
    contents: Mapping[str, Any],
    defaults: JobDefaults,
    reused: Mapping[str, Any] | None,
) -> JobConfiguration:
    """With the worker's own RunTask arguments below everything that the template and the job say.

    `reused` is the description of the definition that the job reuses. Raises JobInvalid if they are no mapping.
    """
    if not defaults.run_task_kwargs:
        return configuration
    arguments = _document("run_task_kwargs", defaults.run_task_kwargs, _DEFAULT_ARGUMENTS, contents)
    merged = _below(arguments, configuration, flow_container_name(configuration, reused))
    return configuration.model_copy(update={"task_run_request": merged})


def _below(arguments: Mapping[str, Any], configuration: JobConfiguration, container: str) -> dict[str, Any]:
    """The template's RunTask request over `arguments`: only what it leaves open is taken from them."""
    said: dict[str, Any] = cleaned(configuration.task_run_request)
    taken = {key: value for key, value in arguments.items() if key != "taskDefinition"}
    if said.keys() & CAPACITY:
        taken = {key: value for key, value in taken.items() if key not in CAPACITY}
    if configuration.vpc_id or configuration.inherit_network or given_network(configuration).get("subnets"):
        taken.pop("networkConfiguration", None)
    containers = said.get("overrides", {}).get("containerOverrides")
    if containers and not containers[0].get("name"):
        # Meant for the flow's container: so named, it pairs with that one's entry in the arguments.
        said["overrides"]["containerOverrides"] = [{**containers[0], "name": container}, *containers[1:]]
    merged = patch(taken, said)
    # A null leaves it to the worker's arguments, and if they say nothing, to the cluster.
    if leaves_to_cluster(configuration.task_run_request) and not merged.keys() & CAPACITY:
        merged["launchType"] = None
    return merged


def derived(
    configuration: JobConfiguration, described: Mapping[str, Any], context: FlowRunContext
) -> JobConfiguration | None:
    """For `derive_task_definition`: the reused definition as the base of our own, in a family of its own.

    None if the job would change nothing of it. `described` is the reused definition as ECS describes it. Raises
    JobInvalid for a size that can't be read.
    """
    plain = JobConfiguration(task_run_request=configuration.task_run_request)
    changed, unchanged = _on(described, configuration), _on(described, plain)
    digests = {definition_digest(prepare_requests(made, context)[0]) for made in (changed, unchanged)}
    return changed if len(digests) > 1 else None


def _on(described: Mapping[str, Any], configuration: JobConfiguration) -> JobConfiguration:
    container = flow_container_name(configuration, described)
    base = {key: value for key, value in described.items() if key != "compatibilities"}
    base["family"] = ecs_name(str(described.get("family", "")))[: LONGEST_NAME - len(DERIVED)] + DERIVED
    request = {key: value for key, value in configuration.task_run_request.items() if key != "taskDefinition"}
    return _over(base, configuration.model_copy(update={"task_run_request": request}), container)


def ignored_variables(configuration: JobConfiguration) -> list[str]:
    """Job variables that have no effect because the task definition is reused as it is."""
    if not configuration.reused_definition or configuration.derive_task_definition:
        return []
    return sorted(name for name in CHANGE_DEFINITION if configuration.says(name))


def ignored_warning(configuration: JobConfiguration) -> str:
    """One sentence about all `ignored_variables`; empty if there are none."""
    if not (ignored := ignored_variables(configuration)):
        return ""
    return (
        f"The task definition {configuration.reused_definition} is used as it is, without effect of "
        f"{', '.join(ignored)}: leave that out, or set derive_task_definition."
    )


def _one(
    name: str, inline: Mapping[str, Any], configuration: JobConfiguration, contents: Mapping[str, Any]
) -> Mapping[str, Any]:
    path = getattr(configuration, f"{name}_path")
    if not path:
        return inline
    if inline:
        raise JobInvalid([f"Both {name} and {name}_path are set; leave one out."])
    return _document(name, path, f"{name}_path", contents)


def _document(name: str, path: str, source: str, contents: Mapping[str, Any]) -> Mapping[str, Any]:
    document = contents.get(path)
    if not isinstance(document, dict):
        raise JobInvalid([f"{source}: {path} holds no mapping; write the ECS request as YAML or JSON there."])
    validated: Mapping[str, Any] = getattr(JobConfiguration.load({name: document}), name)
    return validated


def _with_arguments(configuration: JobConfiguration, arguments: Mapping[str, Any]) -> JobConfiguration:
    merged = patch(configuration.task_run_request, arguments)
    if not arguments.get("networkConfiguration"):
        return configuration.model_copy(update={"task_run_request": merged})
    # They lie above the template's network_configuration, too.
    template = patch(
        configuration.task_run_request.get("networkConfiguration") or {},
        {"awsvpcConfiguration": network_variable(configuration)},
    )
    merged["networkConfiguration"] = patch(template, arguments["networkConfiguration"])
    return configuration.model_copy(update={"task_run_request": merged, "network_configuration": {}})


def _over(base: Mapping[str, Any], configuration: JobConfiguration, container: str) -> JobConfiguration:
    """The configuration with its rendered task definition merged over `base`, the flow in `container`."""
    rendered = {key: value for key, value in configuration.task_definition.items() if value}
    # The template's container for the flow may have no name: it is meant for this one.
    containers = [item for item in rendered.pop("containerDefinitions", []) if item] or [{}]
    named = [{**item, "name": item.get("name") or container} for item in containers]
    if all(item["name"] != container for item in named):
        named.append({"name": container})
    below = {"containerDefinitions": [], **base}
    merged = patch(below, {**rendered, "containerDefinitions": named})
    return configuration.model_copy(update={"task_definition": merged, "container_name": container})
