"""AWS CloudFormation: stacks, their change sets and their events. Answers become values here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ecs_worker.aws.errors import usable
from ecs_worker.aws.service import Service
from ecs_worker.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

_INVALID = "ValidationError"  # the code of all that CloudFormation refuses
_NOTHING = ("didn't contain changes", "No updates are to be performed")
# Of a deleted stack a name tells nothing any more, an id does for 90 days.
DELETED = "DELETE_COMPLETE"
IN_REVIEW = "REVIEW_IN_PROGRESS"  # a stack that has nothing but change sets


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack. `reason` is why it has its status, where AWS says it."""

    id: str
    name: str
    status: str
    reason: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def moving(self) -> bool:
        """Whether something is still being done to it."""
        return self.status.endswith("_IN_PROGRESS") and self.status != IN_REVIEW


@dataclass(frozen=True, slots=True)
class Change:
    """What a change set does to one resource. `action` is Add, Modify, Remove …; `replaces`: with a new one."""

    action: str
    logical_id: str
    kind: str
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """A change set. `status` is CREATE_COMPLETE once it may be executed."""

    status: str
    reason: str
    changes: tuple[Change, ...]

    @property
    def ready(self) -> bool:
        """Whether CloudFormation has worked it out, well or not."""
        return not self.status.endswith(("_IN_PROGRESS", "_PENDING"))

    @property
    def empty(self) -> bool:
        """Whether it failed because there is nothing to change."""
        return self.status == "FAILED" and any(words in self.reason for words in _NOTHING)


@dataclass(frozen=True, slots=True)
class StackEvent:
    """One step of a stack's change."""

    id: str
    stack_id: str
    at: datetime
    logical_id: str
    physical_id: str
    kind: str
    status: str
    reason: str

    @property
    def of_stack(self) -> bool:
        """Whether it tells of the stack itself. A nested stack is a resource of it."""
        return self.kind == "AWS::CloudFormation::Stack" and self.physical_id == self.stack_id


class CloudFormation(Service):
    """CloudFormation in one account and Region. A `stack` is named by its name or its id."""

    name = "cloudformation"

    async def stack(self, stack: str) -> Stack | None:
        """The stack; None if there is none (any more)."""
        try:
            answer = await self._call("DescribeStacks", StackName=stack)
        except AwsError as error:
            if error.code == _INVALID and "does not exist" in error.message:
                return None
            raise
        with usable("DescribeStacks"):
            found = _stack(answer["Stacks"][0])
        return None if found.status == DELETED else found

    async def stacks(self) -> list[Stack]:
        """All stacks of the account in the Region."""
        found = await self._pages("DescribeStacks", "Stacks", "NextToken")
        with usable("DescribeStacks"):
            return [_stack(each) for each in found]

    async def template(self, stack: str) -> str:
        """The stack's template, as it was given."""
        answer = await self._call("GetTemplate", StackName=stack, TemplateStage="Original")
        with usable("GetTemplate"):
            # botocore reads JSON by itself; ours is YAML.
            body = answer["TemplateBody"]
            return body if isinstance(body, str) else ""

    async def create_change_set(
        self,
        stack: str,
        change_set: str,
        template: str,
        parameters: Mapping[str, str | None],
        *,
        tags: Mapping[str, str],
        new: bool,
    ) -> str:
        """Begin a change set and return its id. A parameter that is None keeps its value. `new`: for a new stack.

        The template may make IAM resources whose names CloudFormation chooses.
        """
        given = [
            {"ParameterKey": name, "UsePreviousValue": True}
            if value is None
            else {"ParameterKey": name, "ParameterValue": value}
            for name, value in parameters.items()
        ]
        answer = await self._call(
            "CreateChangeSet",
            StackName=stack,
            ChangeSetName=change_set,
            ChangeSetType="CREATE" if new else "UPDATE",
            TemplateBody=template,
            Parameters=given,
            Capabilities=["CAPABILITY_IAM"],
            Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
        )
        with usable("CreateChangeSet"):
            return str(answer["Id"])

    async def change_set(self, change_set_id: str) -> ChangeSet:
        """The change set, as far as it is worked out, with all its changes."""
        changes: list[Change] = []
        token: str | None = None
        while True:
            answer = await self._call("DescribeChangeSet", ChangeSetName=change_set_id, NextToken=token)
            with usable("DescribeChangeSet"):
                changes += [_change(each["ResourceChange"]) for each in answer.get("Changes") or ()]
                token = answer.get("NextToken") or None
                if token is None:
                    return ChangeSet(str(answer["Status"]), str(answer.get("StatusReason") or ""), tuple(changes))

    async def delete_change_set(self, change_set_id: str) -> None:
        """Delete a change set that was not executed."""
        await self._call("DeleteChangeSet", ChangeSetName=change_set_id)

    async def execute_change_set(self, change_set_id: str) -> None:
        """Begin to do what the change set says."""
        await self._call("ExecuteChangeSet", ChangeSetName=change_set_id)

    async def delete_stack(self, stack: str) -> None:
        """Begin to delete the stack. One that doesn't exist is deleted already."""
        await self._call("DeleteStack", StackName=stack)

    async def last_event(self, stack: str) -> str | None:
        """The id of the stack's newest event: what comes later belongs to the next change."""
        answer = await self._call("DescribeStackEvents", StackName=stack)
        with usable("DescribeStackEvents"):
            return next((str(each["EventId"]) for each in answer["StackEvents"]), None)

    async def events(self, stack: str, after: str | None = None) -> list[StackEvent]:
        """The stack's events after the one with that id (None: all), oldest first."""
        found: list[StackEvent] = []
        token: str | None = None
        while True:
            answer = await self._call("DescribeStackEvents", StackName=stack, NextToken=token)
            with usable("DescribeStackEvents"):
                for each in answer["StackEvents"]:  # newest first
                    event = _event(each)
                    if event.id == after:
                        return found[::-1]
                    found.append(event)
                token = answer.get("NextToken") or None
                if token is None:
                    return found[::-1]


def _stack(raw: Mapping[str, Any]) -> Stack:
    return Stack(
        id=str(raw["StackId"]),
        name=str(raw["StackName"]),
        status=str(raw["StackStatus"]),
        reason=str(raw.get("StackStatusReason") or ""),
        parameters={each["ParameterKey"]: each.get("ParameterValue", "") for each in raw.get("Parameters") or ()},
        outputs={each["OutputKey"]: each.get("OutputValue", "") for each in raw.get("Outputs") or ()},
        tags={each["Key"]: each.get("Value", "") for each in raw.get("Tags") or ()},
        created_at=raw.get("CreationTime"),
        updated_at=raw.get("LastUpdatedTime"),
    )


def _change(raw: Mapping[str, Any]) -> Change:
    replaces = raw.get("Replacement") in {"True", "Conditional"}
    return Change(str(raw["Action"]), str(raw["LogicalResourceId"]), str(raw["ResourceType"]), replaces)


def _event(raw: Mapping[str, Any]) -> StackEvent:
    return StackEvent(
        id=str(raw["EventId"]),
        stack_id=str(raw["StackId"]),
        at=raw["Timestamp"],
        logical_id=str(raw["LogicalResourceId"]),
        physical_id=str(raw.get("PhysicalResourceId") or ""),
        kind=str(raw.get("ResourceType") or ""),
        status=str(raw.get("ResourceStatus") or ""),
        reason=str(raw.get("ResourceStatusReason") or ""),
    )
