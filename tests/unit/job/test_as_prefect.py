"""Rendering, held against the prefect package's own functions over generated templates and values."""

from __future__ import annotations

import asyncio
import copy
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefect.exceptions import ObjectNotFound
from prefect.utilities import templating
from prefect.workers.base import BaseJobConfiguration

from ecs_worker.errors import JobInvalid
from ecs_worker.job.configuration import render_configuration
from ecs_worker.job.template import BlockReference, apply_values, references, resolve_blocks, resolve_variables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NAMES = ["a", "b", "d", "d.k", "d.k.z[0].q", "d[k]", "l[1]", "l[-1]", "l.0", "e.f", "missing", "$HOME", "$NOT_SET_HERE"]
BLOCKS = [
    "prefect.blocks.secret.one",
    "prefect.blocks.secret.one.value",
    "prefect.blocks.json.many",
    "prefect.blocks.json.many.x.y[0]",
    "prefect.blocks.json.many.nothing",
    "prefect.blocks.json.wrapped.k",
    "prefect.blocks.json.wrapped.value.k",
    "prefect.blocks.json.wrapped.values",
    "prefect.blocks.json.gone",
    "prefect.blocks.json",
]
VARIABLES = ["prefect.variables.v", "prefect.variables.typed", "prefect.variables.none"]
SECRETS: dict[tuple[str, str], Any] = {
    ("secret", "one"): {"value": "{{ prefect.variables.v }}"},
    ("json", "many"): {"x": {"y": [1, "two"]}, "value": 3},
    ("json", "wrapped"): {"value": {"k": [1], "values": 2}},
}
BLOCK_ID = "0d5c1a3e-0000-4000-8000-000000000001"
DOCUMENTS = {BlockReference(type_slug=slug, name=name): data for (slug, name), data in SECRETS.items()} | {
    BlockReference(document_id=BLOCK_ID): {"aws_access_key_id": "{{ a }}", "n": {"m": None}}
}
VALUES = {"v": "text", "typed": {"k": [1, None]}}

plain_text = st.text("xyz {}.$é", max_size=6).filter(lambda text: "{{" not in text)
scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2).map(lambda f: round(f, 2)) | plain_text


def trees(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
    )


def placeholder_texts(names: list[str], most: int) -> st.SearchStrategy[str]:
    spaces = st.sampled_from(["", " ", "  "])
    placeholder = st.builds("{{{{{}{}{}}}}}".format, spaces, st.sampled_from(names), spaces)
    pieces = st.lists(plain_text | placeholder, max_size=most).map("".join)
    return placeholder | pieces


def templates(names: list[str]) -> st.SearchStrategy[Any]:
    return trees(scalars | placeholder_texts(names, 4), st.sampled_from(["k", "m", "{{ a }}", "env"]))


