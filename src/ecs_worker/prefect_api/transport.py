"""One HTTP connection pool to the Prefect API: authentication, CSRF, retries, and errors without secrets.

httpx logs each request at INFO; `ops.logging` keeps httpx's logger at WARNING.
"""

from __future__ import annotations

import base64
import json
import logging
import random
import re
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit
from uuid import uuid4

import anyio
import httpx
import tenacity
from anyio import Lock

from ecs_worker.errors import (
    PrefectError,
    PrefectNotFound,
    PrefectRejected,
    PrefectUnauthorized,
    PrefectUnavailable,
    PrefectUnreachable,
    UserError,
)
from ecs_worker.prefect_api.budget import CLOUD_PER_MINUTE, Budget

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from ecs_worker.settings import PrefectSettings

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

# What the official clients send. Servers refuse API versions before 0.8.0, and accept all later ones.
API_VERSION = "0.8.4"

_TIMEOUT = httpx.Timeout(30, connect=10)
# Prefect Cloud's load balancer drops idle connections after 30 s, uvicorn after 5 s by default.
# Few, since httpcore asks the kernel about every idle connection before each request. Eight are enough for over
# 100 requests per second; one more is for heartbeats.
_CONNECTIONS = 8
_LIMITS = httpx.Limits(max_connections=_CONNECTIONS + 1, max_keepalive_connections=_CONNECTIONS, keepalive_expiry=4)

# What the official clients retry. They don't retry 500 and 504.
_TRANSIENT = frozenset({408, 429, 502, 503})
# Every 404 from Prefect has one of these members. A proxy's 404, while the server restarts, has none, and doesn't mean
# that the object is missing.
_NOT_FOUND_WORDS = frozenset({"detail", "exception_message"})
_MAX_ATTEMPTS = 7
_MAX_MAINTENANCE_SECONDS = 300.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 16.0  # with SQLite a 503 (lock contention) passes within a second

# What a broken connection, or an answer that is no HTTP, comes as: httpx lets some of it through unnamed.
_BROKEN = (httpx.RequestError, ssl.SSLError, OSError, anyio.BrokenResourceError, anyio.EndOfStream)
_MOST_BYTES = 64 * 1024 * 1024  # of one answer; 200 flow runs with large parameters take a tenth of it
_OF_THE_BODY = frozenset({"content-encoding", "content-length", "transfer-encoding"})

_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_CLOUD_PATH = re.compile(r"/accounts/[^/]+/workspaces/[^/]+")
_REASON_LENGTH = 300


@dataclass(frozen=True, slots=True)
class ServerTime:
    """`told`: what the server's clock said, in whole seconds, between `asked` and `answered` by ours. None: nothing."""

    told: datetime | None
    asked: datetime
    answered: datetime


