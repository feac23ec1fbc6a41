"""What a task needs of AWS's other services, taken directly from moto's: logs, secrets, files, network, events."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from moto.core.exceptions import ServiceException, _RESTError
from moto.ec2.models import ec2_backends
from moto.ec2.utils import random_private_ip
from moto.events.models import events_backends
from moto.logs.models import logs_backends
from moto.s3.models import s3_backends
from moto.secretsmanager.models import secretsmanager_backends
from moto.ssm.models import ssm_backends

from ecs_worker.local.containers import CannotStart
from ecs_worker.local.rules import invalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ecs_worker.local.containers import ContainerPlan, Output

LOGS_LOCK = threading.RLock()  # moto's log streams are not thread-safe

# moto has two families of errors: newer services raise ServiceException, older ones HTTP errors.
MOTO_ERRORS = (ServiceException, _RESTError)


class Account:
    """One account's services in one Region."""

    def __init__(self, account_id: str, region: str) -> None:
        self.account_id = account_id
        self.region = region

    def output(self, plan: ContainerPlan, task_id: str) -> Output:
        """Where the container's lines go, by its log configuration. Raises CannotStart if they can't go there."""
        if plan.log_driver == "awslogs":
            return CloudWatchOutput(self, plan, task_id)
        return StderrOutput(f"{task_id[:8]}/{plan.name}")

    def environment(self, plan: ContainerPlan) -> dict[str, str]:
        """The container's variables: environment files < environment < secrets. Raises CannotStart."""
        files = [self._environment_file(arn) for arn in plan.environment_files]
        merged = {name: value for file in reversed(files) for name, value in file.items()}  # the first file wins
        return merged | dict(plan.environment) | {name: self._secret(at) for name, at in plan.secrets.items()}

    def _environment_file(self, arn: str) -> dict[str, str]:
        bucket, _, key = arn.rpartition(":")[2].partition("/")
        try:
            found = s3_backends[self.account_id]["aws"].get_object(bucket, key)
        except MOTO_ERRORS:
            found = None
        if found is None:
            raise CannotStart(
                "ResourceInitializationError: failed to download env files: file download command: non empty error"
                f" stream: service call has been retried 1 time(s): NoSuchKey: {arn}"
            )
        lines = found.value.decode("utf-8", "replace").splitlines()
        pairs = [line.partition("=") for line in lines if "=" in line and not line.startswith("#")]
        return {name: value for name, _, value in pairs}

    def _secret(self, place: str) -> str:
        try:
            if ":secretsmanager:" in place:
                return self._from_secrets_manager(place)
            return self._from_parameter_store(place)
        except MOTO_ERRORS as error:
            raise CannotStart(_secret_missing("secret from asm", str(error.message))) from None

    def _from_secrets_manager(self, arn: str) -> str:
        # arn:partition:secretsmanager:region:account:secret:name[:json-key:version-stage:version-id]
        parts = arn.split(":")
        key, stage, version = (*parts[7:], "", "", "")[:3]
        backend = secretsmanager_backends[parts[4]][parts[3]]
        secret = backend.get_secret_value(":".join(parts[:7]), version or None, stage or None)
        text = str(secret.get("SecretString", ""))
        if not key:
            return text
        try:
            return str(json.loads(text)[key])
        except (ValueError, KeyError, TypeError):
            raise CannotStart(
                _secret_missing("secret from asm", f"retrieved secret did not contain json key {key}")
            ) from None

    def _from_parameter_store(self, name: str) -> str:
        account, region = self.account_id, self.region
        if name.startswith("arn:"):
            _, _, _, region, account, resource = name.split(":", 5)
            name = resource.removeprefix("parameter")
        backend = ssm_backends[account][region]
        parameter = backend.get_parameter(name) or backend.get_parameter(name.lstrip("/"))
        if parameter is None:
            raise CannotStart(_secret_missing("secrets from ssm", f"invalid ssm parameters: {name}"))
        return str(parameter.response_object(decrypt=True, region=region)["Value"])

    def check_network(self, network: Mapping[str, Any]) -> None:
        """Refuse subnets and security groups that don't exist, as RunTask does."""
        backend = ec2_backends[self.account_id][self.region]
        for kind, ids, find, code in (
            ("subnet", network["subnets"], backend.get_subnet, "InvalidSubnetID.NotFound"),
            (
                "security group",
                network.get("securityGroups") or (),
                backend.get_security_group_from_id,
                "InvalidGroup.NotFound",
            ),
        ):
            for name in ids:
                if not _exists(find, name):
                    id_words = "subnet ID" if kind == "subnet" else kind
                    raise invalid(
                        f"Error retrieving {kind} information for [{name}]: The {id_words} '{name}' does not exist"
                        f" (ErrorCode: {code})"
                    )

    def attach_interface(self, network: Mapping[str, Any]) -> Interface:
        """Make a network interface in the first of the subnets."""
        backend = ec2_backends[self.account_id][self.region]
        subnet = backend.get_subnet(network["subnets"][0])
        groups = network.get("securityGroups") or [backend.get_default_security_group(subnet.vpc_id).id]
        made = backend.create_network_interface(
            subnet=subnet, private_ip_address=random_private_ip(subnet.cidr_block), group_ids=list(groups)
        )
        made.status = "in-use"
        return Interface(self, made, str(subnet.id), str(subnet.availability_zone))

    def publish(self, detail: Mapping[str, Any]) -> None:
        """Send an ECS task state change event to the default event bus.

        An event that can't be delivered (the rule's queue is gone) is dropped, as EventBridge does in the end.
        """
        rules = events_backends[self.account_id][self.region].describe_event_bus("default").rules
        if not rules:
            return
        event = {
            "version": "0",
            "id": str(uuid4()),
            "detail-type": "ECS Task State Change",
            "source": "aws.ecs",
            "account": self.account_id,
            "time": time.time(),  # moto's targets write it as text
            "region": self.region,
            "resources": [detail["taskArn"]],
            "detail": detail,
        }
        for rule in list(rules.values()):
            if rule.state == "ENABLED":
                with contextlib.suppress(*MOTO_ERRORS):
                    # Not by PutEvents: it renders each event with a text template, which takes 20 ms.
                    rule.send_to_targets(event, transform_input=any("InputTransformer" in t for t in rule.targets))


