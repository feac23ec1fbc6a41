"""Placeholders in job templates: `{{ name }}`, `{{ $ENV }}`, `{{ prefect.blocks.… }}`, `{{ prefect.variables.… }}`.

Three passes, in Prefect's order: values, then blocks, then variables. What a pass puts in, it does not look at
again. Source: measured on Prefect 3.8.8; `tests/unit/job/test_as_prefect.py` holds this module against it.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from ecs_worker.errors import JobInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_PLACEHOLDER = re.compile(r"{{\s*([\w.\-\[\]$]+)\s*}}")
_BLOCKS = "prefect.blocks."
_VARIABLES = "prefect.variables."


class _Unset(Enum):
    UNSET = "unset"


UNSET: Final = _Unset.UNSET


@dataclass(frozen=True, slots=True)
class BlockReference:
    """Which block document a template means: by its id, or by its type's slug and its name."""

    document_id: str = ""
    type_slug: str = ""
    name: str = ""

    def __str__(self) -> str:
        return self.document_id or f"{self.type_slug}/{self.name}"


def lookup(values: Any, path: str) -> Any:
    """What stands at `path` (`a.b[0].c`) in nested dicts and lists; UNSET if nothing does."""
    value = values
    for part in path.replace("[", ".").replace("]", "").split("."):
        key: str | int
        try:
            key = int(part)
        except ValueError:
            key = part
        try:
            value = value[key]
        except (TypeError, KeyError, IndexError):
            return UNSET
    return value


def placeholders(template: Any) -> frozenset[str]:
    """Names of all placeholders anywhere in `template`; keys of dicts are never templates."""
    return frozenset(match[1] for text in _strings(template) for match in _PLACEHOLDER.finditer(text))


def variables_of(template: Any) -> frozenset[str]:
    """The job variables that `template` asks for: for `{{ env.HOME }}`, it is `env`."""
    names = map(variable_in, placeholders(template))
    return frozenset(name for name in names if not name.startswith("$")) - {"prefect", "ctx"}


def variable_in(name: str) -> str:
    """The job variable that a dotted name is a part of."""
    return name.partition(".")[0].partition("[")[0]


def apply_values(template: Any, values: Mapping[str, Any], environ: Mapping[str, str] | None) -> Any:
    """First pass: put `values` in, and the worker's own environment for `{{ $NAME }}` (None: that stays).

    A string that is one placeholder becomes the value, its type kept; without a value its key or list item goes
    away (at top level: UNSET). Elsewhere values are put into the text, missing ones as "". Block and variable
    placeholders stay for the later passes.
    """

    def whole(name: str) -> tuple[Any] | None:
        if name.startswith("$"):
            return None if environ is None else (environ.get(name.lstrip("$"), ""),)
        return None if name.startswith((_BLOCKS, _VARIABLES)) else (lookup(values, name),)

    return _put_in(template, whole)


def apply_environment(template: Any, environ: Mapping[str, str], may_read: Callable[[str], bool]) -> Any:
    """Put the worker's own environment in for `{{ $NAME }}`, where that name may be read; all else stays."""

    def whole(name: str) -> tuple[Any] | None:
        variable = name.lstrip("$")
        return (environ.get(variable, ""),) if variable != name and may_read(variable) else None

    return _put_in(template, whole)


def environment_names(template: Any) -> list[str]:
    """The names that `{{ $NAME }}` stand for anywhere in `template`."""
    return sorted({name.lstrip("$") for name in placeholders(template) if name.startswith("$")})


def _put_in(template: Any, whole: Callable[[str], tuple[Any] | None]) -> Any:
    """`template` with each placeholder's value by its name; None: the placeholder stays."""

    def embedded(match: re.Match[str]) -> str:
        found = whole(match[1])
        if found is None:
            return match[0]
        return "" if found[0] is UNSET else str(found[0])

    def text(template: str) -> Any:
        match = _PLACEHOLDER.fullmatch(template)
        if match is None:
            return _PLACEHOLDER.sub(embedded, template)
        found = whole(match[1])
        return template if found is None else found[0]

    return _map_strings(template, text)


def references(rendered: Any) -> tuple[frozenset[BlockReference], frozenset[str]]:
    """The blocks and the names of the variables that the later passes need.

    Blocks may hold variable placeholders: ask again, for variables, once blocks are resolved.
    Raises JobInvalid for a block placeholder that names no block.
    """
    blocks = set(_block_ids(rendered))
    variables = set()
    for name in placeholders(rendered):
        if name.startswith(_BLOCKS):
            blocks.add(_block_of(name)[0])
        elif name.startswith(_VARIABLES):
            variables.add(name.removeprefix(_VARIABLES))
    return frozenset(blocks), frozenset(variables)