class Transport:
    """Sends requests to the Prefect API, with time-outs and bounded retries.

    The constructor raises UserError for a setting that can't be sent. All methods raise only PrefectError.
    """

    def __init__(self, settings: PrefectSettings, version: str, patience_seconds: float) -> None:
        parts = urlsplit(settings.api_url)
        address = parts.netloc.rpartition("@")[2]
        self.base_url = urlunsplit((parts.scheme, address, parts.path.rstrip("/"), "", ""))
        self.is_cloud = bool(_CLOUD_PATH.search(parts.path))
        self.headers = _headers(settings, version, parts.username, parts.password)
        self.ssl = _ssl_context(settings) if parts.scheme == "https" else None
        self.token = _token(settings)
        self._secrets = _secrets(settings, parts.password)
        self._patience_seconds = patience_seconds
        self._csrf = _Csrf(wanted=settings.client_csrf_support_enabled and not self.is_cloud)
        # httpcore goes through its whole queue whenever a request begins or ends. So requests wait here, not there.
        self._answered_at: float | None = None
        self.budget = Budget(_CONNECTIONS, CLOUD_PER_MINUTE if self.is_cloud else None)
        self._client = httpx.AsyncClient(
            headers=self.headers,
            timeout=_TIMEOUT,
            limits=_LIMITS,
            # Loading the CA bundle takes 20 ms, and plain HTTP needs none; this empty context trusts nobody.
            verify=self.ssl or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    @property
    def answered_ago(self) -> float | None:
        """Seconds since the API, or a proxy before it, answered last, whatever it said; None: it never did."""
        return time.monotonic() - self._answered_at if self._answered_at is not None else None

    async def answers(self) -> bool:
        """Whether the API answers, even with "not found": one attempt, without authentication."""
        try:
            response = await self._client.get(f"{self.base_url}/health")
        except _BROKEN:
            return False
        return response.status_code < httpx.codes.INTERNAL_SERVER_ERROR

    async def server_time(self) -> ServerTime:
        """The server's clock, by its answer to one request without authentication. Raises PrefectError.

        PrefectUnreachable: no answer; PrefectUnavailable: a server error.
        """
        asked = datetime.now(UTC)
        try:
            response = await self._client.get(f"{self.base_url}/health")
        except _BROKEN as failure:
            what = self._redacted(str(failure) or type(failure).__name__)
            raise PrefectUnreachable(f"no answer from {self.base_url}: {what}") from failure
        answered = datetime.now(UTC)
        if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise PrefectUnavailable(f"GET /health answered {response.status_code}")
        return ServerTime(_date(response.headers.get("Date", "")), asked, answered)

    async def get(self, path: str, read: Callable[[Any], _T]) -> _T:
        """What `read` makes of the JSON answer to a GET."""
        return _read(await self._request("GET", path, None), read)

    async def post(
        self, path: str, body: Any, read: Callable[[Any], _T], *, patience_seconds: float | None = None
    ) -> _T:
        """What `read` makes of the JSON answer to a POST. `patience_seconds` overrides the client's own."""
        return _read(await self._request("POST", path, body, patience_seconds), read)

    async def tell(self, method: str, path: str, body: Any) -> None:
        """Send a body. The content of the answer is not read."""
        await self._request(method, path, body)

    async def _request(
        self, method: str, path: str, body: Any, patience_seconds: float | None = None
    ) -> httpx.Response:
        # Encoded once: every attempt sends the same bytes, which makes claims idempotent.
        content = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        if method != "GET":
            await self._ensure_csrf()
        try:
            patience = self._patience_seconds if patience_seconds is None else patience_seconds
            return await _retrying(patience)(self._attempt, method, path, content)
        except _Again as again:
            raise again.error from again.__cause__

    async def _attempt(self, method: str, path: str, content: bytes | None) -> httpx.Response:
        response = await self._send(method, path, content)
        if response.status_code == httpx.codes.FORBIDDEN and self._csrf.wanted and b"CSRF" in response.content:
            await self._ensure_csrf(instead_of=response.request.headers.get("Prefect-Csrf-Token", ""))
            response = await self._send(method, path, content)
        if response.is_success:
            return response
        error = self._error(method, path, response)
        if isinstance(error, PrefectUnavailable):
            after = _retry_after(response)
            if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                self.budget.refused(after)
            elif after is not None:
                self.budget.closed(after)
            raise _Again(error, after, maintenance=response.headers.get("Prefect-Maintenance") == "true")
        raise error

    async def _send(self, method: str, path: str, content: bytes | None) -> httpx.Response:
        headers = {"Content-Type": "application/json"} if content is not None else {}
        if method != "GET":
            headers |= self._csrf.headers
        try:
            request = self._client.build_request(method, self.base_url + path, content=content, headers=headers)
            async with self.budget.turn():
                return await self._answer(request)
        except _BROKEN as failure:
            what = self._redacted(str(failure) or type(failure).__name__)
            message = f"{method} {path}: no answer from {self.base_url}: {what}"
            if "CERTIFICATE_VERIFY_FAILED" in what:  # another attempt would fail in the same way
                raise PrefectUnreachable(f"{message}. PREFECT_API_SSL_CERT_FILE names the CA to trust.") from failure
            raise _Again(PrefectUnreachable(message)) from failure

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        """The answer with its body, which is read only up to `_MOST_BYTES`: a proxy may send anything."""
        response = await self._client.send(request, stream=True)
        self._answered_at = time.monotonic()
        try:
            length = response.headers.get("Content-Length", "")
            if length.isdecimal() and int(length) <= _MOST_BYTES and "Content-Encoding" not in response.headers:
                await response.aread()
                return response
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise httpx.ReadError(f"the answer has more than {_MOST_BYTES} bytes", request=request)
        finally:
            await response.aclose()
        kept = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _OF_THE_BODY]
        return httpx.Response(response.status_code, headers=kept, content=bytes(body), request=request)

    async def _ensure_csrf(self, instead_of: str | None = None) -> None:
        """Fetch the CSRF token if the server has CSRF protection, once for all requests that wait for it.

        A new token makes the client's older one invalid. So there is one client id, and one refresh at a time.
        `instead_of` is the token that the server has just refused.
        """
        csrf = self._csrf
        if not csrf.wanted or (instead_of is None and not csrf.stale):
            return
        async with csrf.lock:
            if not csrf.stale if instead_of is None else csrf.token != instead_of:
                return  # another request has fetched a new one meanwhile
            try:
                token, expiration = await self.get(f"/csrf-token?client={csrf.client}", _csrf_token)
            except PrefectNotFound:
                csrf.off()
            except PrefectRejected as rejected:
                if rejected.status != httpx.codes.UNPROCESSABLE_ENTITY:
                    raise
                csrf.off()
            else:
                csrf.take(token, expiration)

    def _error(self, method: str, path: str, response: httpx.Response) -> PrefectError:
        status = response.status_code
        message = f"{method} {path} answered {status}"
        if reason := _reason(response):
            message = f"{message}: {self._redacted(reason)}"
        if status in _TRANSIENT:
            return PrefectUnavailable(message)
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            return PrefectUnauthorized(message)
        if status == httpx.codes.NOT_FOUND:
            if _body(response).keys() & _NOT_FOUND_WORDS:
                return PrefectNotFound(message)
            return PrefectUnavailable(f"{message}, but not from Prefect; if that lasts, is PREFECT_API_URL right?")
        return PrefectRejected(message, status)

    def _redacted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "********")
        return text


