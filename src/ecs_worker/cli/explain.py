"""`ecs-worker render --explain`: where each value of the requests came from.

Found by trying, not by a second copy of the rules: each thing that was said (a job variable, a worker's option, a
part of the pool's template) is left out in turn, and what changes in the requests came from it.
"""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from ecs_worker.cli.preview import as_shown
from ecs_worker.errors import JobInvalid
from ecs_worker.job.configuration import WorkerDefaults, origins, pool_defaults
from ecs_worker.job.template import placeholders
from ecs_worker.lifecycle.render import assemble

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ecs_worker.cli.preview import Asked, Preview

_OPTIONS = {
    "task_definition_path": "--task-definition",
    "run_task_kwargs_path": "--run-task-kwargs",
    "labels": "--label",
}
_REQUESTS = {"RegisterTaskDefinition": "task_definition", "RunTask": "task_run_request"}


async def explain(asked: Asked, sources: Preview) -> dict[str, str]:
    """Path of each value → where it came from, in words."""
    whole = await _leaves_of(asked, sources)
    assert whole is not None, "what is explained has been rendered before"
    found: dict[str, list[str]] = {path: [] for path in whole}
    for origin, without in _left_out(asked):
        open_paths = {path for path, known in found.items() if not known or not origin.startswith("the work pool's t")}
        leaves = await _leaves_of(without, sources) if open_paths else None
        for path in open_paths if leaves is not None else ():
            if leaves is not None and leaves.get(path) != whole[path]:
                found[path].append(origin)
    return {path: ", ".join(known) or _otherwise(path, asked) for path, known in found.items()}


def _left_out(asked: Asked) -> Iterator[tuple[str, Asked]]:
    """What was said, and the job without it: job variables, the worker's options, then parts of the template."""
    layers = (asked.context.run.job_variables, asked.deployed, pool_defaults(asked.template))
    came_from = origins(asked.template, asked.deployed, asked.context.run.job_variables)
    for name in dict.fromkeys(name.split(".")[0] for layer in layers for name in layer):
        if name == "env":
            yield from _env_left_out(asked, layers)
        else:
            yield f"{name} ({came_from[name]})", _without_variable(asked, name)
    defaults = asked.context.defaults
    for item in fields(defaults):
        if getattr(defaults, item.name):
            option = _OPTIONS.get(item.name, f"--{item.name.replace('_', '-')}")
            default = getattr(WorkerDefaults(), item.name)
            without = replace(defaults, **{item.name: default})
            yield f"the worker's {option}", replace(asked, context=replace(asked.context, defaults=without))
    for path in _paths(asked.template["job_configuration"]):
        template = copy.deepcopy(dict(asked.template))
        *parents, last = path
        target: Any = template["job_configuration"]
        for parent in parents:
            target = target[parent]
        del target[last]
        yield "the work pool's template", replace(asked, template=template)


def _env_left_out(asked: Asked, layers: tuple[Mapping[str, Any], ...]) -> Iterator[tuple[str, Asked]]:
    """`env` merges, so each of its variables has an origin of its own."""
    said = ("the flow run's job variables", "the deployment's job variables", "the work pool's default")
    origin: dict[str, str] = {}
    for words, layer in zip(said, layers, strict=True):
        env = layer.get("env")
        names = [*(env if isinstance(env, dict) else ()), *(n[4:] for n in layer if n.startswith("env."))]
        origin = {**dict.fromkeys(names, words), **origin}
    for name, words in origin.items():
        yield f"env.{name} ({words})", _without_env(asked, name)


def _without_variable(asked: Asked, name: str) -> Asked:
    def rest(variables: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in variables.items() if key.split(".")[0] != name}

    def remove(properties: dict[str, Any]) -> None:
        if name in pool_defaults(asked.template):
            del properties[name]["default"]

    return _changed(asked, rest, remove)


def _without_env(asked: Asked, name: str) -> Asked:
    def rest(variables: Mapping[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in variables.items() if key != f"env.{name}"}
        if isinstance(kept.get("env"), dict):
            kept["env"] = {key: value for key, value in kept["env"].items() if key != name}
        return kept

    def remove(properties: dict[str, Any]) -> None:
        if "env" in pool_defaults(asked.template):
            properties["env"]["default"].pop(name, None)

    return _changed(asked, rest, remove)


def _changed(asked: Asked, rest: Any, remove: Any) -> Asked:
    template = copy.deepcopy(dict(asked.template))
    remove(template["variables"].get("properties"))
    run = replace(asked.context.run, job_variables=rest(asked.context.run.job_variables))
    return replace(asked, template=template, deployed=rest(asked.deployed), context=replace(asked.context, run=run))


async def _leaves_of(asked: Asked, sources: Preview) -> dict[str, Any] | None:
    """The values of both requests by path; None if nothing can be made of the job."""
    try:
        job, _ = await assemble(asked.template, asked.deployed, asked.context, sources)
    except JobInvalid:
        return None
    return dict(_leaves(as_shown(job)))


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
    """Of all parts of the template, the larger first: what only the whole of something explains is found so."""
    items = template.items() if isinstance(template, dict) else enumerate(template)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from _paths(item, (*path, key))


def _otherwise(path: str, asked: Asked) -> str:
    """What nothing that was left out has changed: said by default, by the run itself, or said twice."""
    name = path.rpartition("[")[2].rstrip("]")
    if ".environment[" in path and name in asked.context.inherited_env:
        return "the worker's PREFECT_ settings"
    if ".environment[PREFECT__" in path or ".tags[" in path or path.endswith((".clientToken", ".startedBy")):
        return "the flow run"
    variable = _variable_of(path, asked.template)
    came_from = origins(asked.template, asked.deployed, asked.context.run.job_variables)
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
