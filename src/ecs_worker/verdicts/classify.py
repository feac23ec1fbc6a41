"""What follows from an AWS error, a `failures[]` entry or a task that did not start. Pure.

Judged by code wherever AWS gives one, and by text (`reasons`) where it doesn't.
"""

from __future__ import annotations

import re

from ecs_worker.errors import AwsError
from ecs_worker.model import AwsFailure, TaskFacts
from ecs_worker.verdicts.codes import (
    ACCESS_DENIED,
    CLIENT_ERROR,
    CONFLICT,
    INVALID_PARAMETER,
    NO_CLUSTER,
    UNSUPPORTED,
)
from ecs_worker.verdicts.reasons import VANISHED, Kind, Verdict, known_reason

__all__ = ["Kind", "Verdict", "classify", "is_throttle", "turned_over"]


def classify(obstacle: AwsError | AwsFailure | TaskFacts) -> Verdict:
    """Judge an error of a call, a failure that came with HTTP 200, or a task that stopped before it ran."""
    match obstacle:
        case AwsError():
            return _of_error(obstacle)
        case AwsFailure():
            return known_reason(f"{obstacle.reason} {obstacle.detail}") or _UNKNOWN_FAILURE
        case TaskFacts():
            return _of_start(obstacle)


def turned_over(error: AwsError) -> bool:
    """The credentials may be of yesterday: their block may hold others by now."""
    return error.code in _OF_CREDENTIALS


def is_throttle(code: str, message: str) -> bool:
    """AWS says "slow down", under its own name or in disguise."""
    return code in _THROTTLES or (code in _CATCH_ALL and _THROTTLE_TEXT.search(message) is not None)


def _of_error(error: AwsError) -> Verdict:
    if is_throttle(error.code, error.message):
        return _THROTTLED
    if error.code in _SIGNATURES and _CLOCK_TEXT.search(error.message):
        return _CLOCK
    if error.code in _BY_CODE:
        special = (
            verdict for text, verdict in _DENIED if _BY_CODE[error.code] is _ALLOW and text.search(error.message)
        )
        return next(special, _BY_CODE[error.code])
    if error.status == _TOO_MANY_REQUESTS:
        return _THROTTLED
    if error.status is None or error.status == _REQUEST_TIMEOUT or error.status >= _SERVER_ERROR:
        return _NO_ANSWER
    known = known_reason(error.message) if error.code in _CATCH_ALL else None
    return known or Verdict(Kind.PERMANENT)


def _of_start(task: TaskFacts) -> Verdict:
    """A task that has run is never launched again here, whatever ended it: its flow may have done its work."""
    if task.started_at is not None:
        return Verdict(Kind.PERMANENT)
    if task.vanished:
        return VANISHED
    if task.stop_code in {"UserInitiated", "ServiceSchedulerInitiated"}:
        return Verdict(Kind.PERMANENT)
    if task.stop_code in _GOING_HOSTS:
        return Verdict(Kind.TRANSIENT)
    texts = (task.stopped_reason, *(container.reason for container in task.containers))
    found = next((verdict for text in texts if text and (verdict := known_reason(text))), None)
    if found is not None:
        return found
    # A container that ran and ended tells its own story in its logs; a start that failed is worth another try.
    return Verdict(Kind.PERMANENT if task.stop_code == "EssentialContainerExited" else Kind.TRANSIENT)


_TOO_MANY_REQUESTS = 429
_REQUEST_TIMEOUT = 408
_SERVER_ERROR = 500

_GOING_HOSTS = frozenset({"SpotInterruption", "TerminationNotice", "InfrastructureHealth"})

# Codes that say nothing by themselves.
_CATCH_ALL = frozenset({CLIENT_ERROR, INVALID_PARAMETER, "ServerException"})

# botocore's own list of codes that mean "slow down", without LimitExceededException: in ECS that is a quota.
_THROTTLES = frozenset(
    {
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestLimitExceeded",
        "TooManyRequestsException",
        "BandwidthLimitExceeded",
        "SlowDown",
        "PriorRequestNotComplete",
        "EC2ThrottledException",
    }
)
# A throttle of a service behind ECS comes as ClientException or InvalidParameterException, or as a task's reason.
_THROTTLE_TEXT = re.compile(
    r"Rate exceeded|Request limit exceeded|RequestLimitExceeded|ThrottlingException", re.IGNORECASE
)

