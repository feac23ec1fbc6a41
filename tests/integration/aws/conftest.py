"""AWS clients whose environment is the test's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from moto.server import ThreadedMotoServer

from ecs_worker.aws.session import Aws

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Nothing of the machine's own AWS configuration, but what the test writes into the config file."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def write(text: str) -> None:
        path.write_text(text, encoding="utf-8")

    return write


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials and a Region."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """A moto server's URL."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
async def aws(moto: str, keys: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Aws]:  # noqa: ARG001 - for its effect
    """AWS, played by moto."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    async with Aws() as session:
        yield session
