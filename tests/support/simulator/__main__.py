"""The simulator and the proxy as processes, steered over HTTP (see control.py).

python -m support.simulator --port 4610
python -m support.simulator proxy --upstream http://127.0.0.1:4200 --port 4201
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal

from support.simulator.aws import LIMITS, AwsSimulator
from support.simulator.aws import serve as serve_aws
from support.simulator.chaos_proxy import ChaosProxy
from support.simulator.chaos_proxy import serve as serve_proxy


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m support.simulator", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("aws", "proxy"), default="aws")
    parser.add_argument("--port", type=int, default=0, help="0: a free one, printed as JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", type=float, default=1.0, help="aws: simulated seconds in a real one")
    parser.add_argument("--limits", choices=sorted(LIMITS), default="off", help="aws: its token buckets")
    parser.add_argument("--upstream", help="proxy: the Prefect server, without /api")
    given = parser.parse_args()
    if given.what == "proxy" and not given.upstream:
        parser.error("the proxy needs --upstream")
    return given


async def _main() -> None:
    given = _arguments()
    if given.what == "proxy":
        serving = asyncio.ensure_future(serve_proxy(ChaosProxy(given.upstream, port=given.port, seed=given.seed)))
    else:
        aws = AwsSimulator(port=given.port, seed=given.seed, speed=given.speed, limits=given.limits)
        serving = asyncio.ensure_future(serve_aws(aws))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


if __name__ == "__main__":
    asyncio.run(_main())
