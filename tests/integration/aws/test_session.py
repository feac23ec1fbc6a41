"""Sessions, clients, credentials and what becomes of errors, against servers that answer over HTTP."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from ecs_worker import __version__
from ecs_worker.aws.limits import Limits
from ecs_worker.aws.session import IDLE_AFTER, MOST_CLIENTS, UNUSED_AFTER, Aws
from ecs_worker.errors import AwsError, UserError
from ecs_worker.model import AwsCredentials, AwsTarget
from ecs_worker.verdicts.classify import Kind, classify
from support.clocks import HandTime
from support.servers.scripted import Answer, ScriptedServer, scripted
from support.simulator import AwsSimulator
from support.simulator.helpers import point_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecs_worker.aws.service import Service

pytestmark = pytest.mark.anyio

NO_TASKS = Answer(body={"tasks": [], "failures": []})
SECRET = "wJalrXUtnFEMI"


def refusal(code: str, message: str = "", status: int = 400, **fields: Any) -> Answer:
    return Answer(status=status, body={"__type": code, "message": message, **fields})


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call is tried once: what it meets first is what we see."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


async def ask(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, target: AwsTarget | None = None) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.address}")
    async with Aws() as aws:
        ecs = await aws.ecs(target or AwsTarget())
        await ecs.describe_tasks("default", ["a"])


# The start-up check


async def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    async with Aws() as aws:
        with pytest.raises(UserError, match="There are no AWS credentials: set AWS_ACCESS_KEY_ID"):
            await aws.check()


@pytest.mark.usefixtures("keys")
async def test_no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    async with Aws() as aws:
        with pytest.raises(UserError, match="There is no AWS Region: set AWS_REGION"):
            await aws.check()
        with pytest.raises(UserError, match="There is no AWS Region"):
            await aws.ecs()


@pytest.mark.usefixtures("keys")
async def test_credentials_and_a_region_are_enough() -> None:
    async with Aws() as aws:
        await aws.check()
        assert aws.region() == "eu-west-1"


async def test_half_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    async with Aws() as aws:
        with pytest.raises(UserError, match="credentials are incomplete"):
            await aws.check()


async def test_an_unknown_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "staging")
    async with Aws() as aws:
        with pytest.raises(UserError, match=r"\(staging\) could not be found\. Set AWS_PROFILE"):
            await aws.check()


async def test_a_broken_config_file(config: Callable[[str], None]) -> None:
    config("[default\nregion")
    async with Aws() as aws:
        with pytest.raises(UserError, match="Correct the AWS config file"):
            await aws.check()


@pytest.mark.usefixtures("once")
async def test_a_role_endpoint_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    async with scripted(refusal("Gone", status=500)) as server:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://{server.address}/role")
        async with Aws() as aws:
            with pytest.raises(UserError, match="AWS credentials can't be fetched"):
                await aws.check()


async def test_the_profile_gives_keys_and_region(
    config: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    config("[profile staging]\nregion = eu-north-1\naws_access_key_id = AKIASTAGING\naws_secret_access_key = x\n")
    monkeypatch.setenv("AWS_PROFILE", "staging")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    async with Aws() as aws, scripted(NO_TASKS) as server:
        await aws.check()
        assert aws.region() == "eu-north-1", "botocore's own sources win over AWS_REGION"
        await ask(server, monkeypatch)
    assert "AKIASTAGING" in server.requests[0].headers["Authorization"]
    assert "/eu-north-1/ecs/" in server.requests[0].headers["Authorization"]


# Clients


@pytest.mark.usefixtures("keys")
async def test_first_users_at_the_same_time_share_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(NO_TASKS) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.address}")
        async with Aws() as aws:
            services = await asyncio.gather(*(aws.ecs() for _ in range(10)))
            assert all(service is services[0] for service in services)
            assert await aws.ecs(AwsTarget(region="eu-west-1")) is services[0], "the worker's own Region, spelt out"
            assert await aws.ecs(AwsTarget(region="us-east-1")) is not services[0]


@pytest.mark.usefixtures("keys")
async def test_requests_name_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(NO_TASKS) as server:
        await ask(server, monkeypatch)
    assert f"ecs-worker/{__version__}" in server.requests[0].headers["User-Agent"]


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("mode", ["standard", "legacy", "adaptive"])
async def test_the_retry_mode_follows_the_environment(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mode != "standard":
        monkeypatch.setenv("AWS_RETRY_MODE", mode)
    async with scripted(NO_TASKS) as server:
        await ask(server, monkeypatch)
    assert f"cfg/retry-mode#{mode}" in server.requests[0].headers["User-Agent"]


@pytest.mark.usefixtures("keys")
async def test_the_retry_mode_follows_the_config_file(
    config: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    config("[default]\nretry_mode = adaptive\n")
    async with scripted(NO_TASKS) as server:
        await ask(server, monkeypatch)
    assert "cfg/retry-mode#adaptive" in server.requests[0].headers["User-Agent"]


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("attempts", [1, 2])
async def test_the_number_of_attempts_follows_the_environment(attempts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", str(attempts))
    async with scripted(Answer(disconnect=True)) as server:
        with pytest.raises(AwsError):
            await ask(server, monkeypatch)
    assert len(server.requests) == attempts


@pytest.mark.usefixtures("keys")
async def test_the_block_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(NO_TASKS) as server, scripted(NO_TASKS) as elsewhere:
        block = AwsCredentials(
            access_key_id="AKIABLOCK",
            secret_access_key=SECRET,
            session_token="token",
            client_parameters={
                "endpoint_url": f"http://{elsewhere.address}",
                "use_ssl": True,
                "verify": None,
                "api_version": None,
                "config": {"user_agent_extra": "ours", "retries": {"max_attempts": 1}},
            },
        )
        await ask(server, monkeypatch, AwsTarget(block, "us-west-2"))
    assert not server.requests
    headers = elsewhere.requests[0].headers
    assert "AKIABLOCK" in headers["Authorization"]
    assert "/us-west-2/" in headers["Authorization"]
    assert headers["X-Amz-Security-Token"] == "token"
    assert "ours" in headers["User-Agent"]


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    "block",
    [
        AwsCredentials(access_key_id="AKIABLOCK"),
        AwsCredentials(secret_access_key=SECRET),
        AwsCredentials(profile_name="absent"),
        AwsCredentials(client_parameters={"endpoint_url": "no url"}),
        AwsCredentials(client_parameters={"config": {"no_such_option": 1}}),
        AwsCredentials(client_parameters={"config": {"retries": {"mode": "often"}}}),
    ],
)
async def test_an_impossible_block_is_the_users_mistake(block: AwsCredentials) -> None:
    async with Aws() as aws:
        with pytest.raises(UserError) as caught:
            await aws.ecs(AwsTarget(block))
    assert SECRET not in str(caught.value)


@pytest.mark.usefixtures("keys")
async def test_an_impossible_region() -> None:
    async with Aws() as aws:
        with pytest.raises(UserError, match="AWS_REGION"):
            await aws.ecs(AwsTarget(region="eu west 1"))


# Roles


def assumed(key: str, expires: str) -> Answer:
    return Answer(
        text=f"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
        <AccessKeyId>{key}</AccessKeyId><SecretAccessKey>x</SecretAccessKey><SessionToken>t</SessionToken>
        <Expiration>{expires}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"""
    )


