"""`ecs-worker render --explain`: where each value of the requests came from.

Found by trying, not by a second copy of the rules: each thing that was said (a job variable, a worker's option, a
part of the pool's template) is left out in turn, and what changes in the requests came from it.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ecs_worker.cli.preview import shown
from ecs_worker.errors import JobInvalid
from ecs_worker.job.configuration import origins, pool_defaults
from ecs_worker.job.context import given_options
from ecs_worker.job.requests import flow_container_name
from ecs_worker.job.template import placeholders
from ecs_worker.lifecycle.rendering.render import assemble
from ecs_worker.settings import JobDefaults

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ecs_worker.cli.jobs import RenderJob
    from ecs_worker.cli.preview import Preview
    from ecs_worker.job.job import Job

_TEMPLATE = "the work pool's template"
_REQUESTS = {"RegisterTaskDefinition": "task_definition", "RunTask": "task_run_request"}


async def explain(asked: RenderJob, job: Job, sources: Preview) -> dict[str, str]:
    """Path of each value of the requests → where it came from, in words. `job` is what was made of `asked`."""
    flow = flow_container_name(job.configuration, job.definition)
    whole = _leaves_of(job, flow)
    came_from = origins(asked.template, asked.deployed, asked.context.run.job_variables)
    found: dict[str, list[str]] = {path: [] for path in whole}
    for origin, without in _left_out(asked, came_from):
        # The template only explains what nothing else does.
        open_paths = {path for path, known in found.items() if not known or origin != _TEMPLATE}
        changed = await _made(without, sources) if open_paths else None
        if changed is not None:
            leaves = _leaves_of(changed, flow)
            for path in open_paths:
                if leaves.get(path) != whole[path]:
                    found[path].append(origin)
    return {path: ", ".join(known) or _otherwise(path, asked, came_from) for path, known in found.items()}


def _left_out(asked: RenderJob, came_from: Mapping[str, str]) -> Iterator[tuple[str, RenderJob]]:
    """What was said, and the job without it: job variables, the worker's options, then parts of the template."""
    layers = _layers(asked)
    for name in dict.fromkeys(name.split(".")[0] for layer in layers for name in layer):
        if name == "env":
            yield from _env_left_out(asked, layers)
        else:
            yield f"{name} ({came_from[name]})", _without_variable(asked, name)
    defaults = asked.context.defaults
    for name, words in given_options(defaults).items():
        without = defaults.model_copy(update={name: getattr(JobDefaults(), name)})
        yield words, replace(asked, context=replace(asked.context, defaults=without))
    for path in _paths(asked.template["job_configuration"]):
        template = copy.deepcopy(dict(asked.template))
        *parents, last = path
        target: Any = template["job_configuration"]
        for parent in parents:
            target = target[parent]
        del target[last]
        yield _TEMPLATE, replace(asked, template=template)


def _layers(asked: RenderJob) -> tuple[Mapping[str, Any], ...]:
    """Where variables are said, the strongest first."""
    return asked.context.run.job_variables, asked.deployed, pool_defaults(asked.template)


def _env_left_out(asked: RenderJob, layers: tuple[Mapping[str, Any], ...]) -> Iterator[tuple[str, RenderJob]]:
    """`env` merges, so each of its variables has an origin of its own."""
    for name, words in _env_origins(layers).items():
        yield f"env.{name} ({words})", _without_env(asked, name)


def _env_origins(layers: tuple[Mapping[str, Any], ...]) -> dict[str, str]:
    said = ("the flow run's job variables", "the deployment's job variables", "the work pool's default")
    origin: dict[str, str] = {}
    for words, layer in zip(said, layers, strict=True):
        env = layer.get("env")
        names = [*(env if isinstance(env, dict) else ()), *(n[4:] for n in layer if n.startswith("env."))]
        origin = {**dict.fromkeys(names, words), **origin}
    return origin


def _without_variable(asked: RenderJob, name: str) -> RenderJob:
    def rest(variables: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in variables.items() if key.split(".")[0] != name}

    def remove(properties: dict[str, Any]) -> None:
        if name in pool_defaults(asked.template):
            del properties[name]["default"]

    return _changed(asked, rest, remove)


def _without_env(asked: RenderJob, name: str) -> RenderJob:
    def rest(variables: Mapping[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in variables.items() if key != f"env.{name}"}
        if isinstance(kept.get("env"), dict):
            kept["env"] = {key: value for key, value in kept["env"].items() if key != name}
        return kept

    def remove(properties: dict[str, Any]) -> None:
        if "env" in pool_defaults(asked.template):
            properties["env"]["default"].pop(name, None)

    return _changed(asked, rest, remove)


def _changed(asked: RenderJob, rest: Any, remove: Any) -> RenderJob:
    template = copy.deepcopy(dict(asked.template))
    remove(template["variables"].get("properties"))
    run = replace(asked.context.run, job_variables=rest(asked.context.run.job_variables))
    return replace(asked, template=template, deployed=rest(asked.deployed), context=replace(asked.context, run=run))


async def _made(asked: RenderJob, sources: Preview) -> Job | None:
    """The job; None if nothing can be made of it."""
    try:
        job, _ = await assemble(asked.template, asked.deployed, asked.context, sources)
    except JobInvalid:
        return None
    return job


def _leaves_of(job: Job, flow: str) -> dict[str, Any]:
    """The values of both requests by path. The flow's container is called `flow` there, whatever its name is now."""
    requests = shown(job)
    name = flow_container_name(job.configuration, job.definition)
    for container in (
        *requests.get("RegisterTaskDefinition", {}).get("containerDefinitions", ()),
        *requests["RunTask"].get("overrides", {}).get("containerOverrides", ()),
    ):
        if container.get("name") == name:
            container["name"] = flow
    return dict(_leaves(requests))


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            name = (item.get("name") or item.get("key") or number) if isinstance(item, dict) else number
            rest = {key: v for key, v in item.items() if key not in {"name", "key"}} if isinstance(item, dict) else item
            named = {"name": item["name"]} if rest == {} else rest
            only_value = named["value"] if isinstance(named, dict) and named.keys() == {"value"} else named
            yield from _leaves(only_value, f"{path}[{name}]")
    else:
        yield path, value


def _paths(template: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all parts of the template, larger parts first: only the whole of one may make a difference."""
    items = template.items() if isinstance(template, dict) else enumerate(template)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from _paths(item, (*path, key))


def _otherwise(path: str, asked: RenderJob, came_from: Mapping[str, str]) -> str:
    """Where a value came from that no trial has changed: a default, the run itself, or two places that say the same."""
    name = path.rpartition("[")[2].rstrip("]")
    in_env = _env_origins(_layers(asked)).get(name)
    if ".environment[" in path and in_env:
        return f"env.{name} ({in_env})"
    if ".environment[" in path and name in asked.context.defaults.env:
        return "the worker's --env"
    if ".environment[" in path and name in asked.context.inherited_env:
        return "the worker's PREFECT_ settings"
    if ".environment[PREFECT__" in path or ".tags[" in path or path.endswith((".clientToken", ".startedBy")):
        return "the flow run"
    variable = _variable_of(path, asked.template)
    if variable in came_from:
        return f"{variable} ({came_from[variable]})"
    return "ecs-worker's default"


def _variable_of(path: str, template: Mapping[str, Any]) -> str:
    """The variable that the template puts at this very place, if it does."""
    request, *parts = path.split(".")
    value = template["job_configuration"].get(_REQUESTS.get(request, ""), {})
    for part in parts:
        value = value.get(part) if isinstance(value, dict) else None
    return next(iter(placeholders(value)), "")
