"""The command line: parse, call, print.

`commands/` holds the options of each command, quick to import as `--help` needs no more; beside it stands what they do.
"""

import os
import sys

from ecs_worker import HEALTH_ADDRESS


def main() -> None:
    """Run the command line. Ctrl-C is no error to explain, not even during the imports, which take a moment.

    A container's check asks for its worker's health every few seconds, on the worker's CPU: that goes without the
    command line's machinery. Whatever else is said of `health`, its help too, goes the way of all commands.
    """
    try:
        match sys.argv[1:]:
            case ["health"]:
                check(os.environ.get("ECS_WORKER_HEALTH_ADDRESS") or HEALTH_ADDRESS)
            case ["health", "--health-address", address]:
                check(address)
            case _:
                from ecs_worker.cli.app import main as run

                run()
    except KeyboardInterrupt:
        sys.exit(130)


def check(address: str) -> None:
    """Ask a worker how it is, print its answer and exit."""
    from ecs_worker.cli.health import check as ask

    sys.exit(ask(address))