ROLE = "arn:aws:iam::123456789012:role/flows"
FAR = "2999-01-01T00:00:00Z"


@pytest.mark.usefixtures("keys")
async def test_a_role_is_assumed_once_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    block = AwsCredentials(assume_role_arn=ROLE, assume_role_kwargs={"ExternalId": "x1", "DurationSeconds": 900})
    async with scripted(assumed("ASIAROLE", FAR)) as sts, scripted(NO_TASKS) as ecs:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://{sts.address}")
        monkeypatch.setenv("AWS_ENDPOINT_URL_ECS", f"http://{ecs.address}")
        async with Aws() as aws:
            service = await aws.ecs(AwsTarget(block))
            for _ in range(2):
                await service.describe_tasks("default", ["a"])
    (asked,) = sts.requests
    assert "AKIAEXAMPLE" in asked.headers["Authorization"], "the block has no keys: the worker's own assume the role"
    assert b"ExternalId=x1" in asked.body
    assert b"DurationSeconds=900" in asked.body
    assert b"RoleSessionName=prefect-session-" in asked.body
    assert all("ASIAROLE" in request.headers["Authorization"] for request in ecs.requests)
    assert len(ecs.requests) == 2


@pytest.mark.usefixtures("keys", "once")
async def test_a_role_is_assumed_again_before_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    async with scripted(assumed("ASIAOLD", soon), assumed("ASIANEW", FAR)) as sts, scripted(NO_TASKS) as ecs:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://{sts.address}")
        monkeypatch.setenv("AWS_ENDPOINT_URL_ECS", f"http://{ecs.address}")
        async with Aws() as aws:
            service = await aws.ecs(AwsTarget(AwsCredentials(assume_role_arn=ROLE)))
            for _ in range(3):
                await service.describe_tasks("default", ["a"])
    assert len(sts.requests) == 2
    assert "ASIANEW" in ecs.requests[-1].headers["Authorization"]


