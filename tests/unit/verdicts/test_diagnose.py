"""Why tasks stopped, told from what ECS says. The texts are AWS's, as seen in the wild."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecs_worker.model import ContainerFacts, LogStream, TaskFacts
from ecs_worker.verdicts.diagnose import diagnose

ARN = "arn:aws:ecs:eu-west-1:123456789012:task/flows/0f1e2d"
STARTED = datetime(2026, 1, 1, tzinfo=UTC)
LOG = LogStream(group="/ecs/prefect", prefix="ecs-prefect", container="prefect")
_ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"


def failed_to_start(reason: str, *, container: str = "") -> TaskFacts:
    return TaskFacts(
        arn=ARN,
        last_status="STOPPED",
        stop_code="TaskFailedToStart",
        stopped_reason=reason,
        containers=(ContainerFacts("prefect", reason=container),),
    )


def ended(
    code: int | None,
    *,
    reason: str = "",
    stop_code: str = "EssentialContainerExited",
    others: tuple[ContainerFacts, ...] = (),
) -> TaskFacts:
    return TaskFacts(
        arn=ARN,
        last_status="STOPPED",
        started_at=STARTED,
        stop_code=stop_code,
        stopped_reason="Essential container in task exited",
        containers=(*others, ContainerFacts("prefect", exit_code=code, reason=reason)),
    )


def _init(text: str) -> str:
    return f"ResourceInitializationError: {text}"


def _secrets(text: str) -> str:
    return _init(f"unable to pull secrets or registry auth: execution resource retrieval failed: {text}")


@pytest.mark.parametrize(
    ("reason", "cause", "remedy"),
    [
        # Images
        (
            (
                "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref "
                f"{_ECR}/flows:v2@sha256:863: not found"
            ),
            "image was not found",
            "`image`",
        ),
        (
            "CannotPullContainerError: Error response from daemon: manifest for nginx:nope not found: manifest unknown",
            "image was not found",
            "`image`",
        ),
        (
            (
                "CannotPullContainerError: Error response from daemon: pull access denied for flows, repository does "
                "not exist or may require 'docker login'"
            ),
            "may not be pulled",
            "execution role",
        ),
        (
            (
                f"CannotPullContainerError: failed to resolve ref {_ECR}/flows: unexpected status from HEAD request to "
                f"https://{_ECR}/v2/flows/blobs/sha256:863: 403 Forbidden"
            ),
            "may not be pulled",
            "execution role",
        ),
        (
            (
                "CannotPullContainerError: httpReaderSeeker: failed open: 429 Too Many Requests - Server message: "
                "toomanyrequests: You have reached your pull rate limit."
            ),
            "limits how often",
            "ECR",
        ),
        (
            (
                "CannotPullContainerError: ref pull has been retried 5 time(s): failed to do request: Head "
                '"https://x/": dial tcp 34.2.3.4:443: i/o timeout'
            ),
            "could not be reached",
            "NAT gateway",
        ),
        (
            "CannotPullContainerError: failed to find a descriptor for platform {linux/amd64}",
            "CPU architecture",
            "cpuArchitecture",
        ),
        (
            (
                "CannotPullContainerError: pull image manifest has been retried 7 time(s): image Manifest does not "
                "contain descriptor matching platform 'linux/amd64'."
            ),
            "CPU architecture",
            "cpuArchitecture",
        ),
        (
            "CannotPullContainerError: failed to extract layer sha256:e246: write /var/lib: no space left on device",
            "does not fit",
            "ephemeralStorage",
        ),
        ("CannotPullContainerError: something new", "could not be pulled", "image"),
        # What is needed before the containers
        (
            _secrets(
                "unable to retrieve secret from asm: service call has been retried 1 time(s): failed to fetch secret "
                "arn:aws:secretsmanager:eu-west-1:1:secret:key from secrets manager: AccessDeniedException: User: "
                "arn:aws:sts::1:assumed-role/x is not authorized to perform: secretsmanager:GetSecretValue"
            ),
            "execution role may not read",
            "secret-policy.json",
        ),
        (
            _secrets(
                "unable to retrieve secret from asm: failed to fetch secret arn:aws:secretsmanager:eu-west-1:1:secret:k"
                " from secrets manager: ResourceNotFoundException: Secrets Manager can't find the specified secret."
            ),
            "does not exist",
            "Create it",
        ),
        (
            _secrets("unable to retrieve secrets from ssm: invalid ssm parameters: /prefect/key"),
            "does not exist",
            "Create it",
        ),
        (
            _secrets(
                "unable to retrieve ecr registry auth: service call has been retried 3 time(s): RequestError: send "
                'request failed caused by: Post "https://api.ecr.us-east-2.amazonaws.com/": dial tcp: i/o timeout. '
                "Please check your task network configuration."
            ),
            "could not reach",
            "NAT gateway",
        ),
        (
            _init(
                "unable to pull secrets or registry auth: The task cannot pull registry auth from Amazon ECR: There is "
                "a connection issue between the task and Amazon ECR. Check your task network configuration."
            ),
            "could not reach",
            "NAT gateway",
        ),
        (
            (
                "CannotStartContainerError: Error response from daemon: failed to initialize logging driver: failed to "
                "create Cloudwatch log stream: ResourceNotFoundException: The specified log group does not exist"
            ),
            "log group does not exist",
            "configure_cloudwatch_logs",
        ),
        (
            _init(
                "failed to invoke EFS utils commands to set up EFS volumes: stderr: Failed to resolve "
                '"fs-1.efs.eu-west-1.amazonaws.com" - check that your file system ID is correct'
            ),
            "volume could not be mounted",
            "mount targets",
        ),
        (
            _init("failed to invoke EFS utils commands: stderr: mount.nfs4: Connection timed out"),
            "could not be mounted in time",
            "2049",
        ),
        (
            _init("failed to download env files: file download command: non empty error stream: AccessDenied"),
            "environment file",
            "s3:GetObject",
        ),
        ("Timeout waiting for network interface provisioning to complete.", "network interface", ""),
        (
            (
                "Unexpected EC2 error while attempting to Create Network Interface with public IP assignment disabled "
                "in subnet 'subnet-1': InsufficientFreeAddressesInSubnet"
            ),
            "no free IP address",
            "subnets",
        ),
        (
            (
                "ECS was unable to assume the role 'arn:aws:iam::1:role/x' that was provided for this task. Please "
                "verify that the role being passed has the proper trust relationship and permissions"
            ),
            "could not assume",
            "ecs-tasks.amazonaws.com",
        ),
        # The container's command
        (
            (
                "CannotStartContainerError: ResourceInitializationError: failed to create new container runtime task: "
                'failed to create shim: OCI runtime create failed: starting container process caused: exec: "-url": '
                "executable file not found in"
            ),
            "command does not exist",
            "`command`",
        ),
        (
            (
                "CannotStartContainerError: ResourceInitializationError: failed to create new container runtime task: "
                'OCI runtime create failed: starting container process caused: exec: "/opt/run.sh": stat '
                "/opt/run.sh...no such file or direct..."
            ),
            "command does not exist",
            "`command`",
        ),
        (
            (
                "CannotStartContainerError: OCI runtime create failed: runc create failed: unable to start container "
                'process: exec: "/app/run.sh": permission denied: unknown'
            ),
            "may not be executed",
            "executable",
        ),
        ("CannotStartContainerError: exec /usr/bin/tini: exec format error", "CPU architecture", "cpuArchitecture"),
        (
            (
                "CannotStartContainerError: OCI runtime create failed: container init was OOM-killed (memory limit too "
                "low?): unknown"
            ),
            "more memory",
            "`memory`",
        ),
        ("ContainerRuntimeTimeoutError: Could not transition to running; timed out after waiting 1m", "in time", ""),
        ("CannotStartContainerError: failed to get container status", "could not be started", ""),
        ("CannotCreateVolumeError: failed to create volume", "volume", "mount targets"),
        # Places to run
        ("RESOURCE:MEMORY", "no room", "container instances"),
        ("Capacity is unavailable at this time. Please try again later", "no such Fargate capacity", "Availability"),
        ("TaskFailedToStart: ATTRIBUTE", "No container instance", "constraints"),
        ("Host EC2 (instance i-0abc) terminated.", "machine", ""),
        ("InternalError: something", "internal error", ""),
    ],
)
def test_a_task_that_did_not_start(reason: str, cause: str, remedy: str) -> None:
    for task in (failed_to_start(reason), failed_to_start("Task failed to start", container=reason)):
        found = diagnose(task, container="prefect", log=LOG)
        assert cause in found.cause
        assert remedy in found.remedy
        assert reason[:60] in found.evidence
        assert found.exit_code is None
        assert "/ecs/v2/clusters/flows/tasks/0f1e2d" in found.where, "there is no log of a container that never ran"


@pytest.mark.parametrize(
    ("code", "cause", "remedy"),
    [
        (0, "success (exit code 0)", "prefect flow-run execute"),
        (1, "failed (exit code 1)", "Prefect API"),
        (2, "wrong way (exit code 2)", "`command`"),
        (125, "runtime could not run", ""),
        (126, "may not be executed", "executable"),
        (127, "does not exist in the image", "`command`"),
        (130, "SIGINT", ""),
        (134, "SIGABRT", "memory"),
        (137, "SIGKILL", "`memory`"),
        (139, "SIGSEGV", "native library"),
        (143, "SIGTERM", ""),
        (152, "SIGXCPU", ""),
        (42, "exited with code 42", "log"),
        (None, "ECS does not know how", "log"),
    ],
)
def test_exit_codes(code: int | None, cause: str, remedy: str) -> None:
    found = diagnose(ended(code), container="prefect", log=LOG)
    assert cause in found.cause
    assert remedy in found.remedy
    assert found.exit_code == code


@pytest.mark.parametrize("code", [0, 1, 137])
def test_out_of_memory_is_told_whatever_the_exit_code(code: int) -> None:
    task = ended(code, reason="OutOfMemoryError: Container killed due to memory usage")
    found = diagnose(task, container="prefect")
    assert "more memory" in found.cause
    assert "`memory`" in found.remedy
    assert "OutOfMemoryError" in found.evidence


@pytest.mark.parametrize(
    ("stop_code", "reason", "cause"),
    [
        ("UserInitiated", "Task stopped by user", "stopped on request"),
        ("ServiceSchedulerInitiated", "Scaling activity initiated by (deployment ecs-svc/1)", "service stopped"),
        ("SpotInterruption", "Your Spot Task was interrupted.", "Spot capacity"),
        ("TerminationNotice", "ECS is performing maintenance on the underlying infrastructure", "machine"),
        ("InfrastructureHealth", "", "unhealthy"),
        ("", "Task failed container health checks", "health check"),
        ("", "Your Spot Task was interrupted.", "Spot capacity"),
        ("SomethingNew", "OutOfMemoryError: container killed", "more memory"),
    ],
)
def test_the_stop_explains_the_exit_code(stop_code: str, reason: str, cause: str) -> None:
    task = replace(ended(137), stop_code=stop_code, stopped_reason=reason)
    found = diagnose(task, container="prefect")
    assert cause in found.cause
    assert found.exit_code == 137
    assert reason in found.evidence


def side_car(code: int | None, reason: str = "") -> tuple[ContainerFacts, ...]:
    return (ContainerFacts("fluent-bit", exit_code=code, reason=reason),)


def test_side_cars_do_not_count() -> None:
    assert "exit code 1)" in diagnose(ended(1, others=side_car(139)), container="prefect").cause
    assert "exit code 0" in diagnose(ended(0, others=side_car(137)), container="prefect").cause


@pytest.mark.parametrize(("own", "other"), [(143, 1), (143, 0), (137, 2), (None, 1)])
def test_a_side_car_that_took_the_task_down_is_the_cause(own: int | None, other: int) -> None:
    found = diagnose(ended(own, others=side_car(other)), container="prefect")
    assert f"'fluent-bit' exited with code {other}" in found.cause
    assert found.exit_code == own


def test_a_side_car_out_of_memory() -> None:
    task = ended(143, others=side_car(1, "OutOfMemoryError: Container killed due to memory usage"))
    found = diagnose(task, container="prefect")
    assert "'fluent-bit'" in found.cause
    assert "`memory`" in found.remedy


@pytest.mark.parametrize("other", [0, 137, 143, None])
def test_a_kill_is_not_blamed_on_a_side_car_that_ended_well(other: int | None) -> None:
    assert "SIGKILL" in diagnose(ended(137, others=side_car(other)), container="prefect").cause


def test_a_side_car_whose_image_is_missing() -> None:
    reason = "CannotPullContainerError: Error response from daemon: manifest for x not found"
    task = replace(
        failed_to_start("Task failed to start"),
        containers=(ContainerFacts("prefect"), ContainerFacts("otel", reason=reason)),
    )
    assert "image was not found" in diagnose(task, container="prefect").cause


def test_a_task_of_which_only_the_name_is_known() -> None:
    found = diagnose(TaskFacts(arn=ARN, last_status="STOPPED"), container="prefect")
    assert found.cause == "ECS could not start the task."
    assert found.evidence == ""
    assert found.exit_code is None


@pytest.mark.parametrize(
    ("partition", "region", "domain"),
    [
        ("aws", "eu-west-1", "https://eu-west-1.console.aws.amazon.com/"),
        ("aws-cn", "cn-north-1", "https://cn-north-1.console.amazonaws.cn/"),
        ("aws-us-gov", "us-gov-west-1", "https://us-gov-west-1.console.amazonaws-us-gov.com/"),
    ],
)
def test_links_lead_to_the_partitions_own_console(partition: str, region: str, domain: str) -> None:
    task = replace(ended(1), arn=f"arn:{partition}:ecs:{region}:1:task/flows/0f1e2d")
    assert domain in diagnose(task, container="prefect", log=LOG).where
    assert domain in diagnose(task, container="prefect").where


def test_the_log_link() -> None:
    where = diagnose(ended(1), container="prefect", log=replace(LOG, region="eu-west-2")).where
    assert where == (
        "Log: /ecs/prefect ecs-prefect/prefect/0f1e2d https://eu-west-2.console.aws.amazon.com/cloudwatch/home"
        "?region=eu-west-2#logsV2:log-groups/log-group/$252Fecs$252Fprefect/log-events/"
        "ecs-prefect$252Fprefect$252F0f1e2d"
    )


def test_a_partition_without_a_known_console_has_no_link() -> None:
    task = replace(ended(1), arn="arn:aws-iso:ecs:us-iso-east-1:1:task/flows/0f1e2d")
    assert diagnose(task, container="prefect").where == "Task: 0f1e2d"


def test_the_whole_message() -> None:
    task = ended(137, reason="OutOfMemoryError: Container killed due to memory usage")
    assert diagnose(task, container="prefect", log=LOG).message == (
        "The container needed more memory than it has. Raise the job variable `memory`. ECS says: "
        "EssentialContainerExited: Essential container in task exited; container 'prefect': exit code 137, "
        "OutOfMemoryError: Container killed due to memory usage. Log: /ecs/prefect ecs-prefect/prefect/0f1e2d "
        "https://eu-west-1.console.aws.amazon.com/cloudwatch/home?region=eu-west-1#logsV2:log-groups/log-group/"
        "$252Fecs$252Fprefect/log-events/ecs-prefect$252Fprefect$252F0f1e2d"
    )


texts = st.text(max_size=3000)
exit_codes = st.none() | st.integers(-1, 300)


@given(
    arn=st.just(ARN) | texts,
    stop_code=st.sampled_from(["EssentialContainerExited", "TaskFailedToStart", "UserInitiated", "New", ""]),
    reason=texts,
    own=st.tuples(exit_codes, texts),
    other=st.tuples(exit_codes, texts),
    started=st.sampled_from([None, STARTED]),
    container=st.sampled_from(["prefect", "absent"]),
)
def test_every_stop_has_a_bounded_diagnosis(
    arn: str,
    stop_code: str,
    reason: str,
    own: tuple[int | None, str],
    other: tuple[int | None, str],
    started: datetime | None,
    container: str,
) -> None:
    task = TaskFacts(
        arn=arn,
        stop_code=stop_code,
        stopped_reason=reason,
        started_at=started,
        containers=(ContainerFacts("prefect", *own), ContainerFacts("other", *other)),
    )
    found = diagnose(task, container=container, log=LOG)
    assert found.cause.endswith(".")
    assert not found.remedy or found.remedy.endswith((".", ")"))
    assert len(found.evidence) <= 502
    assert found.exit_code == (own[0] if container == "prefect" else None)
