"""What the client sends, repeats, gives up and tells: against a server that misbehaves as scripted."""

from __future__ import annotations

import asyncio
import json
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from uuid import uuid4

import pytest

from ecs_worker.errors import (
    PrefectError,
    PrefectNotFound,
    PrefectRejected,
    PrefectUnauthorized,
    PrefectUnavailable,
    PrefectUnreachable,
    UserError,
)
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.prefect_api.schemas import ProposedState, SetStateStatus, StateType
from ecs_worker.settings import PrefectSettings
from support.servers.prefect import free_port
from support.servers.scripted import Answer, ScriptedServer, scripted

pytestmark = pytest.mark.anyio

RUN_ID = uuid4()
CLAIM = ProposedState(StateType.PENDING, "Pending", transition_id=uuid4())
ACCEPTED = Answer(201, {"status": "ACCEPT", "state": {"type": "PENDING", "name": "Pending"}, "details": {}})
VERSION = Answer(200, "3.8.8")
CLOUD = "/accounts/a/workspaces/w"


def client(server: ScriptedServer, *, patience_seconds: float = 60, **settings: Any) -> PrefectClient:
    given = {"api_url": server.url, "client_csrf_support_enabled": False, **settings}
    return PrefectClient(PrefectSettings(**given), version="1.2.3", patience_seconds=patience_seconds)


# -- headers


async def test_every_request_says_who_asks() -> None:
    async with scripted(VERSION) as server, client(server, client_custom_headers={"X-Proxy": "yes"}) as api:
        await api.server_version()
    headers = server.requests[0].headers
    assert headers["User-Agent"] == "ecs-worker/1.2.3"
    assert headers["X-PREFECT-API-VERSION"] == "0.8.4"
    assert headers["X-Proxy"] == "yes"
    assert "Authorization" not in headers


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"api_key": "pnu_key"}, "Bearer pnu_key"),
        ({"api_auth_string": "user:pässword"}, "Basic dXNlcjpww6Rzc3dvcmQ="),
        ({"api_key": "pnu_key", "api_auth_string": "a:b"}, "Basic YTpi"),
        ({"client_custom_headers": {"Authorization": "Bearer proxy"}}, "Bearer proxy"),
    ],
)
async def test_authorization(settings: dict[str, Any], wanted: str) -> None:
    async with scripted(VERSION) as server, client(server, **settings) as api:
        await api.server_version()
    assert server.requests[0].headers["Authorization"] == wanted


async def test_user_and_password_in_the_url_are_the_last_resort() -> None:
    async with scripted(VERSION) as server:
        url = f"http://user:p%40ss@{server.address}/api"
        async with client(server, api_url=url) as api:
            await api.server_version()
        async with client(server, api_url=url, api_key="key") as api:
            await api.server_version()
    assert [request.headers["Authorization"] for request in server.requests] == ["Basic dXNlcjpwQHNz", "Bearer key"]


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"api_key": "s3cret\n"}, "PREFECT_API_KEY"),
        ({"client_custom_headers": {"X-Token": "s3cret\r\nX: y"}}, "X-Token"),
    ],
)
def test_what_no_header_can_hold_is_refused_at_once(settings: dict[str, Any], where: str) -> None:
    with pytest.raises(UserError, match=where) as caught:
        PrefectClient(PrefectSettings(api_url="http://127.0.0.1/api", **settings))
    assert "s3cret" not in str(caught.value)


async def test_cloud_has_its_own_ways() -> None:
    worker_id = uuid4()
    async with (
        scripted(Answer(200, {"id": str(worker_id)})) as server,
        client(server, api_url=server.url + CLOUD, client_csrf_support_enabled=True) as api,
    ):
        assert api.is_cloud
        assert await api.server_version() is None
        assert await api.heartbeat("pool", "worker", 30) == worker_id
    (request,) = server.requests  # no CSRF token was asked for
    assert request.path == f"/api{CLOUD}/work_pools/pool/workers/heartbeat"
    assert json.loads(request.body) == {"name": "worker", "heartbeat_interval_seconds": 30, "return_id": True}


