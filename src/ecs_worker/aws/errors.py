"""Translates what botocore, aiobotocore and aiohttp raise into errors of ours."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from ecs_worker.errors import AwsError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Errors that only the user can correct. Credentials of container and instance roles that can't be fetched now are not
# among them: their endpoint may answer the next time.
_MISTAKES: tuple[tuple[type[Exception], str], ...] = (
    (
        boto.NoCredentialsError,
        "There are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or use a role.",
    ),
    (
        boto.PartialCredentialsError,
        "The AWS credentials are incomplete: give both the access key id and the secret access key, or neither.",
    ),
    (
        boto.NoRegionError,
        "There is no AWS Region: set AWS_REGION (or AWS_DEFAULT_REGION), or a region in the AWS profile.",
    ),
    # From here on botocore's own words come first.
    (boto.InvalidRegionError, "{} Set AWS_REGION (or the region of the aws-credentials block) to a Region's name."),
    (boto.UnknownRegionError, "{} Set AWS_REGION (or the region of the aws-credentials block) to a Region's name."),
    (boto.ProfileNotFound, "{} Set AWS_PROFILE (or the block's profile) to a profile of the AWS config file."),
    (boto.ConfigParseError, "{} Correct the AWS config file."),
    (boto.ConfigNotFound, "{} Correct AWS_CONFIG_FILE."),
    (boto.InvalidConfigError, "{} Correct the AWS profile."),
    (boto.UnknownCredentialError, "{} Correct credential_source in the AWS profile."),
    (boto.SSOError, "{} Log in again with `aws sso login`."),
    (boto.TokenRetrievalError, "{} Log in again with `aws sso login`."),
    (boto.RefreshWithMFAUnsupportedError, "{} A worker can't ask for MFA codes: use a role without MFA."),
    (boto.MissingDependencyException, "{} Install what the AWS profile's kind of login needs."),
    (boto.InvalidRetryConfigurationError, "{} Set AWS_RETRY_MODE to standard, adaptive or legacy."),
    (boto.InvalidEndpointConfigurationError, "{} Correct AWS_ENDPOINT_URL."),
    (boto.InvalidProxiesConfigError, "{} Correct the proxy settings."),
)

# When AWS refuses a signature, its message repeats the whole request, with the session token.
_CANONICAL = re.compile(r"\s*The (Canonical String|String-to-Sign) .*", re.DOTALL)
# botocore's message about a parameter of the wrong type quotes the value, which may be that of an environment variable.
_VALUE = re.compile(r"value: .*?, (?=type: |valid )", re.DOTALL)


@contextmanager
def translated(operation: str) -> Iterator[None]:
    """Turn what an AWS call raises into AwsError or, where only the user can help, UserError.

    The messages contain no credentials and no values of the request.
    """
    try:
        yield
    except boto.ClientError as error:
        raise _answered(error) from None
    except boto.BotoCoreError as error:
        text = str(error)
        mistake = next((sentence for kind, sentence in _MISTAKES if isinstance(error, kind)), None)
        if mistake is not None:
            raise UserError(mistake.format(f"{text.rstrip('.')}.")) from None
        raise AwsError(operation, type(error).__name__, _VALUE.sub("", text)) from None
    except (aiohttp.ClientError, TimeoutError, ResponseParserError) as error:
        raise AwsError(operation, type(error).__name__, str(error) or "No usable answer came.") from None


@contextmanager
def usable(operation: str) -> Iterator[None]:
    """Turn what reading an answer raises into AwsError: a proxy may have said it. The message doesn't quote it."""
    try:
        yield
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError, OverflowError, OSError) as error:
        kind = type(error).__name__
        raise AwsError(operation, "NoUsableAnswer", f"It can't have come from AWS: {kind} when it was read.") from None


def _answered(error: Any) -> AwsError:
    response: Mapping[str, Any] = error.response
    told = response.get("Error", {})
    message = str(told.get("Message", ""))
    metadata: Mapping[str, Any] = response.get("ResponseMetadata", {})
    return AwsError(
        # Credentials are refreshed inside other calls: name the call that failed, not the one that was made.
        str(error.operation_name),
        str(told.get("Code", "Unknown")),
        _CANONICAL.sub("", message),
        status=metadata.get("HTTPStatusCode"),
        resource_ids=response.get("resourceIds", ()),
        retried=bool(metadata.get("RetryAttempts")),
    )
