"""In which states a stack can be changed, and what its pauses are."""

from __future__ import annotations

import pytest

from ecs_worker.aws.cloudformation import ChangeSet, Stack
from ecs_worker.deploy.stack import check_changeable, of_events, ours
from ecs_worker.errors import UserError


def stack(status: str, **tags: str) -> Stack:
    return Stack("arn:stack/one/1", "one", status, tags=tags)


@pytest.mark.parametrize("status", ["CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"])
def test_a_stack_that_stands_can_be_changed(status: str) -> None:
    check_changeable(stack(status))


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("CREATE_IN_PROGRESS", r"is being changed \(CREATE_IN_PROGRESS\): wait .* `ecs-worker deploy status one`"),
        ("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "wait until that has ended"),
        ("DELETE_IN_PROGRESS", "wait until that has ended"),
        ("ROLLBACK_COMPLETE", "`ecs-worker deploy delete one`, then deploy again"),
        ("CREATE_FAILED", "`ecs-worker deploy delete one`, then deploy again"),
        ("DELETE_FAILED", "`ecs-worker deploy delete one`, then deploy again"),
        ("UPDATE_ROLLBACK_FAILED", "continue-update-rollback --stack-name one"),
    ],
)
def test_any_other_is_told_with_what_to_do(status: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        check_changeable(stack(status))


def test_only_tagged_stacks_are_ours_and_a_queue_is_no_worker() -> None:
    tags = {"ecs-worker:pool": "my-pool"}
    worker = Stack("arn", "one", "CREATE_COMPLETE", parameters={"PoolName": "my-pool"}, tags=tags)
    queue = Stack("arn", "one", "CREATE_COMPLETE", parameters={"QueueName": ""}, tags=tags)
    assert (ours(worker), of_events(worker)) == (True, False)
    assert (ours(queue), of_events(queue)) == (False, True)
    assert not ours(stack("CREATE_COMPLETE", ManagedBy="somebody"))


@pytest.mark.parametrize(
    ("status", "reason", "ready", "empty"),
    [
        ("CREATE_PENDING", "", False, False),
        ("CREATE_IN_PROGRESS", "", False, False),
        ("CREATE_COMPLETE", "", True, False),
        ("FAILED", "The submitted information didn't contain changes. Submit different information …", True, True),
        ("FAILED", "No updates are to be performed.", True, True),
        ("FAILED", "Template error: …", True, False),
    ],
)
def test_a_change_set_that_changes_nothing_is_told_from_one_that_fails(
    status: str, reason: str, ready: bool, empty: bool
) -> None:
    found = ChangeSet(status, reason, ())
    assert (found.ready, found.empty) == (ready, empty)
