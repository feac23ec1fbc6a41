"""Bring a pool's base job template up to ours, and keep what its users have made.

A three-way merge: what differs from the default template that the pool was made from (its base) is its users' and
stays; everything else becomes ours. Runs that set nothing new get the same requests as before. Of default templates
only digests are kept (`known_templates.json`): of prefect-aws's and of all that we have shipped.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from ecs_worker.job.template import variables_of
from ecs_worker.job.variables import IN_REQUESTS, default_base_job_template

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_Path = tuple[str, ...]

_CONFIGURATION = "job_configuration"
_PROPERTIES, _DEFINITIONS = ("variables", "properties"), ("variables", "definitions")


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The new template, and which of our variables are not in it.

    `own`: the pool has variables of these names that its users have made. `taken_out`: its base had them.
    """

    template: dict[str, Any]
    own: tuple[str, ...] = ()
    taken_out: tuple[str, ...] = ()


def upgraded(template: Mapping[str, Any], *, restore: bool = False) -> Upgrade:
    """`template` with all of ours in it, but for what its users have made of it.

    `restore`: variables that were taken out come back.
    """
    if not template:
        return Upgrade(default_base_job_template())
    return _Merge(template, default_base_job_template(), restore=restore).upgrade()


class _Merge:
    """One merge of `template` and `ours`, leaf by leaf."""

    def __init__(self, template: Mapping[str, Any], ours: Mapping[str, Any], *, restore: bool) -> None:
        self._template = template
        self._theirs, self._ours = dict(_leaves(template)), dict(_leaves(ours))
        digests = {path: digest(value) for path, value in self._theirs.items()}
        base = _base_of(digests)
        self._base, self._edited = base.keys(), {path for path in digests if base.get(path) != digests[path]}
        self._in_base = {path[:3] for path in base}
        self._in_theirs = {path[:3] for path in digests}

        known = list(_names(self._ours))
        mentioned = _names(digests).keys() | variables_of(template.get(_CONFIGURATION))
        # What the base doesn't have, the users have made, whatever it is called.
        self._own = [name for name in known if name in mentioned - _names(base).keys()]
        missing = [name for name in known if name not in mentioned]
        self._taken_out = [name for name in missing if name in _names(base) and not restore]
        self._added = {name for name in missing if name not in self._taken_out}
        self._not_ours = {*self._own, *self._taken_out, *self._rewired()}

    def upgrade(self) -> Upgrade:
        """What becomes of the template."""
        merged: dict[_Path, Any] = {}
        # Order matters to those who read it: what was there stays in its place, the new comes after.
        for path, value in self._theirs.items():
            if self._stays(path):
                merged[path] = value
            elif path in self._ours:
                merged[path] = self._ours[path]
        merged |= {path: self._new(path) for path in self._ours if path not in self._theirs and self._comes(path)}
        idle = self._added - variables_of(_tree(merged).get(_CONFIGURATION))
        merged = {path: value for path, value in merged.items() if _name(path) not in idle}
        return Upgrade(_with_definitions(_tree(merged), self._template), tuple(self._own), tuple(self._taken_out))

    def _stays(self, path: _Path) -> bool:
        """Whether a leaf of theirs stays as it is."""
        if path in self._edited or path[:3] not in self._in_base:
            return True
        if path[0] == _CONFIGURATION:
            return self._is_own(path) or bool(variables_of(self._ours.get(path)) & self._not_ours)
        return _is_default(path)  # it decides what runs, also where nobody has changed it

    def _comes(self, path: _Path) -> bool:
        """Whether a leaf of ours that they lack is added."""
        if path[0] == _CONFIGURATION:
            names = variables_of(self._ours[path])
            taken = self._is_own(path) or names & self._not_ours
            return not taken and (path not in self._base or bool(names & self._added))
        if _name(path) in self._added:
            return True
        if path[:2] in {_PROPERTIES, _DEFINITIONS} and path[:3] not in self._in_theirs & self._in_base:
            return False  # theirs alone, or taken out; a definition that is needed comes later
        return path not in self._base and not (_is_default(path) and self._ours[path] is not None)

    def _is_own(self, path: _Path) -> bool:
        """Whether a part of the job configuration has the name of a variable of their own."""
        return any(part in self._own for part in path[1:2])

    def _new(self, path: _Path) -> Any:
        """The value of a leaf that is added. Where tasks run is not decided by a variable that the pool didn't have."""
        return None if _is_default(path) and path[2] in IN_REQUESTS else self._ours[path]

    def _rewired(self) -> set[str]:
        """Variables of the base that the users have put elsewhere: more of ours might say another thing with them."""
        changed = (path for path in self._base if path[0] == _CONFIGURATION and path in self._ours)
        used = (variables_of(self._ours[path]) for path in changed if path in self._edited or path not in self._theirs)
        return set().union(*used) - self._added


