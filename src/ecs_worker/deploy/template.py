"""The one template: its text, what its parameters take, and what a stack's own template remembers.

A stack's template keeps in its Metadata the parameters that the stack had before its last change. CloudFormation
changes Metadata only together with resources, and takes it back when a change is rolled back: so what
`ecs-worker deploy rollback` goes back to can't differ from what there was, and there is no store beside the stack.
Stack tags would not do: they hold 256 characters each, and are put on every resource, which a new one then changes.
"""

from __future__ import annotations

import importlib.resources
import json
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

_METADATA = "\nMetadata:\n"
_BEFORE = "  ecs-worker::Before: "  # one line of JSON
_REMEMBERED = re.compile(rf"^{_BEFORE}(.*)\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter as the template declares it. `default` None: it must be given. `rule` says what `pattern` means."""

    name: str
    meaning: str
    default: str | None
    values: tuple[str, ...] = ()
    pattern: str = ""
    rule: str = ""
    least: int | None = None

    def fault(self, value: str) -> str | None:
        """What is wrong with a value, to be said after its option's name; None if it is right."""
        if self.values and value not in self.values:
            return f"is {value!r}, but must be one of {', '.join(self.values)}"
        if self.pattern and not re.fullmatch(self.pattern, value):
            return f"is {value!r}, but {self.rule or f'must match {self.pattern}'}"
        if self.least is not None and not (value.isdigit() and int(value) >= self.least):
            return f"is {value!r}, but must be a number, at least {self.least}"
        return None


def text() -> str:
    """The template (YAML), as the package has it."""
    return (importlib.resources.files("ecs_worker.deploy") / "template.yaml").read_text(encoding="utf-8")


@cache
def parameters() -> Mapping[str, Parameter]:
    """What the template can be given, by name."""
    declared: Mapping[str, Mapping[str, Any]] = document(text())["Parameters"]
    return {name: _parameter(name, each) for name, each in declared.items()}


def _parameter(name: str, raw: Mapping[str, Any]) -> Parameter:
    default = raw.get("Default")
    return Parameter(
        name=name,
        meaning=str(raw.get("Description", "")),
        default=None if default is None else str(default),
        values=tuple(str(value) for value in raw.get("AllowedValues", ())),
        pattern=str(raw.get("AllowedPattern", "")),
        rule=str(raw.get("ConstraintDescription", "")),
        least=raw.get("MinValue"),
    )


def document(template: str) -> dict[str, Any]:
    """A template (YAML) as data, with the functions in their long forms, which JSON needs: `!Ref x` → {"Ref": "x"}."""
    read: dict[str, Any] = yaml.load(template, Loader=_Loader)  # noqa: S506 - a SafeLoader
    return read


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc] # the C one is not always there
    """Reads CloudFormation's short forms."""


def _function(loader: Any, name: str, node: Any) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if name == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {name if name in {"Ref", "Condition"} else f"Fn::{name}": value}


_Loader.add_multi_constructor("!", _function)


def remembering(template: str, before: Mapping[str, str] | None) -> str:
    """The template with the parameters to go back to in its Metadata."""
    if before is None:
        return template
    line = f"{_BEFORE}{json.dumps(before, sort_keys=True)}\n"
    head, metadata, tail = template.partition(_METADATA)
    return f"{head}{metadata}{line}{tail}"


def forgetting(template: str) -> str:
    """The template without the parameters to go back to."""
    return _REMEMBERED.sub("", template)


def remembered(template: str) -> dict[str, str] | None:
    """The parameters to go back to that a stack's template holds."""
    found = _REMEMBERED.search(template)
    if found is None:
        return None
    kept: dict[str, str] = json.loads(found[1])
    return kept