class _Again(Exception):
    """An attempt failed, and another may succeed. `error` is raised after the last attempt."""

    def __init__(self, error: PrefectError, after: float | None = None, *, maintenance: bool = False) -> None:
        self.error = error
        self.after = after
        self.maintenance = maintenance
        super().__init__()


def _retrying(patience_seconds: float) -> tenacity.AsyncRetrying:
    """Retries, bounded in number and time. During announced maintenance they go on for longer."""

    def enough(state: tenacity.RetryCallState) -> bool:
        elapsed = (state.seconds_since_start or 0) + state.upcoming_sleep
        if _failure(state).maintenance:
            return elapsed > max(_MAX_MAINTENANCE_SECONDS, patience_seconds)
        return state.attempt_number >= _MAX_ATTEMPTS or elapsed > patience_seconds

    # One per request: tenacity keeps a call's state in the object.
    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(_Again), wait=_pause, stop=enough, before_sleep=_log_retry, reraise=True
    )


def _failure(state: tenacity.RetryCallState) -> _Again:
    failure = state.outcome.exception() if state.outcome else None
    assert isinstance(failure, _Again)  # we only retry after _Again
    return failure


def _pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next attempt: what the server asks for, else exponential. Jitter keeps clients apart."""
    failure = _failure(state)
    if failure.after is not None:
        return failure.after * random.uniform(1, 1.2)  # noqa: S311 - jitter, not cryptography
    exponential = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (state.attempt_number - 1))
    return exponential * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not cryptography


def _log_retry(state: tenacity.RetryCallState) -> None:
    logger.debug(
        "%s; attempt %d follows in %.1f s", _failure(state).error, state.attempt_number + 1, state.upcoming_sleep
    )


class _Csrf:
    """The CSRF token of this process. It is off for servers without CSRF protection."""

    def __init__(self, *, wanted: bool) -> None:
        self.wanted = wanted
        self.lock = Lock()
        self.client = str(uuid4())
        self.token = ""
        self._fresh_until: datetime | None = None
        self._off = False

    @property
    def stale(self) -> bool:
        """Whether a token is needed, and there is none that will still be valid when the request arrives."""
        if self._off:
            return False
        return self._fresh_until is None or datetime.now(UTC) >= self._fresh_until

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of a request that changes something."""
        return {"Prefect-Csrf-Token": self.token, "Prefect-Csrf-Client": self.client} if self.token else {}

    def take(self, token: str, expiration: datetime) -> None:
        """Use a new token until a minute before it expires."""
        self.token, self._fresh_until, self._off = token, expiration - timedelta(minutes=1), False

    def off(self) -> None:
        """Send no tokens until the server asks for one: a restart may turn the protection on."""
        self.token, self._off = "", True


