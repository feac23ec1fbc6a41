"""Names that ECS accepts, made from names that users gave."""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# RegisterTaskDefinition: families and container names are up to 255 letters, digits, underscores and hyphens.
LONGEST_NAME = 255
# RunTask, Tag: limits of keys and values.
LONGEST_TAG_KEY = 128
LONGEST_TAG_VALUE = 256

# What ECS takes as the name of a container or a volume.
VALID_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{LONGEST_NAME}}}")
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]+")
_NOT_IN_TAGS = re.compile(r"[^a-zA-Z0-9_./=+:@-]")


def ecs_name(text: str) -> str:
    """`text` as a family or container name. A valid name stays as it is; letters keep their case."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return _NOT_IN_NAMES.sub("-", plain)[:LONGEST_NAME]


def container_slug(text: str) -> str:
    """`text` as a container's name; where no letter or digit of it is usable, one that is still its own."""
    name = ecs_name(text)
    return name if name.strip("-") else f"container-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def generated_family(pool_name: str, owner_id: str) -> str:
    """prefect-aws's name for the family of a deployment (or a flow without one) in a pool.

    Of a name that is too long, the pool's part is cut, so that two deployments never share a family.
    """
    longest_pool = LONGEST_NAME - len(f"prefect__{owner_id}")
    return f"prefect_{ecs_name(pool_name)[:longest_pool]}_{owner_id}"


def tag_text(text: object, longest: int) -> str:
    """`text` as a tag's key or value, as prefect-aws writes it: other characters become single hyphens."""
    slug = unicodedata.normalize("NFKC", re.sub(r"'+", "-", str(text)))
    slug = unicodedata.normalize("NFKC", re.sub(r"&(#?\w+);", lambda match: html.unescape(match[0]), slug))
    slug = re.sub(r"(?<=\d),(?=\d)", "", slug.replace("'", ""))
    return re.sub(r"-{2,}", "-", _NOT_IN_TAGS.sub("-", slug)).strip("-")[:longest]


def repeated(names: Iterable[str]) -> list[str]:
    """Those that are there more than once."""
    return [name for name, count in Counter(names).items() if count > 1]
