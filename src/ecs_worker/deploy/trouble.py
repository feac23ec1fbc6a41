"""What went wrong with a deploy, in sentences with a remedy. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ecs_worker.verdicts.classify import turned_over
from ecs_worker.verdicts.reasons import known_reason

if TYPE_CHECKING:
    from ecs_worker.aws.cloudformation import StackEvent
    from ecs_worker.errors import AwsError
    from ecs_worker.model import TaskFacts

_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
_ACTION = re.compile(r"not authorized to perform:? ?\[?([\w-]+:\w+)")
_NO_ANSWER = ("EndpointConnectionError", "ConnectTimeoutError", "ConnectionError", "ReadTimeoutError")
_RIGHTS = (
    "`ecs-worker iam policy deployer` prints the rights that deploying needs, as CloudFormation acts with the caller's"
)
_STARTS_NOT = "The worker didn't start, as told above for its tasks: correct that, and deploy again."
_TAKEN = (
    "A resource of that name is there already, from another stack or made by hand: delete it, or give another "
    "--stack-name."
)
_QUOTA = "A quota of the account is used up: ask for more in the Service Quotas console."
_PROVIDER = (
    "The cluster lacks that capacity provider: add it with `aws ecs put-cluster-capacity-providers`, or give "
    "--capacity fargate, or --new-cluster."
)
_LINKED_ROLE = "ECS makes its service-linked role with its first cluster, which takes a moment: deploy again."
_IN_USE = "Tasks still run in the cluster: wait until they have ended, or stop them, and delete the stack again."
# A resource's reason → what to do. The first that matches counts.
_REMEDIES = (
    (r"Circuit Breaker|did not stabilize", _STARTS_NOT),
    (r"not authorized|AccessDenied|UnauthorizedOperation", f"{_RIGHTS}."),
    (r"already exists", _TAKEN),
    (r"service.linked role", _LINKED_ROLE),
    (r"capacity provider", _PROVIDER),
    (r"LimitExceeded|quota|maximum", _QUOTA),
    (r"cluster.*contains.*(tasks|services)|ClusterContains", _IN_USE),
)
# What a flow's task has as a job variable, the worker's has as an option.
_OPTIONS = {"image": "--image", "memory": "--memory"}


def of_aws(error: AwsError, region: str) -> str:
    """A sentence for whoever deploys, whose call AWS did not answer as it should."""
    text = f"{error.operation}: {error.message.rstrip('.')}"
    if error.code in _DENIED:
        action = _ACTION.search(error.message)
        right = action[1] if action else f"the right to {error.operation}"
        return f"AWS denies {right} ({text}): {_RIGHTS}."
    if error.code in _NO_ANSWER:
        return (
            f"AWS doesn't answer in the Region {region} ({text}). Is that a Region's name? Check --region and the "
            "network."
        )
    if turned_over(error):
        return f"AWS doesn't take the credentials ({text}): renew or correct them, or name others with --profile."
    return f"AWS did not do what was asked: {text} ({error.code})."


def remedy(event: StackEvent) -> str:
    """What to do about a resource that failed; empty if nobody knows."""
    for pattern, text in _REMEDIES:
        if re.search(pattern, event.reason, re.IGNORECASE):
            return text
    known = known_reason(event.reason)
    return known.remedy if known else ""


def of_task(task: TaskFacts) -> str:
    """Why a task of the worker's service ended, and what to do."""
    parts = [task.stopped_reason.rstrip(".")]
    for container in task.containers:
        if container.exit_code is not None:
            parts.append(f"exit code {container.exit_code}")
        if container.reason:
            parts.append(container.reason.rstrip("."))
    told = "; ".join(part for part in parts if part) or task.stop_code
    known = next((verdict for part in parts if part and (verdict := known_reason(part))), None)
    advice = known.remedy if known else ""
    for variable, option in _OPTIONS.items():
        advice = advice.replace(f"the job variable `{variable}`", option)
    return f"{told}.{f' {advice}' if advice else ''}"