def _headers(settings: PrefectSettings, version: str, user: str | None, password: str | None) -> dict[str, str]:
    """The headers of every request. The auth string wins over the key, and both over the URL's user:password."""
    headers = {
        **settings.client_custom_headers,
        "User-Agent": f"ecs-worker/{version}",
        "X-PREFECT-API-VERSION": API_VERSION,
        "Accept": "application/json",
    }
    if settings.api_auth_string is not None:
        headers["Authorization"] = _basic(settings.api_auth_string.get_secret_value())
    elif settings.api_key is not None:
        headers["Authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
    elif user is not None:
        headers["Authorization"] = _basic(f"{unquote(user)}:{unquote(password or '')}")
    for name, value in headers.items():
        if not _PRINTABLE.fullmatch(name) or not _PRINTABLE.fullmatch(value):
            where = "PREFECT_API_KEY" if name == "Authorization" else f"PREFECT_CLIENT_CUSTOM_HEADERS ({name!r})"
            raise UserError(f"{where} holds a line break or another character that no HTTP header may hold: remove it.")
    return headers


def _basic(user_and_password: str) -> str:
    return f"Basic {base64.b64encode(user_and_password.encode()).decode()}"


def _token(settings: PrefectSettings) -> str | None:
    """The secret with which WebSockets authenticate."""
    secret = settings.api_auth_string or settings.api_key
    return secret.get_secret_value() if secret is not None else None


def _secrets(settings: PrefectSettings, password: str | None) -> tuple[str, ...]:
    given = [secret.get_secret_value() for secret in (settings.api_auth_string, settings.api_key) if secret is not None]
    if settings.api_auth_string is not None:
        given.append(settings.api_auth_string.get_secret_value().partition(":")[2])
        given.append(_basic(settings.api_auth_string.get_secret_value()).removeprefix("Basic "))
    given += [password or "", unquote(password or ""), *settings.client_custom_headers.values()]
    return tuple(secret for secret in given if secret)


def _ssl_context(settings: PrefectSettings) -> ssl.SSLContext:
    if settings.api_tls_insecure_skip_verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if settings.api_ssl_cert_file is None:
        return httpx.create_ssl_context()  # SSL_CERT_FILE and SSL_CERT_DIR, or certifi's bundle
    try:
        return ssl.create_default_context(cafile=settings.api_ssl_cert_file)
    except OSError as error:
        raise UserError(
            f"PREFECT_API_SSL_CERT_FILE is {str(settings.api_ssl_cert_file)!r}, but that file can't be used: {error}. "
            "It should hold CA certificates in PEM format."
        ) from error


def _date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds to wait (RFC 9110, section 10.2.3: a number, or a date)."""
    value = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date - datetime.now(date.tzinfo)).total_seconds())


def _read(response: httpx.Response, read: Callable[[Any], _T]) -> _T:
    what = f"{response.request.method} {response.request.url.path} answered {response.status_code}"
    try:
        decoded = json.loads(response.content)
    except ValueError:
        raise PrefectRejected(
            f"{what} without JSON: is PREFECT_API_URL right? It ends in /api, or in /workspaces/… on Cloud.",
            response.status_code,
        ) from None
    try:
        return read(decoded)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # The error's text may quote the answer, which may be a block with secrets. So only the error's type is shown.
        raise PrefectRejected(
            f"{what} with something that this worker can't read ({type(error).__name__}).", response.status_code
        ) from None


def _csrf_token(answer: Mapping[str, str]) -> tuple[str, datetime]:
    return answer["token"], datetime.fromisoformat(answer["expiration"])


def _reason(response: httpx.Response) -> str:
    """The API's own short reason. Never the whole body: that of a 422 repeats the request."""
    if response.is_redirect:
        target = urlsplit(response.headers.get("Location", ""))
        where = f"{target.scheme}://{target.netloc.rpartition('@')[2]}{target.path}"
        return f"it redirects to {where}; is PREFECT_API_URL right?"
    body = _body(response)
    reason = body.get("exception_detail") or body.get("detail") or body.get("exception_message")
    if isinstance(reason, list):
        reason = "; ".join(_problem(entry) for entry in reason if isinstance(entry, dict))
    return reason[:_REASON_LENGTH] if isinstance(reason, str) else ""


def _body(response: httpx.Response) -> Mapping[str, Any]:
    """The JSON object of the answer; empty if the answer is something else."""
    try:
        body = json.loads(response.content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _problem(entry: Mapping[str, Any]) -> str:
    """One validation problem: where and what. The member `input` repeats the request, so it is left out."""
    place = ".".join(str(part) for part in entry.get("loc") or ())
    return f"{place}: {entry.get('msg', '')}"
