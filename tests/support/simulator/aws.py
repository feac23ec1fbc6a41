"""The AWS simulator: ECS, CloudWatch Logs, EC2, STS and SQS over real HTTP, with faults on request."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from aiohttp import ClientSession, TCPConnector, web
from pydantic import TypeAdapter

from support.simulator.clock import Clock
from support.simulator.control import PREFIX, Control
from support.simulator.ecs import Ecs
from support.simulator.faults import Call, ConnectionDropped, Director, Fault, Injected, Pause, Point, What
from support.simulator.logs import Logs
from support.simulator.network import Ec2, Sts
from support.simulator.service import (
    AWS_LIMITS,
    FARGATE_LIMITS,
    SMALL_REGION_LIMITS,
    Buckets,
    Ids,
    Limit,
    Place,
    ServiceError,
)
from support.simulator.shapes import Problem, input_problems, output_problems, xml_answer
from support.simulator.sqs import EventFeed, Sqs
from support.simulator.tasks import ScriptRule, TaskScript

if TYPE_CHECKING:
    from types import TracebackType

    from support.simulator.fleet import Task

ACCOUNT = "123456789012"
REGION = "us-east-1"
LIMITS: dict[str, dict[str, Limit]] = {
    "off": {},
    "aws": AWS_LIMITS,
    "aws-fargate": AWS_LIMITS | FARGATE_LIMITS,
    "aws-fargate-small": AWS_LIMITS | SMALL_REGION_LIMITS,
}
_TARGETS = {"AmazonEC2ContainerServiceV20141113": "ecs", "Logs_20140328": "logs", "AmazonSQS": "sqs"}
_VERSIONS = {"2016-11-15": "ec2", "2011-06-15": "sts"}
_CREDENTIAL = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/")
# SQS moved from XML to JSON and still tells SDKs the old error codes in a header.
_OLD_SQS_CODES = {"QueueDoesNotExist": "AWS.SimpleQueueService.NonExistentQueue"}
_SUBJECTS = ("startedBy", "task", "family", "taskDefinition", "logStreamName", "resourceArn", "QueueName", "QueueUrl")


class Site:
    """The services of one account in one Region."""

    def __init__(
        self, place: Place, clock: Clock, ids: Ids, limits: dict[str, Limit], accounts: dict[str, str]
    ) -> None:
        self.place = place
        self.buckets = Buckets(clock, limits)
        self.logs = Logs(place, clock, ids)
        self.sqs = Sqs(place, clock, ids)
        self.ecs = Ecs(place, clock, ids, self.buckets, self.logs, self.sqs)
        self.ec2 = Ec2(place)
        self.sts = Sts(place, clock, ids, accounts)
        self.services: dict[str, Ecs | Logs | Sqs | Ec2 | Sts] = {
            service.service: service for service in (self.ecs, self.logs, self.sqs, self.ec2, self.sts)
        }


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, read."""

    service: str
    action: str
    params: dict[str, Any]
    text: str
    access_key: str
    region: str

    @property
    def subject(self) -> str:
        first, *_ = self.params.get("logStreamNames") or ("",)
        return next((str(self.params[key]) for key in _SUBJECTS if self.params.get(key)), first)