@pytest.mark.usefixtures("keys", "once")
async def test_a_role_that_may_not_be_assumed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused = Answer(
        status=403,
        text="<ErrorResponse><Error><Code>AccessDenied</Code><Message>not authorized to perform: sts:AssumeRole"
        "</Message></Error></ErrorResponse>",
    )
    async with scripted(refused) as sts, scripted(NO_TASKS) as ecs:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://{sts.address}")
        monkeypatch.setenv("AWS_ENDPOINT_URL_ECS", f"http://{ecs.address}")
        async with Aws() as aws:
            service = await aws.ecs(AwsTarget(AwsCredentials(assume_role_arn=ROLE)))
            with pytest.raises(AwsError) as caught:
                await service.describe_tasks("default", ["a"])
    assert caught.value.operation == "AssumeRole"
    assert classify(caught.value).kind is Kind.PERMANENT
    assert not ecs.requests
    assert SECRET not in caplog.text


@pytest.mark.usefixtures("keys")
async def test_a_role_that_asks_for_a_code_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    block = AwsCredentials(assume_role_arn=ROLE, assume_role_kwargs={"SerialNumber": "arn:aws:iam::1:mfa/me"})
    async with scripted(NO_TASKS) as server:
        with pytest.raises(UserError, match="MFA"):
            await ask(server, monkeypatch, AwsTarget(block))


# Errors


