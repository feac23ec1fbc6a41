"""What AWS's texts mean, as one table. Pure.

Read only where AWS gives no code: `failures[]`, the reasons of stopped tasks, and the messages of ClientException and
InvalidParameterException, which ECS uses for everything. Sources: Amazon ECS developer guide, "API failure reasons",
"Stopped tasks error messages", "Amazon ECS service event messages"; texts seen in public issues.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What kind of obstacle it is, which decides what the launch queue does."""

    THROTTLE = "throttle"  # AWS asks us to come back later
    CAPACITY = "capacity"  # there is no room for the task now
    TRANSIENT = "transient"  # it did not work, and may the next time
    AMBIGUOUS = "ambiguous"  # nobody knows whether it worked: ask again with the same token
    CONFLICT = "conflict"  # the token has a task already: adopt it
    PERMANENT = "permanent"  # it can't work until somebody changes something


@dataclass(frozen=True, slots=True)
class Verdict:
    """The kind of obstacle; `remedy`, what the user can do (empty: wait); `cause`, what happened in plain words.

    Both texts are whole sentences. An AwsError's own message is not repeated in `cause`.
    """

    kind: Kind
    remedy: str = ""
    cause: str = ""


VANISHED = Verdict(
    Kind.PERMANENT,
    "No other is launched in its place, as it may have done its work, or may yet appear: start the run again if not.",
    "ECS does not know the task (any more), so what became of it can't be told.",
)


def known_reason(text: str) -> Verdict | None:
    """What AWS's text means, if it is one of those we know."""
    return next((verdict for pattern, verdict in _REASONS if pattern.search(text)), None)


def _table(*rows: tuple[str, Kind, str, str]) -> tuple[tuple[re.Pattern[str], Verdict], ...]:
    """Rows of pattern, kind, cause, remedy. The first row that matches counts."""
    return tuple(
        (re.compile(pattern, re.IGNORECASE | re.DOTALL), Verdict(kind, remedy, cause))
        for pattern, kind, cause, remedy in rows
    )


_NETWORK = (
    "Give the task a way out: a public IP in a public subnet, a NAT gateway, or VPC endpoints for ECR, S3, "
    "CloudWatch Logs and Secrets Manager; its security groups must let HTTPS out."
)
_UNREACHABLE = (
    r"i/o timeout|deadline exceeded|context canceled|Client\.Timeout|TLS handshake|connection (refused|reset|issue)"
    r"|request canceled|RequestCanceled|no such host|dial tcp|RequestError|network is unreachable|timed out"
)
_REFUSED = r"AccessDenied|not authorized|unauthorized|access denied|forbidden|no basic auth|authentication required"
_PULL = r"(CannotPull\w*|ref pull|pull image manifest|pulling image).*"
_INIT = r"ResourceInitializationError.*"
_ARCHITECTURE = (
    "Build the image for the task's CPU architecture, or set runtimePlatform.cpuArchitecture (X86_64 or ARM64) "
    "in the task definition."
)
_PULL_RIGHTS = (
    "Check the image's name, and let the execution role read the repository (AmazonECSTaskExecutionRolePolicy) or "
    "give the registry's credentials (repositoryCredentials)."
)
_NO_LOG_GROUP = (
    r"(ResourceInitializationError|logging driver|logger).*log ?(group|stream).*(not exist|ResourceNotFound)"
    r"|ResourceNotFoundException.*log group"
)
_ABSENT = (
    r"(ResourceNotFoundException|can't find the specified secret|ParameterNotFound|invalid ssm parameters"
    r"|not contain json key|parsing of JSON|ValidationException)"
)
_NO_COMMAND = (
    r"executable file not found|exec: .*(no such file|not found)"
    r"|(OCI|runc|start container|StartContainerError).*no such file"
)
_LOG_GROUP = (
    "Create the log group in the task's Region, or let the job create it (`configure_cloudwatch_logs`, with "
    "logs:CreateLogGroup for the execution role)."
)
_ROLES_PASSED = (
    "Let ecs-tasks.amazonaws.com (ecs.amazonaws.com if the role makes EBS volumes) assume the job's roles, and allow "
    "iam:PassRole on them to the worker."
)
_INFRASTRUCTURE = (
    "Let ecs.amazonaws.com assume that role (iam/infrastructure-trust-policy.json), and attach AWS's policy "
    "AmazonECSInfrastructureRolePolicyForVolumes to it."
)