class AwsSimulator:
    """One endpoint for all services. Use it as `async with AwsSimulator() as aws:` and point clients at `aws.url`.

    `speed`: simulated seconds in a real one. `seed` decides faults, identifiers and disorder. `limits`: a name in
    LIMITS, or buckets of your own. `check_answers` compares each answer with botocore's model and gathers what
    differs in `violations`. `accounts`: access key → account; any other key acts in ACCOUNT.
    `expired`: access keys that AWS doesn't take any more.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        seed: int = 0,
        speed: float = 1.0,
        limits: str | dict[str, Limit] = "off",
        check_answers: bool = False,
    ) -> None:
        self.clock = Clock(speed)
        self.director = Director(seed)
        self.accounts: dict[str, str] = {}
        self.expired: set[str] = set()
        self.violations: list[str] = []
        self._port = port
        self._seed = seed
        self._limits = LIMITS[limits] if isinstance(limits, str) else limits
        self._check_answers = check_answers
        self._sites: dict[Place, Site] = {}
        self._http: ClientSession | None = None
        self._control = Control(self.director, _controls(self))
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=1.0)

    # -- life -------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=1024)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self._http = ClientSession(connector=TCPConnector(limit=0))
        for known in self._sites.values():
            known.ecs.fleet.http = self._http
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.director.close()
        self.clock.close()
        for site in self._sites.values():
            await site.ecs.fleet.close()
        await self._runner.cleanup()
        if self._http is not None:
            await self._http.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    # -- what tests say and ask -------------------------------------------------------

    def site(self, region: str = REGION, account: str = ACCOUNT) -> Site:
        place = Place(account, region)
        if place not in self._sites:
            ids = Ids(f"{self._seed}/{account}/{region}")
            site = Site(place, self.clock, ids, self._limits, self.accounts)
            site.ecs.fleet.http = self._http
            self._sites[place] = site
        return self._sites[place]

    @property
    def sites(self) -> list[Site]:
        """All places that were asked, or made."""
        return list(self._sites.values())

    @property
    def ecs(self) -> Ecs:
        return self.site().ecs

    @property
    def logs(self) -> Logs:
        return self.site().logs

    @property
    def sqs(self) -> Sqs:
        return self.site().sqs

    @property
    def ec2(self) -> Ec2:
        return self.site().ec2

    @property
    def calls(self) -> list[Call]:
        return self.director.calls

    @property
    def launched(self) -> list[Task]:
        """Every task that ever was, in all places."""
        return [task for site in self.sites for task in site.ecs.fleet.launched]

    def fault(self, *rules: Fault) -> None:
        self.director.add(*rules)

    def script(self, *rules: ScriptRule) -> None:
        """Rules for the tasks to come, in the default place."""
        self.ecs.scripts.add(*rules)

    def pause_at(self, point: Point, *, freeze: bool = False) -> Pause:
        return self.director.pause_at(point, freeze=freeze)

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def feed_events(self, queue: str, feed: EventFeed | None = None, region: str = REGION) -> None:
        """Task state changes go to that queue from now on."""
        sqs = self.site(region).sqs
        sqs.create_queue(queue)
        sqs.feed = feed or EventFeed()
        sqs.feed.queues.append(queue)

    # -- HTTP -------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith(PREFIX):
            return await self._control.handle(request)
        try:
            asked = _read(request, await request.content.read())
        except (ConnectionResetError, ValueError) as error:  # its sender has died; JSON's and Unicode's
            return _error_response("", ServiceError("SerializationException", str(error)))
        self.clock.run_due()
        call = self.director.receive(
            asked.action,
            caller=request.headers.get("User-Agent", ""),
            subject=asked.subject,
            text=asked.text,
            place=f"{self.accounts.get(asked.access_key, ACCOUNT)}/{asked.region}",
        )
        try:
            response = await self._answer(asked, call)
        except ConnectionDropped:
            self.director.done(call, "dropped")
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        except Injected as injected:
            answered = injected_error(asked.service, injected)
            self.director.done(call, answered.code)
            return _error_response(asked.service, answered)
        except ServiceError as error:
            self.director.done(call, error.code)
            return _error_response(asked.service, error)
        self.director.done(call, "200")
        return response

    async def _answer(self, asked: _Asked, call: Call) -> web.Response:
        await self.director.before(call)
        try:
            answer = await self._effect(asked, call)
        except ServiceError as error:
            await self._after(call, _error_response(asked.service, error))
            raise
        return await self._after(call, self._response(asked, answer))

    async def _after(self, call: Call, response: web.Response) -> web.Response:
        try:
            await self.director.after(call)
        except Injected as injected:
            if injected.what is not What.TRUNCATED:
                raise
            return Truncated(response)
        return response

    async def _effect(self, asked: _Asked, call: Call) -> dict[str, Any] | bytes:
        self.clock.run_due()
        if asked.access_key in self.expired:
            raise expired(asked.service)
        site = self.site(asked.region, self.accounts.get(asked.access_key, ACCOUNT))
        service = site.services.get(asked.service)
        action = service.actions.get(asked.action) if service is not None else None
        if action is None:
            raise ServiceError("UnknownOperationException", f"{asked.service} {asked.action} is not simulated")
        if not site.buckets.take(asked.action):
            raise throttled(asked.service)
        if asked.service not in {"ec2", "sts"}:
            refuse(asked.service, input_problems(asked.service, asked.action, asked.params))
        answer = action(asked.params, call)
        return answer if isinstance(answer, (dict, bytes)) else await answer

    def _response(self, asked: _Asked, answer: dict[str, Any] | bytes) -> web.Response:
        if self._check_answers:
            document = json.loads(answer) if isinstance(answer, bytes) else answer
            found = output_problems(asked.service, asked.action, document)
            self.violations += [f"{asked.action}: {problem.text}" for problem in found]
        if asked.service in {"ec2", "sts"}:
            assert isinstance(answer, dict)  # only ECS puts bytes together
            return web.Response(text=xml_answer(asked.service, asked.action, answer), content_type="text/xml")
        body = answer if isinstance(answer, bytes) else json.dumps(answer, separators=(",", ":")).encode()
        return web.Response(body=body, content_type=_json_type(asked.service))


class Truncated(web.Response):
    """Half of an answer, after which the connection is closed."""

    def __init__(self, whole: web.Response) -> None:
        body = whole.body if isinstance(whole.body, bytes) else b""
        super().__init__(body=body, status=whole.status, headers=whole.headers)

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - aiohttp's signature
        body = self.body if isinstance(self.body, bytes) else b""
        await self.write(body[: len(body) // 2])
        if self._req is not None and self._req.transport is not None:
            self._req.transport.close()


def injected_error(service: str, injected: Injected) -> ServiceError:
    """The error that a fault stands for, in the words of the service."""
    rule = injected.rule
    match injected.what:
        case What.THROTTLE:
            error = throttled(service)
        case What.DISGUISED_THROTTLE:
            error = ServiceError(
                "InvalidParameterException",
                "Error in execution of the call to a dependent service: Rate exceeded (Service: AmazonEC2; "
                "Status Code: 503; Error Code: RequestLimitExceeded)",
            )
        case What.SERVER_ERROR | What.SERVER_ERROR_AFTER:
            code = "ServerException" if service == "ecs" else "InternalFailure"
            error = ServiceError(code, "Service Unavailable. Please try again later.", 500)
        case _:
            error = ServiceError("ClientException", "The request failed.")
    return ServiceError(rule.code or error.code, rule.message or error.message, rule.status or error.status)


def throttled(service: str) -> ServiceError:
    """How that service throttles."""
    match service:
        case "ec2":
            return ServiceError("RequestLimitExceeded", "Request limit exceeded.", 503)
        case "sts":
            return ServiceError("Throttling", "Rate exceeded", 400)
        case "sqs":
            return ServiceError("com.amazonaws.sqs#RequestThrottled", "Request is throttled.", 403)
        case _:
            return ServiceError("ThrottlingException", "Rate exceeded", 400)


def expired(service: str) -> ServiceError:
    """How that service refuses credentials that were valid once."""
    code = {"ec2": "RequestExpired", "sts": "ExpiredToken"}.get(service, "ExpiredTokenException")
    return ServiceError(code, "The security token included in the request is expired", 403 if service == "sts" else 400)


def refuse(service: str, problems: list[Problem]) -> None:
    """Raises what AWS answers to a malformed request."""
    if not problems:
        return
    texts = "; ".join(problem.text for problem in problems)
    if any(problem.kind in {"type", "unknown"} for problem in problems):
        raise ServiceError("SerializationException", texts)
    raise ServiceError("MissingParameter" if service == "sqs" else "InvalidParameterException", texts)


def _read(request: web.BaseRequest, body: bytes) -> _Asked:
    text = body.decode()
    signed = _CREDENTIAL.search(request.headers.get("Authorization", ""))
    access_key, region = (signed[1], signed[2]) if signed else ("", REGION)
    target = request.headers.get("X-Amz-Target", "")
    if target:
        prefix, _, action = target.partition(".")
        params: dict[str, Any] = json.loads(text) if text else {}
        return _Asked(_TARGETS.get(prefix, prefix), action, params, text, access_key, region)
    flat = dict(parse_qsl(text, keep_blank_values=True))
    service = _VERSIONS.get(flat.get("Version", ""), "")
    return _Asked(service, flat.get("Action", ""), flat, text, access_key, region)


def _json_type(service: str) -> str:
    return "application/x-amz-json-1.0" if service == "sqs" else "application/x-amz-json-1.1"


def _error_response(service: str, error: ServiceError) -> web.Response:
    code, message = error.code, error.message
    if service == "ec2":
        inner = f"<Errors><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error></Errors>"
        xml = f"<Response>{inner}<RequestID>simulated</RequestID></Response>"
        return web.Response(text=xml, status=error.status, content_type="text/xml")
    if service == "sts":
        inner = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
        xml = f"<ErrorResponse>{inner}<RequestId>simulated</RequestId></ErrorResponse>"
        return web.Response(text=xml, status=error.status, content_type="text/xml")
    body = json.dumps({"__type": code, "message": message, **error.members})
    response = web.Response(text=body, status=error.status, content_type=_json_type(service))
    if service == "sqs":
        name = code.rpartition("#")[2]
        response.headers["x-amzn-query-error"] = f"{_OLD_SQS_CODES.get(name, name)};Sender"
    return response


# -- the control API over HTTP --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _StopOrder:
    """Which tasks end, and how. Empty `tasks`: all."""

    tasks: tuple[str, ...] = ()
    exit_code: int | None = 0
    stop_code: str = "EssentialContainerExited"
    reason: str = "Essential container in task exited"


@dataclass(frozen=True, slots=True)
class _Setup:
    """What exists beforehand, in the default place."""

    clusters: tuple[str, ...] = ()
    log_groups: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    log_tokens: Literal["timestamp", "arrival"] | None = None
    registration_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class _Time:
    """The clock's new speed, and a jump."""

    speed: float | None = None
    advance: float = 0.0