@pytest.mark.usefixtures("keys", "once")
@pytest.mark.parametrize(
    ("answer", "code", "status", "kind"),
    [
        (refusal("ThrottlingException", "Rate exceeded"), "ThrottlingException", 400, Kind.THROTTLE),
        (refusal("ServerException", "Service Unavailable.", 500), "ServerException", 500, Kind.AMBIGUOUS),
        (Answer(status=503, text="<html><body>Service Unavailable</body></html>"), "503", 503, Kind.AMBIGUOUS),
        (Answer(status=502, text=""), "502", 502, Kind.AMBIGUOUS),
        (Answer(disconnect=True), "ConnectionClosedError", None, Kind.AMBIGUOUS),
        (Answer(text="<html>Please log in to this network</html>"), "ResponseParserError", None, Kind.AMBIGUOUS),
        (Answer(text="[]"), "ResponseParserError", None, Kind.AMBIGUOUS),
        (Answer(body={}), "NoUsableAnswer", None, Kind.AMBIGUOUS),
        (refusal("ClusterNotFoundException", "Cluster not found."), "ClusterNotFoundException", 400, Kind.PERMANENT),
        (refusal("AccessDeniedException", "User is not authorized"), "AccessDeniedException", 400, Kind.PERMANENT),
    ],
)
async def test_answers_become_errors_of_ours(
    answer: Answer, code: str, status: int | None, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scripted(answer) as server:
        with pytest.raises(AwsError) as caught:
            await ask(server, monkeypatch)
    assert (caught.value.operation, caught.value.code, caught.value.status) == ("DescribeTasks", code, status)
    assert classify(caught.value).kind is kind


@pytest.mark.usefixtures("keys", "once")
@pytest.mark.parametrize("text", ["<html>Please log in</html>", "{}", ""])
async def test_a_proxys_page_is_no_launch_without_a_task(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken for an answer, it would be asked again with a new token, and might launch twice."""
    async with scripted(Answer(text=text)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.address}")
        async with Aws() as aws:
            ecs = await aws.ecs()
            with pytest.raises(AwsError) as caught:
                await ecs.run_task({"taskDefinition": "f"})
    assert classify(caught.value).kind is Kind.AMBIGUOUS


@pytest.mark.usefixtures("keys", "once")
async def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(NO_TASKS) as server:
        pass
    with pytest.raises(AwsError) as caught:
        await ask(server, monkeypatch)
    assert caught.value.code == "EndpointConnectionError"
    assert classify(caught.value).kind is Kind.AMBIGUOUS


@pytest.mark.usefixtures("keys", "once")
async def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hear_out(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()

    listener = await asyncio.start_server(hear_out, "127.0.0.1", 0)
    async with listener:
        host, port = listener.sockets[0].getsockname()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        async with Aws() as aws:
            ecs = await aws.ecs(AwsTarget(AwsCredentials(client_parameters={"config": {"read_timeout": 0.2}})))
            with pytest.raises(AwsError) as caught:
                await ecs.describe_tasks("default", ["a"])
    assert caught.value.code == "ReadTimeoutError"
    assert caught.value.status is None


@pytest.mark.usefixtures("keys")
async def test_a_conflict_names_the_task_that_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    arn = "arn:aws:ecs:eu-west-1:1:task/c/t"
    conflict = refusal("ConflictException", "The client token was used before.", 409, resourceIds=[arn])
    async with scripted(conflict) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.address}")
        async with Aws() as aws:
            ecs = await aws.ecs()
            with pytest.raises(AwsError) as caught:
                await ecs.run_task({"taskDefinition": "f", "clientToken": "t"})
    assert caught.value.resource_ids == (arn,)
    assert classify(caught.value).kind is Kind.CONFLICT


@pytest.mark.usefixtures("keys", "once")
async def test_texts_hold_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    message = (
        "The request signature we calculated does not match the signature you provided.\n\nThe Canonical String for "
        "this request should have been\n'POST\n/\n\nx-amz-security-token:hunter2\n'"
    )
    async with scripted(refusal("InvalidSignatureException", message, 403)) as server:
        with pytest.raises(AwsError) as caught:
            await ask(server, monkeypatch)
        assert "does not match" in str(caught.value)
        assert "hunter2" not in str(caught.value)
        environment = [{"name": "PREFECT_API_KEY", "value": ["hunter2"]}]
        override = {"containerOverrides": [{"name": "prefect", "environment": environment}]}
        async with Aws() as aws:
            ecs = await aws.ecs()
            with pytest.raises(AwsError) as refused:
                await ecs.run_task({"taskDefinition": "f", "overrides": override})
    assert refused.value.code == "ParamValidationError"
    assert "environment[0].value" in str(refused.value)
    assert "hunter2" not in str(refused.value)


# Throttles


@pytest.mark.usefixtures("keys")
async def test_throttles_that_botocore_retries_slow_us_down_too(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits()
    async with scripted(refusal("ThrottlingException", "Rate exceeded"), NO_TASKS) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.address}")
        async with Aws(limits=limits) as aws:
            ecs = await aws.ecs()
            await ecs.describe_tasks("default", ["a"])
            bucket = limits.bucket(ecs.target.key, "DescribeTasks")
            other = limits.bucket(ecs.target.key, "RunTask")
    assert len(server.requests) == 2
    assert bucket is not None
    assert other is not None
    assert bucket.per_second < 12
    assert other.per_second == 38


# Credentials turn over


def keys_of(number: int) -> AwsTarget:
    return AwsTarget(AwsCredentials(access_key_id=f"AKIA{number}", secret_access_key="s"), "us-east-1")


@pytest.mark.usefixtures("keys")
async def test_clients_that_nobody_uses_any_more_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    time = HandTime()
    async with scripted(NO_TASKS) as server, Aws(limits=Limits(clock=time)) as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.address}")
        own = await aws.ecs()
        old = [await aws.ecs(keys_of(number)) for number in range(3)]
        time.seconds += UNUSED_AFTER / 2
        await old[2].describe_tasks("default", ["a"])
        time.seconds += UNUSED_AFTER / 2 + 1
        new = await aws.ecs(keys_of(3))
        assert [service.closed for service in (own, *old, new)] == [False, True, True, False, False]
        with pytest.raises(AwsError, match="was closed"):
            await old[0].describe_tasks("default", ["a"])
        again = await aws.ecs(keys_of(0))
        assert await again.describe_tasks("default", ["a"]) == ([], [])


@pytest.mark.usefixtures("keys")
async def test_in_a_crowd_the_longest_unused_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    time = HandTime()
    async with scripted(NO_TASKS) as server, Aws(limits=Limits(clock=time)) as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.address}")
        services = [await aws.s3(keys_of(number)) for number in range(2)]
        time.seconds += IDLE_AFTER + 1
        services += [await aws.s3(keys_of(number)) for number in range(2, MOST_CLIENTS)]
        assert sum(service.closed for service in services) > 0
        assert services[0].closed
        assert not services[-1].closed


async def test_limits_count_by_account_whatever_the_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    async with AwsSimulator() as simulator, Aws() as aws:
        point_at(simulator.url, monkeypatch)
        simulator.accounts |= {"AKIA0": "111111111111", "AKIA1": "111111111111", "AKIA2": "222222222222"}
        for number in range(3):
            await aws.ecs(keys_of(number))
        first, same, other = (aws.part(keys_of(number), "DescribeTasks", 0.5) for number in range(3))
    assert first is same
    assert first is not other


@pytest.mark.usefixtures("keys")
async def test_fargate_s_own_launch_rate_counts_where_there_is_a_fargate(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call is made here: only turns are taken."""
    for endpoint, waited in (("https://ecs.us-east-1.amazonaws.com", True), ("http://127.0.0.1:1", False)):
        monkeypatch.setenv("AWS_ENDPOINT_URL_ECS", endpoint)
        time = HandTime()
        async with Aws(limits=Limits(share=1.0, clock=time)) as aws:
            ecs = await aws.ecs()
            for _ in range(60):
                await ecs.launch_turn(["FARGATE_SPOT"])
            assert (time.seconds > 0) is waited
            on_fargate = time.seconds
            for _ in range(40):
                await ecs.launch_turn(["EC2"])
            assert time.seconds == on_fargate  # the first hundred of ECS's own bucket


@pytest.mark.usefixtures("keys")
async def test_all_clients_are_closed_also_when_the_worker_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    services: list[Service] = []
    async with scripted(NO_TASKS) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.address}")
        with anyio.CancelScope() as life:
            async with Aws() as aws:
                services += [await aws.ecs(keys_of(number)) for number in range(3)]
                life.cancel()
                await anyio.sleep_forever()
    assert [service.closed for service in services] == [True] * 3
