"""What a call to AWS is checked against; what IAM says to that, `ecs_worker.iam.evaluate` knows.

Sources: the Service Authorization Reference, and the ECS developer guide on PassRole and tagging at creation.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from ecs_worker.iam.evaluate import Request, allowed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["ACCOUNT", "REGION", "Asked", "Request", "allowed", "arn", "requests_of"]

REGION, ACCOUNT = "us-east-1", "123456789012"


class Asked:
    """What IAM would have been asked for the calls that it hears of, each once."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def hear(self, action: str, body: str) -> None:
        """A call to AWS, as `ChaosProxy` tells of it."""
        self.requests += [each for each in requests_of(_operation(action, body), body) if each not in self.requests]

    @property
    def actions(self) -> set[str]:
        return {request.action for request in self.requests}


def requests_of(operation: str, body: str) -> list[Request]:
    """What IAM is asked when that call is made. `body`: as it was sent, JSON or a form."""
    asked = _Asked(_parameters(body))
    return list(getattr(asked, operation, lambda: asked.without_resources(operation))())


def _operation(action: str, body: str) -> str:
    """JSON comes with the operation in a header, which `action` ends with; a form names it."""
    return parse_qs(body)["Action"][0] if "Action=" in body[:200] else action.rpartition(" ")[2]


def _parameters(body: str) -> dict[str, Any]:
    if body.startswith("{"):
        return dict(json.loads(body))
    return {name: values[0] for name, values in parse_qs(body).items()}


def arn(service: str, resource: str) -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}"


