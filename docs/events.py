"""Writes `examples/events-queue.yaml` from the worker's template: `make docs`. A test holds the two together."""

from __future__ import annotations

from pathlib import Path

from ecs_worker.deploy.exports import as_yaml, events_only
from ecs_worker.deploy.template import document, text

PAGE = Path(__file__).parents[1] / "examples" / "events-queue.yaml"
HEAD = """\
# The queue for `ecs-worker start --events-queue ecs-worker-events`, in the Region of the clusters:
#
#   aws cloudformation deploy --stack-name ecs-worker-events --template-file events-queue.yaml \\
#       --parameter-overrides QueueName=ecs-worker-events
#
# It is optional. With it, the worker learns within a second or two that a task has changed. All workers of an account
# and Region may share it. The worker's role needs iam/events-policy.json. Written by `make docs`.
"""


def page() -> str:
    """The whole file."""
    return HEAD + as_yaml(events_only(document(text())))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
