"""The set-up that all tests of this folder break and mend, made once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ecs_worker.aws.session import Aws
from support.clinic import Clinic, opened
from support.embedded import connected
from support.policies import Asked
from support.servers.prefect import Admin
from support.servers.shared import shared_aws, shared_prefect
from support.simulator.chaos_proxy import ChaosProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from support.servers.prefect import PrefectServer


@pytest.fixture(scope="module")
def server(session_directory: Path) -> Iterator[PrefectServer]:
    with shared_prefect(session_directory, "3", "prefect3") as found:
        yield found


@pytest.fixture(scope="module")
def aws_url(session_directory: Path) -> str:
    """An embedded AWS of this folder's own: what is an account's is broken there, too."""
    return shared_aws(session_directory, f"doctor_aws-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}")


@pytest.fixture(scope="module")
async def clinic(server: PrefectServer, aws_url: str) -> AsyncIterator[Clinic]:
    """Whoever examines goes through proxies; those who break and mend don't."""
    asked = Asked()
    async with (
        Admin(server) as admin,
        connected(aws_url) as aws,
        ChaosProxy(server.url.removesuffix("/api")) as prefect,
        ChaosProxy(aws_url, api_path="", heard=asked.hear) as proxy,
    ):
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_CA_BUNDLE"]:
                patch.delenv(name)
            patch.setenv("AWS_ENDPOINT_URL", proxy.url)
            patch.setenv("AWS_ACCESS_KEY_ID", "any")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
            patch.setenv("AWS_REGION", "us-east-1")
            patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
            async with Aws() as ours:
                made = Clinic(admin, aws, ours, prefect, proxy, prefect.api_url)
                await opened(made)
                asked.requests.clear()
                made.asked = asked
                yield made