value_sets = st.fixed_dictionaries(
    {},
    optional={
        "a": trees(scalars, st.sampled_from(["k", "value"])),
        "b": scalars,
        "d": st.fixed_dictionaries({"k": trees(scalars, st.sampled_from(["z", "q"])) | st.just({"z": [{"q": 5}]})}),
        "l": st.lists(scalars, max_size=3) | st.just("text"),
        "e": st.just({"f": {"g": [0]}}),
    },
)
many = settings(max_examples=700, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Api:
    """What Prefect's own functions ask of a client."""

    async def read_block_document(self, block_document_id: object) -> Any:
        return SimpleNamespace(data=DOCUMENTS[BlockReference(document_id=str(block_document_id))])

    async def read_block_document_by_name(self, name: str, block_type_slug: str) -> Any:
        if (block_type_slug, name) not in SECRETS:
            request = httpx.Request("GET", "http://127.0.0.1")
            error = httpx.HTTPStatusError("404", request=request, response=httpx.Response(404, request=request))
            raise ObjectNotFound(error)
        return SimpleNamespace(data=SECRETS[block_type_slug, name])

    async def read_variable_by_name(self, name: str) -> Any:
        return SimpleNamespace(value=VALUES[name]) if name in VALUES else None


class Rendered:
    """Stands where Prefect would make its configuration object, and keeps what it is made from."""

    _get_base_config_defaults = BaseJobConfiguration._get_base_config_defaults  # noqa: SLF001 - called by Prefect on cls

    def __init__(self, **rendered: Any) -> None:
        self.rendered = rendered


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def ours(template: dict[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
    rendered = resolve_blocks(render_configuration(template, variables, os.environ), DOCUMENTS)
    resolved: dict[str, Any] = resolve_variables(rendered, VALUES)
    return resolved


@many
@given(templates(NAMES), value_sets)
def test_values_are_put_in_as_prefect_does(template: Any, values: dict[str, Any]) -> None:
    # At top level both say "unset", each with its own marker: as a dict's value it can be compared.
    assert apply_values({"t": template}, values, os.environ) == templating.apply_values({"t": template}, values)


@many
@given(
    trees(placeholder_texts(["a"], 1), st.just("k")),
    st.fixed_dictionaries({"a": placeholder_texts(["a", "b"], 3), "b": st.just("B")}),
)
def test_values_are_not_looked_at_again(template: Any, values: dict[str, Any]) -> None:
    assert apply_values({"t": template}, values, os.environ) == templating.apply_values({"t": template}, values)


@many
@given(templates([*BLOCKS, *VARIABLES, "a"]) | st.just({"$ref": {"block_document_id": BLOCK_ID}}))
def test_blocks_and_variables_are_put_in_as_prefect_does(runner: asyncio.Runner, template: Any) -> None:
    async def prefects() -> Any:
        found = await templating.resolve_block_document_references(template, client=Api())
        return await templating.resolve_variables(found, client=Api())

    try:
        expected = runner.run(prefects())
    except (ValueError, ObjectNotFound):
        with pytest.raises(JobInvalid):
            resolve_blocks(template, DOCUMENTS)
        return
    assert references(template)[0] <= set(DOCUMENTS)
    assert resolve_variables(resolve_blocks(template, DOCUMENTS), VALUES) == expected


envs = st.none() | st.dictionaries(st.sampled_from(["A", "B", "C"]), scalars | placeholder_texts(["a", "b"], 1))
job_templates = st.fixed_dictionaries(
    {
        "job_configuration": st.fixed_dictionaries(
            {"env": st.just("{{ env }}") | envs},
            optional={
                "deep": templates([*NAMES, "env", "env.A"]),
                "one": st.just("{{ one }}"),
                "block": st.sampled_from(
                    ["{{ prefect.blocks.json.many.x }}", {"$ref": {"block_document_id": BLOCK_ID}}]
                ),
                "variable": st.sampled_from(["{{ prefect.variables.v }}-{{ a }}", "{{ prefect.variables.typed }}"]),
            },
        ),
        "variables": st.fixed_dictionaries(
            {},
            optional={
                "properties": st.fixed_dictionaries(
                    {},
                    optional={
                        "env": st.builds(lambda default: {"default": default}, envs) | st.just({"type": "object"}),
                        "a": st.builds(lambda default: {"default": default}, scalars),
                        "one": st.just({"default": None}),
                    },
                )
            },
        ),
    }
)
job_variables = st.fixed_dictionaries(
    {},
    optional={
        "env": envs,
        "env.A": scalars,
        "env.D.x": scalars,
        "env.A.x": scalars,
        "a": scalars | st.just({"k": 1}),
        "a.k": scalars,
        "one": scalars | st.sampled_from(["{{ prefect.variables.v }}", "{{ prefect.blocks.secret.one }}"]),
        "d[k]": scalars,
    },
)


@many
@given(job_templates, job_variables)
def test_configurations_are_rendered_as_prefect_does(
    runner: asyncio.Runner, template: dict[str, Any], variables: dict[str, Any]
) -> None:
    before = copy.deepcopy((template, variables))
    prefects = BaseJobConfiguration.from_template_and_values.__func__
    try:
        expected = runner.run(prefects(Rendered, base_job_template=template, values=variables, client=Api())).rendered
    except TypeError:  # Prefect's answer to two variables that set the same value
        with pytest.raises(JobInvalid):
            ours(*before)
        return
    assert ours(*before) == expected
    assert before == (template, variables)