# -- retries


@pytest.mark.parametrize("fault", [Answer(503), Answer(429), Answer(408), Answer(502), Answer(disconnect=True)])
async def test_a_claim_is_repeated_as_it_was(fault: Answer) -> None:
    async with scripted(fault, fault, ACCEPTED) as server, client(server) as api:
        answer = await api.propose_state(RUN_ID, CLAIM)
    assert answer.status is SetStateStatus.ACCEPT
    assert len(server.requests) == 3
    assert len({request.body for request in server.requests}) == 1
    sent = json.loads(server.requests[0].body)
    assert sent["state"]["state_details"]["transition_id"] == str(CLAIM.transition_id)


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_honoured(form: str) -> None:
    # a date has whole seconds, so that 3 s may be little more than 2
    value = "1" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    async with scripted(Answer(429, headers={"Retry-After": value}), VERSION) as server, client(server) as api:
        assert await api.server_version() == "3.8.8"
    first, second = server.requests
    assert 1 <= second.time - first.time < 5


@pytest.mark.parametrize("status", [503, 429])
async def test_attempts_are_bounded(status: int) -> None:
    async with scripted(Answer(status, headers={"Retry-After": "0"})) as server, client(server) as api:
        with pytest.raises(PrefectUnavailable, match=f"GET /admin/version answered {status}"):
            await api.server_version()
    assert len(server.requests) == 7


async def test_time_is_bounded() -> None:
    async with scripted(Answer(503, headers={"Retry-After": "3600"})) as server, client(server) as api:
        async with asyncio.timeout(5):
            with pytest.raises(PrefectUnavailable):
                await api.server_version()
    assert len(server.requests) == 1


async def test_no_answer_at_all() -> None:
    async with scripted(Answer(disconnect=True)) as server, client(server, patience_seconds=1) as api:
        with pytest.raises(PrefectUnreachable, match=r"GET /admin/version: no answer from http://127"):
            await api.server_version()
        assert not await api.health()
    assert 2 <= len(server.requests) <= 4


async def test_nobody_listens() -> None:
    url = f"http://user:s3cret@127.0.0.1:{free_port()}/api"
    async with PrefectClient(PrefectSettings(api_url=url), patience_seconds=0) as api:
        assert not await api.health()
        with pytest.raises(PrefectUnreachable) as caught:
            await api.create_pool("pool", {})
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


async def test_announced_maintenance_is_waited_out() -> None:
    busy = [Answer(503, headers={"Retry-After": "0", "Prefect-Maintenance": "true"})] * 12
    async with scripted(*busy, VERSION) as server, client(server) as api:
        assert await api.server_version() == "3.8.8"
    assert len(server.requests) == 13


@pytest.mark.parametrize("status", [400, 409, 423, 500, 504])
async def test_other_errors_are_not_repeated(status: int) -> None:
    async with scripted(Answer(status, {"detail": "the reason"})) as server, client(server) as api:
        with pytest.raises(PrefectRejected, match=f"answered {status}: the reason") as caught:
            await api.propose_state(RUN_ID, CLAIM)
    assert caught.value.status == status
    assert len(server.requests) == 1


PROXY_404 = [
    Answer(404, text="404 page not found"),
    Answer(404, text="<html>default backend - 404</html>", headers={"Content-Type": "text/html"}),
    Answer(404, {"message": "no Route matched with those values"}),
    Answer(404, []),
]


@pytest.mark.parametrize("page", PROXY_404)
async def test_a_proxys_404_says_nothing_of_a_run(page: Answer) -> None:
    done = Answer(204)
    async with scripted(page, done) as server, client(server) as api:
        assert await api.update_run(RUN_ID, infrastructure_pid="default::arn")
    assert len(server.requests) == 2
    async with scripted(page) as server, client(server, patience_seconds=0) as api:
        with pytest.raises(PrefectUnavailable, match="answered 404, but not from Prefect"):
            await api.read_run(RUN_ID)


