"""What follows from AWS's errors, failures and start failures. The texts are AWS's, as seen in the wild."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecs_worker.errors import AwsError
from ecs_worker.model import AwsFailure, ContainerFacts, TaskFacts
from ecs_worker.verdicts.classify import Kind, classify, is_throttle
from ecs_worker.verdicts.reasons import known_reason


def error(code: str, message: str = "", status: int | None = 400) -> AwsError:
    return AwsError("RunTask", code, message, status=status)


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("User: w is not authorized to perform: ecs:StopTask on resource: t", "ecs-worker iam diff"),
        (
            (
                "User: w is not authorized to perform: iam:PassRole on resource: arn:aws:iam::123:role/ebs because "
                "no identity-based policy allows the iam:PassRole action"
            ),
            "to ecs.amazonaws.com if ECS makes EBS volumes with it (iam/worker-options-policy.json)",
        ),
        ("User: w is not authorized to perform: sts:AssumeRole on resource: r", "trust policy name the worker's"),
    ],
)
def test_what_is_denied_is_told_with_where_it_is_allowed(message: str, remedy: str) -> None:
    verdict = classify(error("AccessDeniedException", message))
    assert verdict.kind is Kind.PERMANENT
    assert remedy in verdict.remedy


@pytest.mark.parametrize(
    "reason",
    [
        (
            "ECS was unable to assume the configured ECS Infrastructure Role 'arn:aws:iam::123:role/ebs'. Please "
            "verify that the role being passed has the proper trust relationship with Amazon ECS"
        ),
        (
            "User: arn:aws:sts::123456789012:assumed-role/ebs/ECSTaskVolumesForEBS is not authorized to perform: "
            "ec2:CreateVolume on resource: arn:aws:ec2:eu-west-1:123456789012:volume/*"
        ),
    ],
)
def test_an_infrastructure_role_that_does_not_do_is_told_with_its_trust_policy(reason: str) -> None:
    task = TaskFacts(arn="t", last_status="STOPPED", stop_code="TaskFailedToStart", stopped_reason=reason)
    verdict = classify(task)
    assert verdict.kind is Kind.PERMANENT
    assert "iam/infrastructure-trust-policy.json" in verdict.remedy
    assert "AmazonECSInfrastructureRolePolicyForVolumes" in verdict.remedy


@pytest.mark.parametrize(
    ("code", "message", "status", "kind"),
    [
        ("ThrottlingException", "Rate exceeded", 400, Kind.THROTTLE),
        ("RequestLimitExceeded", "Request limit exceeded.", 503, Kind.THROTTLE),
        ("SomethingNew", "", 429, Kind.THROTTLE),
        (
            "InvalidParameterException",
            (
                "Error retrieving security group information for [sg-05937427457b61ff5]: Request limit exceeded. "
                "(ErrorCode: RequestLimitExceeded)"
            ),
            400,
            Kind.THROTTLE,
        ),
        ("ClientException", "Rate exceeded", 400, Kind.THROTTLE),
        ("ServerException", "Service Unavailable. Please try again later.", 500, Kind.AMBIGUOUS),
        ("InternalFailure", "", 500, Kind.AMBIGUOUS),
        ("503", "Service Unavailable", 503, Kind.AMBIGUOUS),
        ("RequestTimeout", "", 408, Kind.AMBIGUOUS),
        ("ReadTimeoutError", "Read timeout on endpoint URL", None, Kind.AMBIGUOUS),
        ("ConnectionClosedError", "Connection was closed", None, Kind.AMBIGUOUS),
        ("EndpointConnectionError", "Could not connect", None, Kind.AMBIGUOUS),
        ("NoUsableAnswer", "", None, Kind.AMBIGUOUS),
        ("ConflictException", "Token used with other parameters", 409, Kind.CONFLICT),
        ("ClusterNotFoundException", "Cluster not found.", 400, Kind.PERMANENT),
        ("AccessDeniedException", "User: … is not authorized to perform: ecs:RunTask", 400, Kind.PERMANENT),
        ("AccessDeniedException", "not authorized on cluster/throttling-tests: Rate exceeded", 400, Kind.PERMANENT),
        ("UnrecognizedClientException", "The security token included in the request is invalid.", 400, Kind.PERMANENT),
        ("ExpiredTokenException", "The security token included in the request is expired", 400, Kind.TRANSIENT),
        ("CredentialRetrievalError", "Error when retrieving credentials from container-role", None, Kind.TRANSIENT),
        ("ParamValidationError", "Parameter validation failed", None, Kind.PERMANENT),
        ("ClientException", "TaskDefinition is inactive", 400, Kind.PERMANENT),
        ("ClientException", "Too many concurrent attempts to create a new revision", 400, Kind.TRANSIENT),
        ("InvalidParameterException", "Container Overrides length must be at most 8192", 400, Kind.PERMANENT),
        (
            "InvalidParameterException",
            "Unable to assume the service linked role. Please verify that the ECS service linked role exists.",
            400,
            Kind.TRANSIENT,
        ),
        ("InvalidParameterException", "No Container Instances were found in your cluster.", 400, Kind.CAPACITY),
        (
            "InvalidParameterException",
            (
                "Error retrieving subnet information for [subnet-1]: The subnet ID 'subnet-1' does not exist "
                "(ErrorCode: InvalidSubnetID.NotFound)"
            ),
            400,
            Kind.PERMANENT,
        ),
        (
            "ClientException",
            "You've reached the limit on the number of vCPUs you can run concurrently",
            400,
            Kind.CAPACITY,
        ),
        ("ClientException", "The requested CPU configuration is above your limit", 400, Kind.PERMANENT),
        ("ClientException", "The requested MEMORY configuration is above your limit", 400, Kind.PERMANENT),
        ("InvalidParameterException", "The requested MEMORY configuration is above your limit", 400, Kind.PERMANENT),
        (
            "InvalidSignatureException",
            "Signature expired: 20250101T000000Z is now earlier than 20250101T001000Z (20250101T001500Z - 5 min.)",
            400,
            Kind.TRANSIENT,
        ),
        (
            "SignatureDoesNotMatch",
            "Signature not yet current: 20250101T002000Z is still later than 20250101T000500Z",
            403,
            Kind.TRANSIENT,
        ),
        ("RequestTimeTooSkewed", "The difference between request time and current time is large.", 403, Kind.TRANSIENT),
        ("SignatureDoesNotMatch", "The request signature we calculated does not match.", 403, Kind.PERMANENT),
        ("LimitExceededException", "The limit for the resource was exceeded.", 400, Kind.PERMANENT),
        ("NobodyKnowsThis", "", 400, Kind.PERMANENT),
    ],
)
def test_errors(code: str, message: str, status: int | None, kind: Kind) -> None:
    assert classify(error(code, message, status)).kind is kind


def test_a_wrong_clock_and_too_large_a_task_are_told_with_their_remedy() -> None:
    clock = classify(error("InvalidSignatureException", "Signature expired: … is now earlier than …", 400))
    assert clock.remedy == "Set the clock of the machine that the worker runs on."
    memory = classify(error("ClientException", "The requested MEMORY configuration is above your limit", 400))
    assert memory.remedy.startswith("Ask for less `cpu` and `memory`, or for more Fargate vCPUs")


@pytest.mark.parametrize(
    ("reason", "detail", "kind"),
    [
        ("RESOURCE:MEMORY", "", Kind.CAPACITY),
        ("RESOURCE:CPU", "", Kind.CAPACITY),
        ("RESOURCE:ENI", "", Kind.CAPACITY),
        ("RESOURCE:GPU", "", Kind.CAPACITY),
        ("AGENT", "", Kind.CAPACITY),
        ("ATTRIBUTE", "", Kind.PERMANENT),
        ("LOCATION", "", Kind.PERMANENT),
        ("MemberOf placement constraint unsatisfied.", "", Kind.PERMANENT),
        (
            "Capacity is unavailable at this time. Please try again later or in a different availability zone",
            "",
            Kind.CAPACITY,
        ),
        ("You've reached the limit on the number of tasks you can run concurrently", "", Kind.CAPACITY),
        ("something new", "", Kind.TRANSIENT),
        ("", "", Kind.TRANSIENT),
    ],
)
def test_failures(reason: str, detail: str, kind: Kind) -> None:
    assert classify(AwsFailure(arn="", reason=reason, detail=detail)).kind is kind


def unstarted(reason: str, *, container: str = "", stop_code: str = "TaskFailedToStart") -> TaskFacts:
    return TaskFacts(
        arn="arn:aws:ecs:us-east-1:1:task/c/t",
        last_status="STOPPED",
        stop_code=stop_code,
        stopped_reason=reason,
        containers=(ContainerFacts("prefect", reason=container), ContainerFacts("side-car")),
    )


_ECR = "123456789012.dkr.ecr.us-east-1.amazonaws.com"


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (
            (
                "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref "
                f"{_ECR}/flows:v2: {_ECR}/flows:v2: not found"
            ),
            Kind.PERMANENT,
        ),
        (
            (
                "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref "
                f"{_ECR}/flows: unexpected status from HEAD request to https://{_ECR}/v2/flows: 403 Forbidden"
            ),
            Kind.PERMANENT,
        ),
        (
            (
                "CannotPullContainerError: inspect image has been retried 5 time(s): httpReaderSeeker: failed open: "
                "unexpected status code https://registry-1.docker.io/v2/prefecthq/prefect: 429 Too Many Requests - "
                "Server message: toomanyrequests: You have reached your pull rate limit."
            ),
            Kind.TRANSIENT,
        ),
        (
            (
                "CannotPullContainerError: ref pull has been retried 5 time(s): failed to copy: httpReadSeeker: failed "
                'open: failed to do request: Get "https://prod.s3.amazonaws.com/": dial tcp 52.1.2.3:443: i/o timeout'
            ),
            Kind.TRANSIENT,
        ),
        (
            (
                "CannotPullContainerError: pull image manifest has been retried 7 time(s): image Manifest does not "
                "contain descriptor matching platform 'linux/amd64'."
            ),
            Kind.PERMANENT,
        ),
        (
            (
                "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval "
                "failed: unable to retrieve secrets from ssm: service call has been retried 1 time(s): "
                "AccessDeniedException: User: arn:aws:sts::1:assumed-role/x is not authorized"
            ),
            Kind.PERMANENT,
        ),
        (
            (
                "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval "
                "failed: unable to retrieve secrets from ssm: service call has been retried 5 time(s): "
                "RequestCanceled: request context canceled caused by: context deadline exceeded. Please check your "
                "task network configuration."
            ),
            Kind.TRANSIENT,
        ),
        ("Timeout waiting for network interface provisioning to complete.", Kind.TRANSIENT),
        ("RESOURCE:ENI", Kind.CAPACITY),
        ("RESOURCE:MEMORY", Kind.CAPACITY),
        ("NO ACTIVE INSTANCES", Kind.CAPACITY),
        ("EMPTY CAPACITY PROVIDER", Kind.CAPACITY),
        ("TaskFailedToStart: ATTRIBUTE", Kind.PERMANENT),
        ("TaskFailedToStart: AGENT", Kind.CAPACITY),
        ("InternalError: The task could not be started", Kind.TRANSIENT),
        (
            (
                "ResourceInitializationError: failed to validate logger args: create stream has been retried 1 times: "
                "failed to create Cloudwatch log stream: ResourceNotFoundException: The specified log group does not "
                "exist. : exit status 1"
            ),
            Kind.PERMANENT,
        ),
        ("something new", Kind.TRANSIENT),
    ],
)
def test_start_failures(reason: str, kind: Kind) -> None:
    assert classify(unstarted(reason)).kind is kind
    assert classify(unstarted("Task failed to start", container=reason)).kind is kind


@pytest.mark.parametrize("stop_code", ["SpotInterruption", "TerminationNotice", "InfrastructureHealth"])
def test_a_lost_host_is_worth_another_try(stop_code: str) -> None:
    assert classify(unstarted("", stop_code=stop_code)).kind is Kind.TRANSIENT


@pytest.mark.parametrize("stop_code", ["UserInitiated", "ServiceSchedulerInitiated", "EssentialContainerExited"])
def test_what_somebody_stopped_or_what_ended_itself_is_not_started_again(stop_code: str) -> None:
    assert classify(unstarted("", stop_code=stop_code)).kind is Kind.PERMANENT


codes = st.sampled_from(["ClientException", "ServerException", "ThrottlingException", "ConflictException", "Xyz", ""])
statuses = st.one_of(st.none(), st.integers(400, 599))
words = st.text(max_size=200) | st.sampled_from(["Rate exceeded", "RESOURCE:CPU", "Capacity is unavailable"])


@given(code=codes, status=statuses, message=words)
def test_without_a_clear_no_the_outcome_counts_as_unknown(code: str, status: int | None, message: str) -> None:
    """Else a launch whose answer was lost would be asked for again under another token, or given up."""
    kind = classify(error(code, message, status)).kind
    if (status is None or status >= 500) and code not in {"ThrottlingException", "ConflictException"}:
        assert kind is (Kind.THROTTLE if is_throttle(code, message) else Kind.AMBIGUOUS)
    if code == "ConflictException":
        assert kind is Kind.CONFLICT


@given(
    stop_code=st.sampled_from(["TaskFailedToStart", "SpotInterruption", "EssentialContainerExited", "New", ""]),
    reason=words,
    container=words,
)
def test_a_task_that_has_run_is_never_launched_again(stop_code: str, reason: str, container: str) -> None:
    task = TaskFacts(
        arn="a",
        stop_code=stop_code,
        stopped_reason=reason,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        containers=(ContainerFacts("prefect", reason=container),),
    )
    assert classify(task).kind is Kind.PERMANENT


@given(stop_code=st.sampled_from(["TaskFailedToStart", "SpotInterruption", ""]), reason=words)
def test_a_task_that_ecs_does_not_know_is_never_launched_again(stop_code: str, reason: str) -> None:
    verdict = classify(TaskFacts(arn="a", last_status="DELETED", stop_code=stop_code, stopped_reason=reason))
    assert verdict.kind is Kind.PERMANENT
    assert verdict.remedy


@given(reason=words, detail=words)
def test_a_failure_is_never_ambiguous(reason: str, detail: str) -> None:
    """ECS has answered: no task exists under that token."""
    assert classify(AwsFailure("", reason, detail)).kind not in {Kind.AMBIGUOUS, Kind.CONFLICT}


@given(text=st.text(max_size=5000))
def test_no_text_breaks_the_table(text: str) -> None:
    verdict = known_reason(text)
    assert verdict is None or verdict.kind in Kind
