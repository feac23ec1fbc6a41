"""Names and tags that ECS accepts."""

from __future__ import annotations

import re
from uuid import UUID

import pytest

from ecs_worker.job.names import ecs_name, generated_family, tag_text
from support.jobs import build, flow_override


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("c d!", "c-d"),
        ("é*", ""),
        ("x&amp;y 1,000 ''q'' --z--", "x-y-1000-q-z"),
        ("a_b.c/d=e+f:g@h-i", "a_b.c/d=e+f:g@h-i"),
        ("v" * 300, "v" * 256),
    ],
)
def test_tags_are_slugs(text: str, slug: str) -> None:
    assert tag_text(text, 256) == slug


def test_names_fit_ecs() -> None:
    assert ecs_name("My_Family-1") == "My_Family-1"
    assert ecs_name("Müller & Söhne") == "Muller-Sohne"
    assert len(ecs_name("x" * 300)) == 255
    family = generated_family("p" * 300, "id-1")
    assert (len(family), family[-5:]) == (255, "_id-1")
    definition, _ = build({"family": "!!"})
    assert definition["family"] == f"prefect_pool_{UUID(int=3)}"


@pytest.mark.parametrize("name", ["Müller & Söhne", "コンテナ", "!!", "x" * 300])
def test_container_names_fit_ecs(name: str) -> None:
    definition, request = build({"container_name": name})
    [container] = definition["containerDefinitions"]
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,255}", container["name"])
    assert container["name"].strip("-")
    assert flow_override(request)["name"] == container["name"]
    other, _ = build({"container_name": f"サ{name}" if name == "コンテナ" else "other"})
    assert other["containerDefinitions"][0]["name"] != container["name"]
