"""Bring a pool's base job template up to ours, and keep what its users have changed.

A three-way merge: what differs from the default template that the pool was made from is its users' edit and stays;
everything else becomes ours. Of prefect-aws's defaults only digests are kept (`known_templates.json`).
"""

from __future__ import annotations

import copy
import hashlib
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from ecs_worker.job.template import placeholders
from ecs_worker.job.variables import default_base_job_template

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_Path = tuple[str, ...]

# Below these stand things with names: one that the users have taken out stays out as a whole.
_NAMED = {("variables", "properties"), ("variables", "definitions")}


def upgraded(template: Mapping[str, Any]) -> dict[str, Any]:
    """`template` with all of ours in it, but for what differs from the default that it was made from."""
    theirs, ours = dict(_leaves(template)), dict(_leaves(default_base_job_template()))
    base = _base_of({path: digest(value) for path, value in theirs.items()}, ours)
    edited = {path: value for path, value in theirs.items() if base.get(path) != digest(value)}
    untouched = {path for path in base if path in theirs and path not in edited}
    # Order matters to those who read it: what was there stays in its place, the new comes after.
    merged = {path: edited.get(path, ours.get(path)) for path in theirs if path in edited or path in ours}
    removed = {path[:3] for path in base if path[:2] in _NAMED} - {path[:3] for path in theirs}
    merged |= {
        path: value
        for path, value in ours.items()
        if path in untouched or (path not in base | edited and path[:3] not in removed)
    }
    return _without_undeclared(_with_definitions(_tree(merged), template), edited)


def digest(value: Any) -> str:
    """Names a leaf's value in `known_templates.json`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def known_leaves(templates: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str | None]]:
    """The content of `known_templates.json`, of the default templates by version: path → the digests in each."""
    tables = [{"/".join(path): digest(value) for path, value in _leaves(item)} for item in templates.values()]
    paths = sorted({path for table in tables for path in table})
    digests: dict[str, list[str | None]] = {path: [table.get(path) for table in tables] for path in paths}
    return {"": list(templates), **digests}


def _base_of(digests: Mapping[_Path, str], ours: Mapping[_Path, Any]) -> dict[_Path, str]:
    """The default template that most leaves agree with; nothing for a pool without a template."""
    known: dict[str, list[str | None]] = json.loads(
        resources.files("ecs_worker.job").joinpath("known_templates.json").read_text(encoding="utf-8")
    )
    versions = known.pop("")
    defaults = [
        {tuple(path.split("/")): found for path, values in known.items() if (found := values[number]) is not None}
        for number in range(len(versions))
    ]
    defaults.append({path: digest(value) for path, value in ours.items()})
    if not digests:
        return {}
    return max(defaults, key=lambda base: 2 * len(base.items() & digests.items()) - len(base))


def _leaves(value: Any, path: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    """Everything that is no dict, and defaults as a whole: a pool's default is one edit."""
    if isinstance(value, dict) and value and path[-1:] != ("default",):
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    elif path:
        yield path, value


def _tree(leaves: Mapping[_Path, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in leaves.items():
        *parents, last = path
        target: Any = tree
        for parent in parents:
            target = target.setdefault(parent, {}) if isinstance(target, dict) else None
        # Where the users put a plain value in place of a dict, nothing of the dict comes back.
        if isinstance(target, dict):
            target.setdefault(last, copy.deepcopy(value))
    return tree


def _with_definitions(merged: dict[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
    """With the schema definitions that properties still refer to."""
    of_ours = default_base_job_template()["variables"]["definitions"]
    kept = of_ours | template.get("variables", {}).get("definitions", {})
    variables = merged.get("variables", {})
    while lost := [
        name
        for name, definition in kept.items()
        if name not in variables.get("definitions", {}) and f'"#/definitions/{name}"' in json.dumps(variables)
    ]:
        variables.setdefault("definitions", {}).update({name: copy.deepcopy(kept[name]) for name in lost})
    return merged


def _without_undeclared(merged: dict[str, Any], edited: Mapping[_Path, Any]) -> dict[str, Any]:
    """Without what we would add for variables that the users have taken out: the server refuses undeclared ones."""
    declared = merged.get("variables", {}).get("properties", {})
    leaves = {
        path: value
        for path, value in _leaves(merged)
        if path in edited
        or path[0] != "job_configuration"
        or all(_declared(name, declared) for name in placeholders(value))
    }
    return _tree(leaves)


def _declared(placeholder: str, properties: Mapping[str, Any]) -> bool:
    return placeholder.startswith(("$", "prefect.", "ctx.")) or placeholder.split(".", maxsplit=1)[0] in properties
