from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from slugify import slugify  # Prefect's

from ecs_worker.prefect_api.events import slug


@given(st.text(st.characters(max_codepoint=0x7F), min_size=1))
@example("Worker 1,000's + Ünïcode_name")
def test_slugs_are_prefects(name: str) -> None:
    assert slug(name) == (slugify(name) or name)


def test_a_name_without_latin_letters_names_the_worker_all_the_same() -> None:
    assert slug("工人") == "工人"
