"""Whatever comes back in place of an answer becomes a PrefectError: never the worker's end, nor a fault of its own."""

from __future__ import annotations

import asyncio
import gzip
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecs_worker.errors import PrefectError
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.settings import PrefectSettings
from support.prefect_calls import PREFECT_CALLS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

READING = (
    *("read_pool", "scheduled_runs", "propose_state", "state_history", "read_run", "runs", "run_ids", "count_runs"),
    *("read_deployment", "read_block_document", "workers"),
)
"""Calls that fail whenever their answer can't be read."""
CALLS = {name: PREFECT_CALLS[name] for name in READING}


def http(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


BROKEN = {
    "a wrong content coding": http(b"upstream error", "Content-Encoding: gzip", status="502 Bad Gateway"),
    "half a body": http(b'{"id": ', length=900),
    "a gigabyte": http(b"[", length=2**30),
    "a page": http(b"<html>Sign in</html>", "Content-Type: text/html"),
    "another object": http(b'{"id": 5, "name": null, "status": "x", "state": []}'),
    "a list of nothing useful": http(b"[null, 1, {}]"),
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a redirect": http(b"", "Location: http://127.0.0.1:9/elsewhere", status="307 Temporary Redirect"),
    "invalid UTF-8": http(b'{"id": "\xff\xfe"}', "Content-Type: application/json"),
    "chunks without end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nz\r\n",
    "a bomb": http(gzip.compress(b" " * (65 * 1024 * 1024)), "Content-Encoding: gzip"),
}


@asynccontextmanager
async def answering(raw: bytes) -> AsyncIterator[PrefectClient]:
    """A client of a server that says this to everything, and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        settings = PrefectSettings(api_url=f"http://127.0.0.1:{port}/api", client_csrf_support_enabled=False)
        async with PrefectClient(settings, patience_seconds=0) as api:
            yield api
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("kind", BROKEN)
async def test_every_call_bears_what_is_broken(kind: str) -> None:
    async with answering(BROKEN[kind]) as api:
        for call in CALLS.values():
            with pytest.raises(PrefectError) as caught:
                await call(api)
            assert len(str(caught.value)) < 1_000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name", "state"]), inner),
    max_leaves=8,
)


@given(st.sampled_from(sorted(CALLS)), st.binary(max_size=60) | json_values.map(lambda v: str(v).encode()))
@settings(max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_does_more_than_fail(call: str, body: bytes) -> None:
    async def ask() -> None:
        async with answering(http(body)) as api:
            with suppress(PrefectError):  # which is how a call may fail; every other way fails the test
                await CALLS[call](api)

    asyncio.run(ask())


def test_a_password_in_the_url_is_not_shown() -> None:
    read = PrefectSettings(api_url="https://svc:hunter2@prefect.example.com:8443/api")
    assert read.shown_url == "https://prefect.example.com:8443/api"