# Reasons of tasks that did not start, and of RunTask's failures. More special ones first.
_REASONS = _table(
    # Calls that were refused
    (r"Too many concurrent attempts to create a new revision", Kind.TRANSIENT, "", ""),
    (
        r"service.linked role",
        Kind.TRANSIENT,
        "",
        "ECS creates its service-linked role on first use; should this last, create AWSServiceRoleForECS.",
    ),
    (
        r"(TaskDefinition|task definition) .*(inactive|not found)|Unable to describe task definition",
        Kind.PERMANENT,
        "",
        "Register the task definition again, or correct or leave out `task_definition_arn`.",
    ),
    (
        r"iam:PassRole|Role is not valid",
        Kind.PERMANENT,
        "",
        _ROLES_PASSED,
    ),
    (
        r"ErrorCode: Invalid(Subnet|Group|SecurityGroup)\w*",
        Kind.PERMANENT,
        "",
        "Correct the subnets and security groups of the job (`network_configuration`, `vpc_id`).",
    ),
    (
        r"(CPU|MEMORY) configuration is above your limit",
        Kind.PERMANENT,
        "",
        "Ask for less `cpu` and `memory`, or for more Fargate vCPUs in the Service Quotas console.",
    ),
    # Pulling the image
    (
        _PULL + r"(toomanyrequests|pull rate limit|429|rate exceeded)",
        Kind.TRANSIENT,
        "The image registry limits how often images are pulled.",
        "Use ECR or its pull-through cache, or give the registry's credentials (repositoryCredentials).",
    ),
    (
        _PULL + r"(platform|no matching manifest|architecture)",
        Kind.PERMANENT,
        "The image is not built for the task's CPU architecture.",
        _ARCHITECTURE,
    ),
    (
        _PULL + r"no space left",
        Kind.PERMANENT,
        "The image does not fit on the task's disk.",
        "Give the task more ephemeralStorage (up to 200 GiB), or make the image smaller.",
    ),
    (
        _PULL + r"(pull access denied|" + _REFUSED + ")",
        Kind.PERMANENT,
        "The image may not be pulled, or its repository does not exist.",
        _PULL_RIGHTS,
    ),
    (_PULL + "(" + _UNREACHABLE + ")", Kind.TRANSIENT, "The image registry could not be reached.", _NETWORK),
    (
        _PULL + r"(not found|manifest unknown|name unknown|does not exist|invalid reference|NotFound)",
        Kind.PERMANENT,
        "The image was not found.",
        "Correct the job variable `image`, or push the image.",
    ),
    (_PULL, Kind.TRANSIENT, "The image could not be pulled.", "Check the image's name and that the task can reach it."),
    # The container's command. ResourceInitializationError may stand before these, too.
    (r"exec format error", Kind.PERMANENT, "The image is not built for the task's CPU architecture.", _ARCHITECTURE),
    (
        _NO_COMMAND,
        Kind.PERMANENT,
        "The container's command does not exist in the image.",
        "Correct the job variable `command`, or use an image that has it (Prefect must be installed for the default).",
    ),
    (
        r"(OCI|runc|\bexec\b).*permission denied",
        Kind.PERMANENT,
        "The container's command may not be executed.",
        "Make the file executable in the image, for the user that the container runs as.",
    ),
    (
        r"OutOfMemory|out of memory|OOM.?killed|memory usage",
        Kind.PERMANENT,
        "The container needed more memory than it has.",
        "Raise the job variable `memory`.",
    ),
    # Before the containers: secrets, logs, volumes, network interfaces
    (
        _INIT + r"(ThrottlingException|rate exceeded)",
        Kind.TRANSIENT,
        "AWS throttled the task's own start-up calls.",
        "",
    ),
    (
        _NO_LOG_GROUP,
        Kind.PERMANENT,
        "The task's log group does not exist.",
        _LOG_GROUP,
    ),
    (
        _INIT + r"env(ironment)? ?files?",
        Kind.PERMANENT,
        "An environment file could not be read.",
        "Check the S3 object's ARN, and allow the execution role s3:GetObject on it and s3:GetBucketLocation.",
    ),
    (
        r"Infrastructure Role|ECSTaskVolumesForEBS",
        Kind.PERMANENT,
        "ECS could not make the task's EBS volume with the volume's infrastructure role.",
        _INFRASTRUCTURE,
    ),
    (
        _INIT + r"(EFS|mount\.nfs|file ?system).*(timed out|reset|deadline|try again)",
        Kind.TRANSIENT,
        "The EFS file system could not be mounted in time.",
        "Check that the subnets have mount targets and that the security groups let NFS (2049) through.",
    ),
    (
        _INIT + r"(EFS|mount\.nfs|file ?system)|CannotCreateVolume",
        Kind.PERMANENT,
        "A volume could not be mounted.",
        "Check the volume's id, its mount targets in the task's subnets, and what its policy lets the task role do.",
    ),
    (
        _INIT + r"(" + _REFUSED + ")",
        Kind.PERMANENT,
        "The execution role may not read what the task needs before it starts.",
        "Allow the execution role the action that AWS names (iam/secret-policy.json has those for secrets).",
    ),
    (
        _INIT + _ABSENT + r"|^ResourceNotFoundException.*(secret|parameter)",
        Kind.PERMANENT,
        "A secret or parameter of the task does not exist, or has no such key.",
        "Create it in the task's Region, or correct its ARN in the job's secrets.",
    ),
    (
        r"network interface.*(InsufficientFreeAddresses|free addresses)|InsufficientFreeAddressesInSubnet",
        Kind.CAPACITY,
        "The subnet has no free IP address.",
        "Use larger or more subnets.",
    ),
    (
        r"(Create Network Interface|network interface).*(" + _REFUSED + r"|Invalid\w+\.NotFound|AuthFailure)",
        Kind.PERMANENT,
        "ECS could not make the task's network interface.",
        "Correct the subnets and security groups of the job, and ECS's service-linked role.",
    ),
    (
        r"network interface|\bENI\b(?<!RESOURCE:ENI)|EphemeralStorage provisioning",
        Kind.TRANSIENT,
        "ECS could not provide the task's network interface or disk in time.",
        "",
    ),
    (_INIT + "(" + _UNREACHABLE + ")", Kind.TRANSIENT, "The task could not reach the AWS services it needs.", _NETWORK),
    (
        r"assume (the )?role",
        Kind.PERMANENT,
        "ECS could not assume one of the task's roles.",
        "Let ecs-tasks.amazonaws.com assume the role (its trust policy), and check the role's ARN.",
    ),
    (_INIT, Kind.TRANSIENT, "ECS could not prepare the task.", ""),
    # The rest of starting the containers
    (
        r"logging driver|logger args",
        Kind.TRANSIENT,
        "The log driver could not be started.",
        "Check the log configuration and that the task can reach its destination. " + _NETWORK,
    ),
    (
        r"Container(Runtime)?Timeout|DockerTimeout",
        Kind.TRANSIENT,
        "The container runtime did not answer in time.",
        "",
    ),
    (r"Cannot\w+Error|ContainerRuntimeError", Kind.TRANSIENT, "The container could not be started.", ""),
    # Places to run
    (
        r"Spot.*interrupt",
        Kind.TRANSIENT,
        "AWS took its Fargate Spot capacity back.",
        "Use FARGATE for runs that must not be interrupted.",
    ),
    (
        r"capacity is unavailable|insufficient capacity|no .*capacity available",
        Kind.CAPACITY,
        "AWS has no such Fargate capacity at the moment.",
        "Give the task subnets in more Availability Zones, or let it use FARGATE besides FARGATE_SPOT.",
    ),
    (
        r"limit on the number of (vCPUs|tasks)|vCPU limit|PROVISIONING.*limit|limit.*PROVISIONING",
        Kind.CAPACITY,
        "A quota of the account is used up.",
        "Let other tasks end, or ask for more in the Service Quotas console.",
    ),
    (
        r"RESOURCE:GPU",
        Kind.CAPACITY,
        "No container instance has enough free GPUs.",
        "Add instances with GPUs, or let other tasks end.",
    ),
    (
        r"RESOURCE:|NO ACTIVE INSTANCES|EMPTY CAPACITY PROVIDER|No Container Instances were found",
        Kind.CAPACITY,
        "The cluster has no room for the task.",
        "Add container instances, ask for less `cpu` and `memory`, or use FARGATE.",
    ),
    (
        r"^\W*(\w+: )?AGENT\b",
        Kind.CAPACITY,
        "The ECS agent on the container instance is disconnected.",
        "Look at the cluster's container instances.",
    ),
    (
        r"^\W*(\w+: )?(ATTRIBUTE|LOCATION)\b|placement constraint|MEMBEROF|ATTRIBUTE:",
        Kind.PERMANENT,
        "No container instance has what the task asks for.",
        "Correct the placement constraints or the task definition's requirements, or add such instances.",
    ),
    (
        r"Host EC2 .*(terminated|stopped)|performing maintenance|scheduled for retirement",
        Kind.TRANSIENT,
        "AWS took away the machine under the task.",
        "",
    ),
    (r"Rate exceeded|ThrottlingException|RequestLimitExceeded", Kind.THROTTLE, "AWS throttles requests.", ""),
    (r"InternalError|internal error", Kind.TRANSIENT, "AWS had an internal error.", ""),
)