def digest(value: Any) -> str:
    """Names a leaf's value in `known_templates.json`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def with_template(known: Mapping[str, list[str | None]], version: str, template: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `known_templates.json` with this template as the newest, and as the only one of that version.

    It maps each leaf's path to its digest in each template, and "" to the templates' versions.
    """
    tables = {name: table for name, table in _tables(known).items() if name != version}
    tables[version] = {path: digest(value) for path, value in _leaves(template)}
    paths = sorted({path for table in tables.values() for path in table})
    return {"": list(tables)} | {"/".join(path): [table.get(path) for table in tables.values()] for path in paths}


def known_templates() -> dict[str, list[str | None]]:
    """The content of `known_templates.json`."""
    text = resources.files("ecs_worker.job").joinpath("known_templates.json").read_text(encoding="utf-8")
    found: dict[str, list[str | None]] = json.loads(text)
    return found


def _tables(known: Mapping[str, list[str | None]]) -> dict[str, dict[_Path, str]]:
    """Version → path → digest."""
    leaves = {tuple(path.split("/")): digests for path, digests in known.items() if path}
    return {
        str(version): {path: found for path, digests in leaves.items() if (found := digests[number]) is not None}
        for number, version in enumerate(known.get("", ()))
    }


def _base_of(theirs: Mapping[_Path, str]) -> dict[_Path, str]:
    """The default template that a pool's was made from; nothing if it was made by hand.

    That is the one that most leaves agree with. What is missing tells nothing, as users take variables out: only of
    two that agree alike is it the one of which all is there, else the newer one.
    """
    tables = enumerate(_tables(known_templates()).values())
    _, base = max(
        tables, key=lambda each: (len(each[1].items() & theirs.items()), theirs.keys() >= each[1].keys(), each[0])
    )
    # Words tell where a variable comes from; its type and its place in the requests are what anybody would write.
    names = _names(theirs).keys() & _names(base).keys()
    told = [(*_PROPERTIES, name, "description") for name in names]
    described = sum(path in base and theirs.get(path) == base[path] for path in told)
    return base if names and 2 * described >= len(names) else {}


def _names(leaves: Iterable[_Path]) -> dict[str, None]:
    """The variables that have leaves, in their order."""
    return dict.fromkeys(filter(None, map(_name, leaves)))


def _name(path: _Path) -> str:
    """The variable that a leaf is about, in the schema; empty if it is about something else."""
    return path[2] if path[:2] == _PROPERTIES and len(path) > len(_PROPERTIES) else ""


def _is_default(path: _Path) -> bool:
    return path[:2] == _PROPERTIES and path[3:] == ("default",)


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
    variables, before = merged.get("variables"), template.get("variables")
    theirs = before.get("definitions") if isinstance(before, dict) else None
    found = variables.setdefault("definitions", {}) if isinstance(variables, dict) else None
    if not isinstance(found, dict):
        return merged
    kept = default_base_job_template()["variables"]["definitions"] | (theirs if isinstance(theirs, dict) else {})
    while lost := [name for name in kept if name not in found and f'"#/definitions/{name}"' in json.dumps(variables)]:
        found.update({name: copy.deepcopy(kept[name]) for name in lost})
    return merged