def _exists(find: Any, name: str) -> bool:
    """Whether `find` finds it: moto's look-ups answer None, or raise, for what doesn't exist."""
    try:
        return find(name) is not None
    except MOTO_ERRORS:
        return False


def _secret_missing(what: str, reason: str) -> str:
    return (
        "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed:"
        f" unable to retrieve {what}: service call has been retried 1 time(s): {reason}"
    )


class Interface:
    """A task's network interface."""

    def __init__(self, account: Account, made: Any, subnet_id: str, zone: str) -> None:
        self._account = account
        self._made = made
        self._subnet_id = subnet_id
        self.zone = zone
        self.attachment_id = str(made.id).removeprefix("eni-")

    def attachment(self, status: str) -> dict[str, Any]:
        """The attachment, as DescribeTasks shows it in the task."""
        details = {
            "subnetId": self._subnet_id,
            "networkInterfaceId": self._made.id,
            "macAddress": self._made.mac_address,
            "privateDnsName": getattr(self._made, "private_dns_name", None),  # moto's has one in default VPCs only
            "privateIPv4Address": self._made.private_ip_address,
        }
        return {
            "id": self.attachment_id,
            "type": "ElasticNetworkInterface",
            "status": status,
            "details": [{"name": name, "value": value} for name, value in details.items() if value],
        }

    def of_container(self) -> dict[str, str]:
        """The interface, as DescribeTasks shows it in each container."""
        return {"attachmentId": self.attachment_id, "privateIpv4Address": str(self._made.private_ip_address)}

    def delete(self) -> None:
        """Delete it. Somebody may have deleted it before, or reset EC2."""
        with contextlib.suppress(*MOTO_ERRORS):
            ec2_backends[self._account.account_id][self._account.region].delete_network_interface(self._made.id)


class CloudWatchOutput:
    """The awslogs driver: a container's lines in the stream `prefix/container/task-id`."""

    def __init__(self, account: Account, plan: ContainerPlan, task_id: str) -> None:
        options = plan.log_options
        self._group = options.get("awslogs-group", "")
        prefix = options.get("awslogs-stream-prefix")
        self._stream = f"{prefix}/{plan.name}/{task_id}" if prefix else f"{plan.name}/{task_id}"
        self._logs = logs_backends[account.account_id][options.get("awslogs-region") or account.region]
        with LOGS_LOCK:
            if options.get("awslogs-create-group") == "true" and self._group not in self._logs.groups:
                self._logs.create_log_group(self._group, {})
            try:
                self._logs.ensure_log_stream(self._group, self._stream)
            except MOTO_ERRORS:
                raise CannotStart(
                    "ResourceInitializationError: failed to validate logger args: create stream has been retried 1"
                    " times: failed to create Cloudwatch log stream: ResourceNotFoundException: The specified log"
                    " group does not exist. : exit status 1"
                ) from None

    def write(self, timestamp: int, lines: Sequence[str]) -> None:
        """Write the lines. If the group was deleted meanwhile they are lost, as with Docker's driver."""
        events = [{"timestamp": timestamp, "message": line} for line in lines]
        with LOGS_LOCK, contextlib.suppress(*MOTO_ERRORS):
            self._logs.put_log_events(self._group, self._stream, events)


class StderrOutput:
    """Without awslogs, a container's lines go to the serving process's own standard error."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def write(self, timestamp: int, lines: Sequence[str]) -> None:  # noqa: ARG002 - Output's; terminals need no times
        """Write the lines, each after the names of its task and container."""
        sys.stderr.write("".join(f"{self._prefix} | {line}\n" for line in lines))
        sys.stderr.flush()
