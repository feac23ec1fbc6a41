"""The set-up that all tests of this folder break and mend, made once."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ecs_worker.aws.session import Aws
from support.clinic import Clinic, opened
from support.embedded import connected
from support.servers.prefect import Admin
from support.servers.shared import shared_aws, shared_prefect
from support.simulator.chaos_proxy import ChaosProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from support.servers.prefect import PrefectServer


@contextmanager
def _environment(aws_url: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_CA_BUNDLE"]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", aws_url)
        patch.setenv("AWS_ACCESS_KEY_ID", "any")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


def _listened_to(url: str, heard: list[tuple[str, str]]) -> ChaosProxy:
    """Keeps each call's action and body."""
    return ChaosProxy(url, api_path="", heard=lambda action, body: heard.append((action, body)))


@pytest.fixture(scope="session")
async def set_up(anyio_backend: str, session_directory: Path) -> AsyncIterator[Clinic]:
    """Whoever examines goes through proxies; those who break and mend don't.

    The embedded AWS is this folder's own: what is an account's is broken there, too.
    """
    assert anyio_backend == "asyncio"
    url = shared_aws(session_directory, "doctor_aws", step_seconds=0.05)
    heard: list[tuple[str, str]] = []
    with shared_prefect(session_directory, "3", "prefect3") as server:
        admin, prefect = Admin(server), ChaosProxy(server.url.removesuffix("/api"))
        async with admin, prefect, connected(url) as aws, _listened_to(url, heard) as proxy:
            with _environment(proxy.url):
                ours = Aws()
                made = Clinic(admin, aws, ours, prefect, proxy, prefect.api_url, heard=heard)
                await opened(made)
            async with ours:
                yield made


@pytest.fixture
def clinic(set_up: Clinic, prefect3: PrefectServer) -> Iterator[Clinic]:
    """The set-up, with its server awake."""
    assert prefect3.url == set_up.admin.server.url
    with _environment(set_up.aws_proxy.url):
        yield set_up
