"""What is told when a deploy fails."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ecs_worker.aws.cloudformation import StackEvent
from ecs_worker.deploy import trouble
from ecs_worker.deploy.stack import failures
from ecs_worker.errors import AwsError
from ecs_worker.model import ContainerFacts, TaskFacts

STACK = "arn:aws:cloudformation:us-east-1:123456789012:stack/ecs-worker-p/1"


def event(logical_id: str, status: str, reason: str = "", *, stack: bool = False) -> StackEvent:
    kind, physical = ("AWS::CloudFormation::Stack", STACK) if stack else ("AWS::ECS::Service", logical_id)
    return StackEvent(f"{logical_id}-{status}", STACK, datetime.now(UTC), logical_id, physical, kind, status, reason)


@pytest.mark.parametrize(
    ("code", "message", "told"),
    [
        (
            "AccessDenied",
            "User: x is not authorized to perform: cloudformation:CreateChangeSet on resource: y",
            "AWS denies cloudformation:CreateChangeSet",
        ),
        ("UnauthorizedOperation", "You are not authorized to perform this operation.", "the right to DescribeSubnets"),
        ("EndpointConnectionError", "Could not connect", "Is that a Region's name? Check --region"),
        ("ExpiredToken", "The security token included in the request is expired", "renew or correct them"),
        ("InternalFailure", "Oops", "AWS did not do what was asked: DescribeSubnets: Oops (InternalFailure)."),
    ],
)
def test_what_aws_answers_is_told_with_what_to_do(code: str, message: str, told: str) -> None:
    status = None if code.startswith("Endpoint") else 400
    assert told in trouble.of_aws(AwsError("DescribeSubnets", code, message, status=status), "us-east-1")


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("Error occurred during operation 'ECS Deployment Circuit Breaker was triggered'.", "The worker didn't start"),
        ("User: x is not authorized to perform: iam:CreateRole", "`ecs-worker iam policy deployer`"),
        ("Role with name x already exists.", "another --stack-name"),
        ("The specified capacity provider was not found.", "--capacity fargate"),
        ("Unable to assume the service linked role.", "deploy again"),
        ("The maximum number of VPCs has been reached. (LimitExceeded)", "Service Quotas"),
        ("The Cluster cannot be deleted while Tasks are active. (ClusterContainsTasksException)", "Tasks still run"),
        ("Nobody has seen this before", ""),
    ],
)
def test_a_resource_that_failed_has_its_remedy(reason: str, told: str) -> None:
    found = trouble.remedy(event("Service", "CREATE_FAILED", reason))
    assert told in found
    assert bool(told) == bool(found)


def test_the_first_failures_are_told_once_each_and_not_what_was_broken_off_with_them() -> None:
    events = [
        event("p", "UPDATE_IN_PROGRESS", stack=True),
        event("Service", "UPDATE_FAILED", "the cause"),
        event("WorkerGone", "UPDATE_FAILED", "Resource update cancelled"),
        event("Service", "UPDATE_FAILED", "and again on the way back"),
        event("p", "UPDATE_ROLLBACK_FAILED", "The following resource(s) failed", stack=True),
    ]
    assert [each.reason for each in failures(events)] == ["the cause"]
    assert [each.reason for each in failures(events[2:3])] == ["Resource update cancelled"]
    assert failures(events[:1]) == []


def test_a_task_that_ended_is_told_with_the_options_of_deploy() -> None:
    container = ContainerFacts("ecs-worker", None, "CannotPullContainerError: manifest unknown: not found")
    task = TaskFacts("arn", stop_code="TaskFailedToStart", stopped_reason="It failed.", containers=(container,))
    told = trouble.of_task(task)
    assert told.startswith("It failed; CannotPullContainerError: manifest unknown: not found.")
    assert "Correct --image, or push the image." in told
    ended = TaskFacts("arn", stop_code="EssentialContainerExited", containers=(ContainerFacts("ecs-worker", 2),))
    assert trouble.of_task(ended) == "exit code 2."
