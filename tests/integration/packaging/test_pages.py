"""The pages of docs/ name tests that there are."""

from __future__ import annotations

import re

import pytest

from support.paths import TESTS, TOP

_NAMED = re.compile(r"`([\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("page", ["crash-points.md"])
def test_the_tests_that_a_page_names_exist(page: str) -> None:
    text = (TOP / "docs" / page).read_text("utf-8")
    table = [line for line in text.splitlines() if line.startswith("|")]
    named = [found for line in table for found in _NAMED.findall(line)]
    assert len(named) > 20
    for file, name in named:
        assert (TESTS / file).is_file(), file
        assert not name or re.search(rf"def {name}\(", (TESTS / file).read_text("utf-8")), name