def resolve_blocks(rendered: Any, documents: Mapping[BlockReference, Any]) -> Any:
    """Second pass: put in the blocks' data, `documents` by reference.

    Raises JobInvalid if a document or a path in it is missing, or a dict or list would have to become text.
    Messages name the placeholder, never data.
    """

    def value_of(placeholder: str) -> Any:
        reference, path = _block_of(placeholder)
        data = _document(documents, reference)
        # A block that holds nothing but `value` stands for that value, unless the path says `value` itself.
        alone = isinstance(data, dict) and set(data) == {"value"}
        if alone and not re.match(r"value([.\[]|$)", path):
            data = data["value"]
        found = lookup(data, path) if path else data
        if found is UNSET:
            raise JobInvalid([f"{{{{ {placeholder} }}}}: the block {reference} has nothing at {path!r}."])
        return copy.deepcopy(found)

    def embedded(match: re.Match[str]) -> str:
        if not match[1].startswith(_BLOCKS):
            return match[0]
        value = value_of(match[1])
        if isinstance(value, dict | list):
            raise JobInvalid(
                [f"{{{{ {match[1]} }}}} is a {type(value).__name__}, which can't stand inside text; name a part of it."]
            )
        return str(value)

    def text(template: str) -> Any:
        match = _PLACEHOLDER.fullmatch(template)
        if match is not None and match[1].startswith(_BLOCKS):
            return value_of(match[1])
        return _PLACEHOLDER.sub(embedded, template)

    def document(template: dict[str, Any]) -> Any:
        reference = _id_reference(template)
        return UNSET if reference is None else copy.deepcopy(_document(documents, reference))

    return _map_strings(rendered, text, document)


def resolve_variables(rendered: Any, values: Mapping[str, Any]) -> Any:
    """Third pass: put in Prefect variables, `values` by name; a missing variable becomes ""."""

    def embedded(match: re.Match[str]) -> str:
        if not match[1].startswith(_VARIABLES):
            return match[0]
        return str(values.get(match[1].removeprefix(_VARIABLES), ""))

    def text(template: str) -> Any:
        match = _PLACEHOLDER.fullmatch(template)
        if match is not None and match[1].startswith(_VARIABLES):
            return values.get(match[1].removeprefix(_VARIABLES), "")
        return _PLACEHOLDER.sub(embedded, template)

    return _map_strings(rendered, text)


def _map_strings(
    template: Any,
    text: Callable[[str], Any],
    whole_dict: Callable[[dict[str, Any]], Any] = lambda _: UNSET,
) -> Any:
    """A copy of `template` with each string replaced; dict values and list items that become UNSET go away.

    `whole_dict` may replace a dict as a whole; UNSET says that it doesn't.
    """

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return text(value)
        if isinstance(value, dict):
            replaced = whole_dict(value)
            if replaced is not UNSET:
                return replaced
            walked = ((key, walk(item)) for key, item in value.items())
            return {key: item for key, item in walked if item is not UNSET}
        if isinstance(value, list):
            return [item for item in map(walk, value) if item is not UNSET]
        return value

    return walk(template)


def _strings(template: Any) -> Iterator[str]:
    open_parts = [template]  # no recursion: what anybody may have written can be nested deeply
    while open_parts:
        part = open_parts.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict | list):
            open_parts += part.values() if isinstance(part, dict) else part


def _block_of(placeholder: str) -> tuple[BlockReference, str]:
    """Which block `prefect.blocks.<type>.<name>[.path]` means, and the path in it."""
    type_slug, _, rest = placeholder.removeprefix(_BLOCKS).partition(".")
    name, _, path = rest.partition(".")
    if not type_slug or not name:
        raise JobInvalid(
            [f"{{{{ {placeholder} }}}} names no block: write {{{{ prefect.blocks.<block type>.<block name> }}}}."]
        )
    return BlockReference(type_slug=type_slug, name=name), path


def _id_reference(template: dict[str, Any]) -> BlockReference | None:
    reference = template.get("$ref")
    document_id = reference.get("block_document_id") if isinstance(reference, dict) else None
    return BlockReference(document_id=str(document_id)) if document_id else None


def _block_ids(rendered: Any) -> Iterator[BlockReference]:
    if isinstance(rendered, dict):
        reference = _id_reference(rendered)
        if reference is not None:
            yield reference
        for value in rendered.values():
            yield from _block_ids(value)
    elif isinstance(rendered, list):
        for value in rendered:
            yield from _block_ids(value)


def _document(documents: Mapping[BlockReference, Any], reference: BlockReference) -> Any:
    try:
        return documents[reference]
    except KeyError:
        raise JobInvalid(
            [f"The job refers to the block {reference}, which does not exist; create it or correct the reference."]
        ) from None