class _Asked:
    """One method for each operation that knows resources."""

    _SERVICES: Mapping[str, Sequence[str]] = {
        "ecs": ("DescribeTaskDefinition", "ListTaskDefinitions", "DeregisterTaskDefinition"),
        "ec2": (
            "DescribeVpcs",
            "DescribeSubnets",
            "DescribeNetworkInterfaces",
            "DescribeRouteTables",
            "DescribeNatGateways",
            "DescribeVpcEndpoints",
            "DescribeSecurityGroups",
        ),
        "servicequotas": ("GetServiceQuota",),
    }

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._given = parameters
        self._cluster = str(parameters.get("cluster", "default")).rpartition("/")[2]
        self._in_cluster = {"ecs:cluster": arn("ecs", f"cluster/{self._cluster}")}

    def RunTask(self) -> Iterator[Request]:  # noqa: N802 - AWS's names
        # Without a revision it is the newest that counts (RunTask, since March 2024).
        definition = str(self._given["taskDefinition"])
        definition = definition if definition.startswith("arn:") else arn("ecs", f"task-definition/{definition}")
        revision = "" if re.search(r":\d+$", definition) else ":7"
        yield Request("ecs:RunTask", definition + revision, self._in_cluster)
        if self._given.get("tags"):
            tasks = arn("ecs", f"task/{self._cluster}/*")
            yield Request("ecs:TagResource", tasks, {"ecs:CreateAction": "RunTask"})
        yield from self._passed(self._given.get("overrides", {}))
        for volume in self._given.get("volumeConfigurations", ()):
            yield _passing(volume["managedEBSVolume"]["roleArn"], "ecs.amazonaws.com")

    def RegisterTaskDefinition(self) -> Iterator[Request]:  # noqa: N802
        family = arn("ecs", f"task-definition/{self._given['family']}:*")
        yield Request("ecs:RegisterTaskDefinition", family)
        if self._given.get("tags"):
            yield Request("ecs:TagResource", family, {"ecs:CreateAction": "RegisterTaskDefinition"})
        yield from self._passed(self._given)

    def StopTask(self) -> Iterator[Request]:  # noqa: N802
        yield Request("ecs:StopTask", self._given["task"], self._in_cluster)

    def DescribeTasks(self) -> Iterator[Request]:  # noqa: N802
        for task in self._given["tasks"]:
            yield Request("ecs:DescribeTasks", task, self._in_cluster)

    def ListTasks(self) -> Iterator[Request]:  # noqa: N802
        yield Request("ecs:ListTasks", arn("ecs", f"container-instance/{self._cluster}/*"), self._in_cluster)

    def GetLogEvents(self) -> Iterator[Request]:  # noqa: N802
        stream = f"log-group:{self._given['logGroupName']}:log-stream:{self._given['logStreamName']}"
        yield Request("logs:GetLogEvents", arn("logs", stream))

    def FilterLogEvents(self) -> Iterator[Request]:  # noqa: N802
        yield Request("logs:FilterLogEvents", arn("logs", f"log-group:{self._given['logGroupName']}"))

    def DescribeClusters(self) -> Iterator[Request]:  # noqa: N802
        for cluster in self._given.get("clusters", ["default"]):
            named = cluster if cluster.startswith("arn:") else arn("ecs", f"cluster/{cluster}")
            yield Request("ecs:DescribeClusters", named)

    def GetRole(self) -> Iterator[Request]:  # noqa: N802
        yield Request("iam:GetRole", f"arn:aws:iam::{ACCOUNT}:role/{self._given['RoleName']}")

    def SimulatePrincipalPolicy(self) -> Iterator[Request]:  # noqa: N802
        yield Request("iam:SimulatePrincipalPolicy", self._given["PolicySourceArn"])

    def BatchGetImage(self) -> Iterator[Request]:  # noqa: N802
        yield Request("ecr:BatchGetImage", arn("ecr", f"repository/{self._given['repositoryName']}"))

    def GetDownloadUrlForLayer(self) -> Iterator[Request]:  # noqa: N802
        yield Request("ecr:GetDownloadUrlForLayer", arn("ecr", f"repository/{self._given['repositoryName']}"))

    def DeleteLogGroup(self) -> Iterator[Request]:  # noqa: N802
        yield Request("logs:DeleteLogGroup", arn("logs", f"log-group:{self._given['logGroupName']}"))

    def DescribeServices(self) -> Iterator[Request]:  # noqa: N802
        for service in self._given["services"]:
            yield Request("ecs:DescribeServices", self._service(service), self._in_cluster)

    def UpdateService(self) -> Iterator[Request]:  # noqa: N802
        yield Request("ecs:UpdateService", self._service(self._given["service"]), self._in_cluster)

    def _service(self, name: str) -> str:
        return arn("ecs", f"service/{self._cluster}/{name.rpartition('/')[2]}")

    def CreateChangeSet(self) -> Iterator[Request]:  # noqa: N802
        yield from self._of_stack("CreateChangeSet")
        yield from self._of_stack("TagResource")

    def DescribeChangeSet(self) -> Iterator[Request]:  # noqa: N802
        yield Request("cloudformation:DescribeChangeSet", self._given["ChangeSetName"])

    def ExecuteChangeSet(self) -> Iterator[Request]:  # noqa: N802
        yield Request("cloudformation:ExecuteChangeSet", self._given["ChangeSetName"])

    def DeleteChangeSet(self) -> Iterator[Request]:  # noqa: N802
        yield Request("cloudformation:DeleteChangeSet", self._given["ChangeSetName"])

    def DescribeStacks(self) -> Iterator[Request]:  # noqa: N802
        yield from self._of_stack("DescribeStacks")

    def DescribeStackEvents(self) -> Iterator[Request]:  # noqa: N802
        yield from self._of_stack("DescribeStackEvents")

    def GetTemplate(self) -> Iterator[Request]:  # noqa: N802
        yield from self._of_stack("GetTemplate")

    def DeleteStack(self) -> Iterator[Request]:  # noqa: N802
        yield from self._of_stack("DeleteStack")

    def _of_stack(self, operation: str) -> Iterator[Request]:
        name = self._given.get("StackName", "*")
        stack = name if name.startswith("arn:") else arn("cloudformation", f"stack/{name}/0123")
        yield Request(f"cloudformation:{operation}", stack)

    def CreateSecret(self) -> Iterator[Request]:  # noqa: N802
        for action in ("CreateSecret", "TagResource"):
            yield Request(f"secretsmanager:{action}", arn("secretsmanager", f"secret:{self._given['Name']}-a1B2c3"))

    def DescribeSecret(self) -> Iterator[Request]:  # noqa: N802
        yield from self._of_secret("DescribeSecret")

    def GetSecretValue(self) -> Iterator[Request]:  # noqa: N802
        yield from self._of_secret("GetSecretValue")

    def PutSecretValue(self) -> Iterator[Request]:  # noqa: N802
        yield from self._of_secret("PutSecretValue")

    def RestoreSecret(self) -> Iterator[Request]:  # noqa: N802
        yield from self._of_secret("RestoreSecret")

    def DeleteSecret(self) -> Iterator[Request]:  # noqa: N802
        yield from self._of_secret("DeleteSecret")

    def _of_secret(self, operation: str) -> Iterator[Request]:
        name = self._given["SecretId"]
        secret = name if name.startswith("arn:") else arn("secretsmanager", f"secret:{name}-a1B2c3")
        yield Request(f"secretsmanager:{operation}", secret)

    def GetCallerIdentity(self) -> list[Request]:  # noqa: N802
        """No policy can deny it (STS API)."""
        return []

    def without_resources(self, operation: str) -> Iterator[Request]:
        (service,) = (name for name, known in self._SERVICES.items() if operation in known)
        yield Request(f"{service}:{operation}")

    def _passed(self, part: Mapping[str, Any]) -> Iterator[Request]:
        for name in ("taskRoleArn", "executionRoleArn"):
            if part.get(name):
                yield _passing(part[name], "ecs-tasks.amazonaws.com")


def _passing(role: str, service: str) -> Request:
    return Request("iam:PassRole", role, {"iam:PassedToService": service})
