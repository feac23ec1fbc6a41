"""The command line: parse, call, print."""

from ecs_worker.cli.app import main

__all__ = ["main"]
