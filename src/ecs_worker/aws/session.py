"""One AWS session for the worker's whole life, and one client per service and target.

Making a client takes tens of milliseconds and megabytes of memory, and it keeps its connections. So each is made
once, on first use, and closed with the session, or when nobody has used it for long: blocks' credentials turn over.
"""

from __future__ import annotations

import gzip
import json
import logging
import math
import os
import re
import uuid
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import aioboto3
import anyio
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioAssumeRoleCredentialFetcher, AioDeferredRefreshableCredentials
from aiobotocore.session import AioSession
from botocore import UNSIGNED
from botocore.credentials import CredentialProvider
from botocore.exceptions import (
    BotoCoreError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    RefreshWithMFAUnsupportedError,
)
from botocore.loaders import JSONFileLoader, create_loader
from botocore.utils import is_valid_endpoint_url

from ecs_worker import __version__
from ecs_worker.aws.cloudformation import CloudFormation
from ecs_worker.aws.ec2 import Ec2
from ecs_worker.aws.ecs import Ecs
from ecs_worker.aws.errors import translated
from ecs_worker.aws.iam import Iam
from ecs_worker.aws.limits import Limits
from ecs_worker.aws.logs import Logs
from ecs_worker.aws.s3 import S3
from ecs_worker.aws.secrets import Secrets
from ecs_worker.aws.service import Service
from ecs_worker.aws.sqs import LONG_POLL, Sqs
from ecs_worker.aws.sts import Sts
from ecs_worker.errors import AwsError, UserError
from ecs_worker.model import AwsCredentials, AwsTarget
from ecs_worker.verdicts.classify import is_throttle

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence
    from types import TracebackType

    from ecs_worker.aws.limits import Bucket

log = logging.getLogger(__name__)

# Seconds. With the standard three attempts a call answers or fails within about 90 seconds.
_CONNECT_TIMEOUT = 5
_READ_TIMEOUT = 20
# A long poll is answered after its time at the latest.
_LONG_POLL_TIMEOUT = LONG_POLL + 10
# Per client. More calls at once wait in the pool without a bound, so it is wider than what we start at once.
_CONNECTIONS = 100

# Checked here, so that a wrong one stops the worker at its start; of others botocore complains on first use.
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_ECS")
_OWN = AwsTarget()
_ROLE = re.compile(r"arn:[\w-]+:iam::(?P<account>\d+):role/")
_ACCOUNT_TIMEOUT = 5.0  # seconds; in a private network STS may be out of reach
_CLOSED_WITHIN = 2.0  # seconds for all clients; ECS kills a worker 30 s after SIGTERM, and 27 may be over by now
_ACCOUNT_AGAIN = 600.0  # seconds after which STS is asked again when it didn't answer
MOST_CLIENTS = 50  # beside those with the worker's own credentials
IDLE_AFTER = 60.0  # seconds without a call, from which on a client may be closed when there are more than that
UNUSED_AFTER = 900.0  # seconds without a call, from which on it is closed in any case
_S = TypeVar("_S", bound=Service)