# A signature holds for some minutes around the time that AWS knows.
_SIGNATURES = frozenset({"InvalidSignatureException", "SignatureDoesNotMatch", "AuthFailure"})
_CLOCK_TEXT = re.compile(r"Signature expired|Signature not yet current", re.IGNORECASE)

_THROTTLED = Verdict(Kind.THROTTLE, cause="AWS throttles requests.")
_NO_ANSWER = Verdict(Kind.AMBIGUOUS, "Should this last, check the network between the worker and AWS.")
_UNKNOWN_FAILURE = Verdict(Kind.TRANSIENT)

_KEYS = Verdict(Kind.PERMANENT, "Correct the AWS credentials of the worker, or of the job's aws-credentials block.")
_EXPIRED = Verdict(Kind.TRANSIENT, "Renew the AWS credentials: they have expired.")
_CLOCK = Verdict(Kind.TRANSIENT, "Set the clock of the machine that the worker runs on.")
_ALLOW = Verdict(
    Kind.PERMANENT,
    "Allow the action to the worker's role; `ecs-worker iam diff ROLE --pool POOL` tells all that it lacks.",
)
# What AWS denies, where the worker's general rights are not the remedy.
_DENIED = (
    (
        re.compile(r"iam:PassRole", re.IGNORECASE),
        Verdict(
            Kind.PERMANENT,
            "Allow the worker's role iam:PassRole on it: to ecs-tasks.amazonaws.com if it is a task or execution role "
            "(iam/worker-policy.json), to ecs.amazonaws.com if ECS makes EBS volumes with it "
            "(iam/worker-options-policy.json).",
        ),
    ),
    (
        re.compile(r"sts:AssumeRole", re.IGNORECASE),
        Verdict(
            Kind.PERMANENT,
            "Allow the worker's role sts:AssumeRole on the role of the aws-credentials block "
            "(iam/worker-options-policy.json), and let that role's trust policy name the worker's.",
        ),
    ),
)
_CREDENTIALS_LATER = Verdict(Kind.TRANSIENT, "Check the role of the machine or task that the worker runs on.")
_BROKEN_REQUEST = Verdict(Kind.PERMANENT, "Correct the job variable, or the pool's base job template.")

_OF_CREDENTIALS = frozenset(
    {
        "UnrecognizedClientException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "AuthFailure",
        "ExpiredTokenException",
        "ExpiredToken",
    }
)

_BY_CODE = {
    CONFLICT: Verdict(Kind.CONFLICT),
    ACCESS_DENIED: _ALLOW,
    "AccessDenied": _ALLOW,
    "UnauthorizedOperation": _ALLOW,
    "UnrecognizedClientException": _KEYS,
    "InvalidClientTokenId": _KEYS,
    "InvalidSignatureException": _KEYS,
    "SignatureDoesNotMatch": _KEYS,
    "AuthFailure": _KEYS,
    "ExpiredTokenException": _EXPIRED,
    "ExpiredToken": _EXPIRED,
    "RequestExpired": _EXPIRED,
    "RequestTimeTooSkewed": _CLOCK,
    NO_CLUSTER: Verdict(
        Kind.PERMANENT, "Create the cluster, or correct the job variable `cluster`; clusters belong to one Region."
    ),
    "PlatformUnknownException": Verdict(Kind.PERMANENT, "Correct the job's platformVersion, or leave it out."),
    "PlatformTaskDefinitionIncompatibilityException": Verdict(
        Kind.PERMANENT, "Use platform version LATEST, or leave out what that version doesn't have."
    ),
    UNSUPPORTED: Verdict(Kind.PERMANENT, "Use another Region, or leave the feature out."),
    "BlockedException": Verdict(Kind.PERMANENT, "AWS has blocked the account: ask AWS Support."),
    "SerializationException": _BROKEN_REQUEST,
    "ValidationException": _BROKEN_REQUEST,
    "RequestTimeout": _NO_ANSWER,
    "RequestTimeoutException": _NO_ANSWER,
    # From here on the SDK's own, raised before anything was sent.
    "ParamValidationError": _BROKEN_REQUEST,
    "CredentialRetrievalError": _CREDENTIALS_LATER,
    "MetadataRetrievalError": _CREDENTIALS_LATER,
    "UnknownEndpointError": Verdict(Kind.PERMANENT, "Correct the AWS Region."),
    "EndpointResolutionError": Verdict(Kind.PERMANENT, "Correct the AWS Region or endpoint."),
}
