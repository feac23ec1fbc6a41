"""Keeps this version's default base job template in `known_templates.json`: `make docs`. A test holds the two together.

`ecs-worker pool update` then knows the pools that were made with it, also when a later version has another template.
What older versions have shipped stays as it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecs_worker import __version__
from ecs_worker.job.upgrade import known_templates, with_template
from ecs_worker.job.variables import default_base_job_template

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE = Path(__file__).parent.parent / "src/ecs_worker/job/known_templates.json"


def page() -> str:
    """The whole file, with one line for each leaf."""
    return written(with_template(known_templates(), f"ecs-worker {__version__}", default_base_job_template()))


def written(known: Mapping[str, Any]) -> str:
    """The file's text."""
    lines = [f"{json.dumps(path)}: {json.dumps(digests)}" for path, digests in known.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