_RULES = TypeAdapter(list[ScriptRule])
_SCRIPT = TypeAdapter(TaskScript)
_STOP_ORDER = TypeAdapter(_StopOrder)
_SETUP = TypeAdapter(_Setup)
_TIME = TypeAdapter(_Time)
_FEED = TypeAdapter(EventFeed)


def _controls(aws: AwsSimulator) -> dict[str, Any]:
    """POST setup, script (the default), scripts (rules), stop, clock, events; GET stats, tasks."""
    return {
        "POST setup": lambda _, body: _set_up(aws, _SETUP.validate_python(body)),
        "POST script": lambda _, body: setattr(aws.ecs.scripts, "default", _SCRIPT.validate_python(body)),
        "POST scripts": lambda _, body: aws.script(*_RULES.validate_python(body)),
        "DELETE scripts": lambda _rest, _body: aws.ecs.scripts.clear(),
        "POST stop": lambda _, body: stop_tasks(aws, _STOP_ORDER.validate_python(body or {})),
        "POST clock": lambda _, body: _set_clock(aws, _TIME.validate_python(body)),
        "POST events": lambda _, body: setattr(aws.sqs, "feed", _FEED.validate_python(body)),
        "GET stats": lambda _rest, _body: stats(aws),
        "GET tasks": lambda _rest, _body: [
            task.document | {"tags": task.tags, "clientToken": task.token, "flowRunId": task.flow_run_id}
            for task in aws.launched
        ],
    }


