"""`python -m simulator --port 4610`: the AWS simulator as a process, steered over HTTP (see control.py)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal

from simulator.aws import LIMITS, AwsSimulator, serve


async def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m simulator", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: a free one, printed as JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", type=float, default=1.0, help="simulated seconds in a real one")
    parser.add_argument("--limits", choices=sorted(LIMITS), default="off", help="AWS's token buckets")
    given = parser.parse_args()
    aws = AwsSimulator(port=given.port, seed=given.seed, speed=given.speed, limits=given.limits)
    serving = asyncio.ensure_future(serve(aws))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


if __name__ == "__main__":
    asyncio.run(_main())