async def test_a_proxys_404_does_not_turn_labels_or_events_off() -> None:
    async with scripted(*PROXY_404[:1], Answer(204)) as server, client(server, patience_seconds=0) as api:
        with pytest.raises(PrefectUnavailable):
            await api.write_events([{"id": "1"}])
        await api.write_events([{"id": "2"}])
    async with scripted(*PROXY_404[:1], Answer(204)) as server, client(server, patience_seconds=0) as api:
        with pytest.raises(PrefectUnavailable):
            await api.label_run(RUN_ID, {"a": "b"})
        await api.label_run(RUN_ID, {"a": "b"})
    assert len(server.requests) == 2


@pytest.mark.parametrize("said", [{"detail": "Not Found"}, {"exception_message": "Flow run not found"}])
async def test_prefects_own_404_is_believed_at_once(said: dict[str, str]) -> None:
    async with scripted(Answer(404, said)) as server, client(server) as api:
        assert await api.read_run(RUN_ID) is None
    assert len(server.requests) == 1


# -- what errors tell


@pytest.mark.parametrize(
    ("status", "kind"), [(401, PrefectUnauthorized), (403, PrefectUnauthorized), (404, PrefectNotFound)]
)
async def test_credentials_in_an_answer_are_redacted(status: int, kind: type[PrefectError]) -> None:
    said = "key pnu_s3cret and user:s3cret and dXNlcjpzM2NyZXQ= are wrong"
    async with (
        scripted(Answer(status, {"detail": said})) as server,
        client(server, api_key="pnu_s3cret", api_auth_string="user:s3cret") as api,
    ):
        with pytest.raises(kind, match=f"GET /admin/version answered {status}: key ") as caught:
            await api.server_version()
    told = "".join(traceback.format_exception(caught.value))
    assert "s3cret" not in told
    assert "dXNlcjpzM2NyZXQ=" not in told


async def test_a_validation_error_does_not_repeat_the_request() -> None:
    secret = uuid4().hex
    body = {
        "exception_message": "Invalid request received.",
        "exception_detail": [{"loc": ["body", "state"], "msg": "Field required", "input": {"env": secret}}],
        "request_body": {"env": secret},
    }
    async with scripted(Answer(422, body)) as server, client(server) as api:
        with pytest.raises(PrefectRejected, match=r"answered 422: body\.state: Field required$") as caught:
            await api.update_run(RUN_ID, job_variables={"env": secret})
    assert secret not in "".join(traceback.format_exception(caught.value))


async def test_an_answer_that_cannot_be_read_is_not_repeated_either() -> None:
    async with scripted(Answer(200, {"data_": "s3cret"})) as server, client(server) as api:
        with pytest.raises(PrefectRejected, match=r"can't read \(KeyError\)") as caught:
            await api.read_block_document(uuid4())
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer(200, text="<html>the UI</html>"), "without JSON: is PREFECT_API_URL right"),
        (Answer(301, headers={"Location": "https://u:s3cret@host/api/"}), "redirects to https://host/api/; is PREFECT"),
        (Answer(500, text="s3cret"), "answered 500$"),
    ],
)
async def test_a_wrong_address_is_named(answer: Answer, told: str) -> None:
    async with scripted(answer) as server, client(server) as api:
        with pytest.raises(PrefectRejected, match=told) as caught:
            await api.server_version()
    assert "s3cret" not in str(caught.value)


# -- what older servers lack


async def test_labels_are_not_offered_again_to_a_server_without() -> None:
    run = Answer(200, {"id": str(RUN_ID), "flow_id": str(uuid4()), "name": "run"})
    async with scripted(Answer(404, {"detail": "Not Found"}), run) as server, client(server) as api:
        await api.label_run(RUN_ID, {"a": "b"})
        await api.label_run(RUN_ID, {"a": "b"})
    assert [request.method for request in server.requests] == ["PATCH", "GET"]


async def test_events_are_not_offered_again_to_a_server_without() -> None:
    async with scripted(Answer(404, {"detail": "Not Found"})) as server, client(server) as api:
        await api.write_events([{"id": "1"}])
        await api.write_events([{"id": "2"}])
    assert len(server.requests) == 1