def _set_up(aws: AwsSimulator, setup: _Setup) -> None:
    for cluster in setup.clusters:
        aws.ecs.create_cluster(cluster)
    for group in setup.log_groups:
        aws.logs.create_group(group)
    for queue in setup.queues:
        aws.sqs.create_queue(queue)
    if setup.log_tokens is not None:
        aws.logs.tokens = setup.log_tokens
    if setup.registration_seconds is not None:
        aws.ecs.definitions.registration_seconds = setup.registration_seconds


def _set_clock(aws: AwsSimulator, time: _Time) -> None:
    if time.speed is not None:
        aws.clock.set_speed(time.speed)
    aws.advance(time.advance)


def stop_tasks(aws: AwsSimulator, order: _StopOrder) -> dict[str, int]:
    """Ends tasks from outside, as when their containers exit."""
    chosen = [t for t in aws.launched if not order.tasks or t.arn in order.tasks or t.id in order.tasks]
    running = [task for task in chosen if not task.stopping]
    for task in running:
        aws.site(*_region_and_account(task)).ecs.fleet.stop(task, order.stop_code, order.reason, order.exit_code)
    return {"stopped": len(running)}


def _region_and_account(task: Task) -> tuple[str, str]:
    _, _, _, region, account, _ = task.arn.split(":", 5)
    return region, account


def stats(aws: AwsSimulator) -> dict[str, Any]:
    """Totals: calls by action, faults that struck, tasks launched and running, replays, flow runs that really ran."""
    calls: dict[str, int] = {}
    for call in aws.calls:
        calls[call.action] = calls.get(call.action, 0) + 1
    sites = aws.sites
    return {
        "calls": calls,
        "faults": dict(aws.director.struck()),
        "launched": len(aws.launched),
        "running": sum(task.status == "RUNNING" for task in aws.launched),
        "stopped": sum(task.status == "STOPPED" for task in aws.launched),
        "replays": sum(site.ecs.replays for site in sites),
        "task_definitions": sum(len(site.ecs.definitions.all()) for site in sites),
        "flow_runs": {run: arns for site in sites for run, arns in site.ecs.fleet.flow_runs.items()},
        "queued": {q.name: sum(q.counts()) for site in sites for q in site.sqs.queues.values()},
    }


async def serve(aws: AwsSimulator) -> None:
    """Runs until cancelled."""
    async with aws:
        print(json.dumps({"url": aws.url}), flush=True)  # noqa: T201 - how the starter learns the port
        await asyncio.Event().wait()
