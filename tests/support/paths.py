"""Where the checkout keeps what tests read and start."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[1]
TOP = TESTS.parent
EXAMPLES = TOP / "examples"
STORED_TEMPLATES = TESTS / "unit" / "job"  # prefect-aws's: `prefect_aws_<version>_template.json`
CONTAINER = TESTS / "support" / "servers" / "container.py"  # the command of containers that do as they are told
