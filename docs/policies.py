"""Writes the policies of `iam/` from what `ecs_worker.iam` knows: `make docs`. A test holds the two together."""

from __future__ import annotations

import json
from pathlib import Path

from ecs_worker.iam.examples import files

FOLDER = Path(__file__).parents[1] / "iam"


def pages() -> dict[Path, str]:
    """File → its content."""
    return {FOLDER / name: json.dumps(policy, indent=2) + "\n" for name, policy in files().items()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