class Aws:
    """AWS as this worker sees it. An async context manager; all clients are closed when it ends.

    `limits` are the request budgets that all clients share.
    """

    def __init__(self, *, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._clients: dict[tuple[str, AwsTarget], AsyncExitStack] = {}
        self._sessions: dict[str, aioboto3.Session] = {}
        self._services: dict[tuple[str, AwsTarget], Service] = {}
        self._accounts: dict[str, str] = {}  # by the credentials' fingerprint
        self._silent_until = -math.inf  # STS did not answer
        self._making: dict[tuple[str, AwsTarget], anyio.Lock] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.move_on_after(_CLOSED_WITHIN, shield=True):  # also when the worker is broken off
            async with AsyncExitStack() as clients:
                for key in tuple(self._services):
                    clients.push_async_callback(self._close, key)

    async def check(self, target: AwsTarget = _OWN) -> None:
        """Raise UserError unless there are credentials and a Region for the target, and usable endpoint URLs.

        It calls AWS only where the credentials are those of a role (of a profile, a container or an instance).
        """
        for name in _ENDPOINTS:
            url = os.environ.get(name)
            if url and not (url.startswith("http") and is_valid_endpoint_url(url)):
                raise UserError(
                    f"{name} is {url!r}, which is no URL: write it like http://127.0.0.1:4566, or unset it."
                )
        try:
            with translated("credentials"):
                session = self._session(target.credentials)
                if not (target.region or session.region_name):
                    raise NoRegionError
                if await session.get_credentials() is None:
                    raise NoCredentialsError
        except AwsError as error:
            raise UserError(f"The AWS credentials can't be fetched: {error.message}") from error

    def region(self, target: AwsTarget = _OWN) -> str | None:
        """The Region that calls to `target` go to. None: no Region is configured."""
        with translated("region"):
            configured: str | None = self._session(target.credentials).region_name
        return target.region or configured

    async def account(self, target: AwsTarget = _OWN) -> str:
        """The account that the target's credentials belong to; empty if that can't be told now. Asked once each."""
        key = target.key[0]
        role = target.credentials.assume_role_arn if target.credentials is not None else None
        if role and (named := _ROLE.match(role)) is not None:
            return named["account"]
        if key not in self._accounts and self._limits.clock.now() >= self._silent_until:
            try:
                with anyio.fail_after(_ACCOUNT_TIMEOUT):
                    self._accounts[key] = await (await self._service(Sts, target)).account()
            except TimeoutError:
                self._silent_until = self._limits.clock.now() + _ACCOUNT_AGAIN
                log.debug("STS doesn't answer: whose credentials these are can't be told.")
            except (AwsError, UserError) as error:
                log.debug("STS doesn't tell whose credentials these are: %s", error)
        return self._accounts.get(key, "")

    def partition(self, region: str) -> str:
        """The partition that the Region belongs to: `aws`, `aws-cn` … Raises UserError if there is no such Region."""
        with translated("partition"):
            return str(self._session(None).get_partition_for_region(region))

    async def ecs(self, target: AwsTarget = _OWN) -> Ecs:
        """ECS in that account and Region."""
        return await self._service(Ecs, target)

    async def ecs_endpoint(self) -> str:
        """The URL that the worker's own calls to ECS go to. Raises UserError or AwsError if it has none."""
        return (await self.ecs()).endpoint

    async def logs(self, target: AwsTarget = _OWN) -> Logs:
        """CloudWatch Logs in that account and Region."""
        return await self._service(Logs, target)

    async def ec2(self, target: AwsTarget = _OWN) -> Ec2:
        """EC2 in that account and Region."""
        return await self._service(Ec2, target)

    async def sqs(self, target: AwsTarget = _OWN) -> Sqs:
        """SQS in that account and Region."""
        return await self._service(Sqs, target)

    async def iam(self, target: AwsTarget = _OWN) -> Iam:
        """IAM of that account."""
        return await self._service(Iam, target)

    async def cloudformation(self, target: AwsTarget = _OWN) -> CloudFormation:
        """CloudFormation in that account and Region."""
        return await self._service(CloudFormation, target)

    async def secrets(self, target: AwsTarget = _OWN) -> Secrets:
        """Secrets Manager in that account and Region."""
        return await self._service(Secrets, target)

    async def s3(self, target: AwsTarget = _OWN) -> S3:
        """S3 for that account."""
        return await self._service(S3, target)

    def answers(self) -> dict[str, float | None]:
        """Seconds since each service of each account and Region in use answered last; None: it never did.

        An account that isn't known goes by a name for its credentials, `own` by those of the worker.
        """
        now, found = self._limits.clock.now(), dict[str, float | None]()
        for (name, target), service in self._services.items():
            account, region = self._budget(target)
            at = service.answered_at
            found[f"{name} {region} {account or 'own'}"] = round(now - at, 1) if at is not None else None
        return found

    def part(self, target: AwsTarget, operation: str, share: float) -> Bucket:
        """The bucket with that share (0 to 1) of the account's limit on the operation; `Limits.part`."""
        return self._limits.part(self._budget(target), operation, share)

    def shared_by(self, workers: int) -> None:
        """So many workers of the pool live: AWS's limits are for all of them."""
        self._limits.shared_by(workers)

    def _budget(self, target: AwsTarget) -> tuple[str, str]:
        """Equal for what counts against the same limits: an account and a Region, whatever the credentials."""
        return self._accounts.get(target.key[0], "") or target.key[0], self.region(target) or ""

    async def _service(self, kind: type[_S], target: AwsTarget) -> _S:
        # With its Region written out: no Region and the worker's own Region then share clients and limits.
        target = replace(target, region=self.region(target))
        key = (kind.name, target)
        if key not in self._services:
            async with self._making.setdefault(
                key, anyio.Lock()
            ):  # one client, even for two first users at the same time
                if key not in self._services:
                    if target.credentials is not None and kind is not Sts:
                        await self.account(target)
                    await self._close_unused()
                    with translated(f"{kind.name} client"):
                        client = await self._client(kind.name, target)
                        self._services[key] = kind(client, target, self._limits, self._budget(target))
        service = self._services[key]
        assert isinstance(service, kind), "each kind has a name of its own"
        return service

    async def _client(self, name: str, target: AwsTarget) -> Any:
        session = self._session(target.credentials)
        # It reads hundreds of paths: not on the event loop.
        await anyio.to_thread.run_sync(_models().load_service_model, name, "service-2")
        try:
            parameters = _client_parameters(name, target.credentials)
            made = session.client(name, region_name=target.region, **parameters)
            stack = AsyncExitStack()
            client = await stack.enter_async_context(made)
        except (TypeError, ValueError) as error:  # from botocore, for unknown options and bad URLs
            if isinstance(error, BotoCoreError):
                raise
            raise UserError(
                f"The AWS settings can't be used: {error}. Correct AWS_ENDPOINT_URL, or the aws-credentials block."
            ) from None
        self._clients[name, target] = stack
        client.meta.events.register("response-received", partial(_slow_down, self._limits, self._budget(target)))
        return client

    async def _close_unused(self) -> None:
        """Close clients of blocks' credentials that nobody uses any more, the longest unused first."""
        now = self._limits.clock.now()
        theirs = [key for key in self._services if key[1].credentials is not None]
        theirs.sort(key=lambda key: self._services[key].used_at)
        for number, key in enumerate(theirs):
            service = self._services[key]
            idle = now - service.used_at
            crowded = len(theirs) - number >= MOST_CLIENTS
            if not service.calls and (idle > UNUSED_AFTER or (crowded and idle > IDLE_AFTER)):
                await self._close(key)

    async def _close(self, key: tuple[str, AwsTarget]) -> None:
        service = self._services.pop(key)
        service.closed = True
        self._making.pop(key, None)
        await self._clients.pop(key).aclose()
        fingerprint = key[1].key[0]
        if fingerprint and not any(target.key[0] == fingerprint for _, target in self._services):
            self._sessions.pop(fingerprint, None)
            self._accounts.pop(fingerprint, None)

    def _session(self, credentials: AwsCredentials | None) -> aioboto3.Session:
        key = credentials.fingerprint if credentials else ""
        if key not in self._sessions:
            self._sessions[key] = aioboto3.Session(botocore_session=_new_session(credentials))
        return self._sessions[key]


@cache
def _models() -> Any:
    """Botocore's service models and endpoints, parsed once for all sessions."""
    loader = create_loader(AioSession().get_config_variable("data_path"))
    loader.file_loader = _LeanModels()
    return loader


class _LeanModels(JSONFileLoader):  # type: ignore[misc] # botocore has no types
    """Service models without their documentation: EC2's alone would take 13 MB instead of 7."""

    def load_file(self, file_path: str) -> Any:
        """The parsed file, or None if there is none. `file_path` has no ending."""
        for ending, open_file in ((".json", open), (".json.gz", gzip.open)):
            with suppress(FileNotFoundError), open_file(file_path + ending, "rb") as file:
                return json.loads(file.read().decode(), object_pairs_hook=_without_documentation)
        return None


def _without_documentation(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    # Some models must have the member, so it stays, but empty.
    return {name: "" if name == "documentation" and isinstance(value, str) else value for name, value in pairs}


def _slow_down(limits: Limits, account: Hashable, event_name: str, parsed_response: Any, **_: object) -> None:
    """Botocore hook, called for every answer, even for those after which botocore tries again by itself."""
    error = (parsed_response or {}).get("Error")
    if error and is_throttle(str(error.get("Code", "")), str(error.get("Message", ""))):
        bucket = limits.bucket(account, event_name.rpartition(".")[2])
        if bucket is not None:
            bucket.penalise()


def _new_session(credentials: AwsCredentials | None) -> AioSession:
    session = _plain_session(credentials)
    if credentials is None or not credentials.assume_role_arn:
        return session
    role = _AssumedRole(session, credentials.assume_role_arn, credentials.assume_role_kwargs)
    assumed = _plain_session(AwsCredentials(profile_name=credentials.profile_name))
    assumed.get_component("credential_provider").providers.insert(0, role)
    return assumed


def _plain_session(credentials: AwsCredentials | None) -> AioSession:
    session = AioSession(profile=credentials.profile_name if credentials else None)
    session.register_component("data_loader", _models())
    # botocore only reads AWS_DEFAULT_REGION and the profile, but ECS and Lambda set AWS_REGION.
    if not session.get_config_variable("region") and (region := os.environ.get("AWS_REGION")):
        session.set_config_variable("region", region)
    session.set_default_client_config(_config(session))
    if credentials and (credentials.access_key_id or credentials.secret_access_key):
        if not (credentials.access_key_id and credentials.secret_access_key):
            missing = "secret_access_key" if credentials.access_key_id else "access_key_id"
            raise PartialCredentialsError(provider="aws-credentials block", cred_var=missing)
        session.set_credentials(credentials.access_key_id, credentials.secret_access_key, credentials.session_token)
    return session


def _config(session: AioSession) -> AioConfig:
    chosen = os.environ.get("AWS_RETRY_MODE") or session.get_scoped_config().get("retry_mode")
    return AioConfig(
        connect_timeout=_CONNECT_TIMEOUT,
        read_timeout=_READ_TIMEOUT,
        max_pool_connections=_CONNECTIONS,
        tcp_keepalive=True,
        user_agent_extra=f"ecs-worker/{__version__}",
        retries=None if chosen else {"mode": "standard"},
    )


class _AssumedRole(CredentialProvider):  # type: ignore[misc] # botocore has no types
    """A block's role, assumed on first use and again before its credentials expire."""

    METHOD = "aws-credentials-block"

    def __init__(self, source: AioSession, arn: str, kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self._source = source
        self._arn = arn
        # CloudTrail shows the session name. prefect-aws names its sessions like this.
        self._kwargs = {"RoleSessionName": f"prefect-session-{uuid.uuid4().hex[:8]}", **kwargs}

    async def load(self) -> AioDeferredRefreshableCredentials:
        """The role's credentials, not fetched yet."""
        source = await self._source.get_credentials()
        if source is None:
            raise NoCredentialsError
        fetcher = AioAssumeRoleCredentialFetcher(
            client_creator=self._source.create_client,
            source_credentials=source,
            role_arn=self._arn,
            extra_args=self._kwargs,
            mfa_prompter=self._mfa_code,
        )
        return AioDeferredRefreshableCredentials(refresh_using=fetcher.fetch_credentials, method=self.METHOD)

    def _mfa_code(self, _prompt: str) -> str:
        """In place of botocore's own prompt, which would wait at a terminal that nobody watches."""
        code = self._kwargs.get("TokenCode")
        if not code:
            raise RefreshWithMFAUnsupportedError
        return str(code)


def _client_parameters(service: str, credentials: AwsCredentials | None) -> dict[str, Any]:
    """`create_client`'s arguments from a block's `aws_client_parameters`."""
    given = {
        name: value
        for name, value in (credentials.client_parameters if credentials else {}).items()
        if value is not None
    }
    known: dict[str, Any] = {name: given[name] for name in ("endpoint_url", "use_ssl", "verify") if name in given}
    if path := given.get("verify_cert_path"):
        known["verify"] = str(path)
    if service == "ecs" and "api_version" in given:  # each service has versions of its own
        known["api_version"] = given["api_version"]
    config = dict(given.get("config") or {})
    if config.get("signature_version") == "unsigned":
        config["signature_version"] = UNSIGNED
    if service == Sqs.name:
        config["read_timeout"] = _LONG_POLL_TIMEOUT
    if config:
        known["config"] = AioConfig(**config)
    return known
