"""Tags of the task, which are the run's labels, and of the task definition.

Source of the limits: Tag of the ECS API reference.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ecs_worker.job.names import LONGEST_TAG_KEY, LONGEST_TAG_VALUE, repeated

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ecs_worker.job.job import Job

MOST_TAGS = 50

_TEXT = re.compile(r"[\w\s.:/=+\-@]*")


def of_task(job: Job) -> Iterator[str]:
    """RunTask's."""
    yield from _wrong("The task", job.origin("labels"), job.run_task.get("tags") or [], MOST_TAGS)


def of_definition(job: Job) -> Iterator[str]:
    """RegisterTaskDefinition's; one more is the digest's."""
    yield from _wrong("The task definition", "", job.definition.get("tags") or [], MOST_TAGS - 1)


def _wrong(where: str, came_from: str, tags: Sequence[Mapping[str, Any]], most: int) -> Iterator[str]:
    if len(tags) > most:
        yield f"{where} would have {len(tags)} tags{came_from}, but ECS allows {most}: give fewer labels."
    for key in repeated(str(tag.get("key", "")) for tag in tags):
        yield f"{where} has the label {key!r} several times{came_from}; leave one."
    for tag in tags:
        key, value = str(tag.get("key", "")), str(tag.get("value", ""))
        label = f"{where} has the label {key!r}{came_from}, which"
        if key.lower().startswith("aws:"):
            yield f"{label} starts with 'aws:', AWS's own prefix; rename it."
        if not 1 <= len(key) <= LONGEST_TAG_KEY or len(value) > LONGEST_TAG_VALUE:
            yield (
                f"{label} is too long: a key has 1 to {LONGEST_TAG_KEY} characters and a value at most "
                f"{LONGEST_TAG_VALUE}; shorten it."
            )
        if not (_TEXT.fullmatch(key) and _TEXT.fullmatch(value)):
            yield f"{label} has other characters than letters, digits, spaces and _ . : / = + - @; change it."
