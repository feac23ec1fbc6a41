"""The command line: parse, call, print."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C is no error to explain, not even during the imports, which take a moment."""
    try:
        from ecs_worker.cli.app import main as run  # noqa: PLC0415 - see above

        run()
    except KeyboardInterrupt:
        sys.exit(130)
