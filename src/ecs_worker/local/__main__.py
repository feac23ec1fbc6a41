"""`python -m ecs_worker.local`: what `EmbeddedAws` starts. It prints the URL. People use `ecs-worker local`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ecs_worker.errors import UserError
from ecs_worker.local.server import LocalSettings, serve


def main() -> None:
    """Serve on a free loopback port until standard input closes or a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m ecs_worker.local")
    parser.add_argument("--step-seconds", type=float, required=True)
    parser.add_argument("--retention-seconds", type=float, required=True)
    parser.add_argument("--calls-file", type=Path)
    settings = LocalSettings(**vars(parser.parse_args()))
    try:
        serve(on_ready=lambda url: print(url, flush=True), settings=settings, until_stdin_closes=True)  # noqa: T201 - the parent reads it
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
