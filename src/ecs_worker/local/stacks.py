"""CloudFormation stacks that change as AWS's do. moto keeps them, but changes too little and tells too little.

What is done here and not by moto: a change reaches every resource whose resolved properties differ, also by another
resource or a condition; each resource has events; a failure is told and rolled back; the stack is complete once its
ECS services are steady, and fails with their circuit breaker; change sets know their parameters, and deletion policies
count.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import moto.cloudformation.models
import moto.cloudformation.urls
from moto.cloudformation import parsing
from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.models import Change, ChangeSet, CloudFormationBackend, Event, Stack
from moto.cloudformation.parsing import OutputMap, ResourceMap
from moto.cloudformation.responses import CloudFormationResponse
from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends

import ecs_worker.local.monitoring  # noqa: F401 - moto uses its classes from here on
from ecs_worker.local import network
from ecs_worker.local.account import MOTO_ERRORS
from ecs_worker.local.cloudformation import rollout_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_IN_TEXT = re.compile(r"\$\{([A-Za-z0-9]+)(?:\.[A-Za-z0-9.]+)?\}")
_BROKEN = (
    'Resource handler returned message: "Error occurred during operation'
    " 'ECS Deployment Circuit Breaker was triggered'.\" (HandlerErrorCode: GeneralServiceException)"
)
_IN_REVIEW = "REVIEW_IN_PROGRESS"
_CHANGEABLE = re.compile(r"(CREATE|UPDATE|UPDATE_ROLLBACK|IMPORT)_COMPLETE|REVIEW_IN_PROGRESS")
_NOTHING = "The submitted information didn't contain changes. Submit different information to create a change set."
_ROLLED = {"CREATE": "ROLLBACK", "UPDATE": "UPDATE_ROLLBACK"}


class StackFailed(Exception):
    """A resource could not be made, changed or deleted. The text says why, in the service's words."""

    def __init__(self, logical_id: str, reason: str) -> None:
        super().__init__(reason)
        self.logical_id = logical_id


class Resources(ResourceMap):  # type: ignore[misc]  # moto has no types
    """A stack's resources. `tell` is called for each step: logical id, status, reason."""

    input_parameters: dict[str, Any]

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.made: dict[str, dict[str, Any]] = {}  # logical id → its JSON, resolved, in the order of making
        self.left: list[tuple[str, Any, dict[str, Any]]] = []  # replaced, to be deleted once the change is complete
        self.tell: Callable[[str, str, str | None], None] = lambda _id, _status, _reason: None

    def __iter__(self) -> Iterator[str]:
        """The resources that exist."""
        return iter([logical_id for logical_id in self.made if self._parsed_resources.get(logical_id) is not None])

    def create(self, template: dict[str, Any]) -> bool:
        """Make all. Raises StackFailed."""
        self.tags.update(
            {"aws:cloudformation:stack-name": self["AWS::StackName"], "aws:cloudformation:stack-id": self.stack_id}
        )
        self.update(template, self.input_parameters)
        return True

    def update(self, template: dict[str, Any], parameters: dict[str, Any] | None = None) -> None:
        """Make, change and delete what `template` wants, in the order of dependence. Raises StackFailed."""
        self._take(template, parameters)
        wanted = self._wanted()
        for logical_id in wanted:
            described = self._resource_json_map[logical_id]
            if logical_id not in self.made:
                self._step(logical_id, "CREATE", partial(self._make, logical_id, described))
            elif self._resolved(described) != self.made[logical_id]:
                self._step(logical_id, "UPDATE", partial(self._change, logical_id, described))
        for logical_id in [name for name in reversed(self.made) if name not in wanted]:
            self._remove(logical_id, self.made[logical_id], retain=False)

    def complete(self) -> None:
        """The change is complete: what it replaced goes."""
        for _, old, described in self.left:
            self._delete_resource(old, described)
        self.left.clear()

    def restore(self) -> None:
        """The change has failed: what it replaced comes back, and the replacements go."""
        for logical_id, old, described in self.left:
            self._delete_resource(self._parsed_resources[logical_id], self.made[logical_id])
            self._parsed_resources[logical_id], self.made[logical_id] = old, described
        self.left.clear()

    def delete(self, *, failed: bool = False) -> None:
        """Delete all but those to be retained. `failed`: the stack could not be made. Raises StackFailed."""
        kept = {"Retain"} if failed else {"Retain", "RetainExceptOnCreate"}
        for logical_id in reversed([name for name in self._wanted() if name in self.made]):
            described = self.made[logical_id]
            self._remove(logical_id, described, retain=described.get("DeletionPolicy") in kept)

    def differences(self, template: dict[str, Any], parameters: dict[str, Any] | None) -> list[tuple[str, str, str]]:
        """Action, logical id and type of what `update` would do. Of what hangs on a changed resource, too."""
        trial = copy.copy(self)
        trial._parsed_resources = dict(self._parsed_resources)  # noqa: SLF001 - its own class
        trial.resolved_parameters = {}  # the stack's own stay what they are
        trial._take(template, parameters)  # noqa: SLF001 - likewise
        wanted = trial._wanted()  # noqa: SLF001 - likewise
        found: list[tuple[str, str, str]] = []
        changed: set[str] = set()
        for logical_id in wanted:
            described = template["Resources"][logical_id]
            new = logical_id not in self.made
            if not new and not changed & references(described):
                new_json = trial._resolved(described)  # noqa: SLF001 - likewise
                if new_json == self.made[logical_id]:
                    continue
            changed.add(logical_id)
            found.append(("Add" if new else "Modify", logical_id, described["Type"]))
        gone = [name for name in self.made if name not in wanted]
        return found + [("Remove", name, self.made[name]["Type"]) for name in gone]

    def load(self) -> None:
        """Read the parameters and conditions. Raises ValidationError for what the template's rules don't allow."""
        super().load()
        for name, rule in self._template.get("Rules", {}).items():
            if "RuleCondition" not in rule or _holds(rule["RuleCondition"], self):
                for each in rule["Assertions"]:
                    if not _holds(each["Assert"], self):
                        told = each.get("AssertDescription", name)
                        raise ValidationError(message=f"Template validation error: {told}")

    def _delete_resource(self, parsed_resource: Any, resource_json: dict[str, Any]) -> None:
        if not network.delete(parsed_resource, resource_json, self._account_id, self._region_name):
            super()._delete_resource(parsed_resource, resource_json)

    def _take(self, template: dict[str, Any], parameters: dict[str, Any] | None) -> None:
        self._template = template
        self._resource_json_map = template["Resources"]
        if parameters is not None:
            # moto gives back lists where the previous value is to be used
            self.input_parameters = {
                name: ",".join(value) if isinstance(value, list) else str(value) for name, value in parameters.items()
            }
        self.load()

    def _wanted(self) -> list[str]:
        """The logical ids whose condition holds, each after those that it refers to."""
        order: list[str] = []

        def visit(logical_id: str) -> None:
            described = self._resource_json_map[logical_id]
            condition = described.get("Condition")
            if logical_id in order or (condition and not self.lazy_condition_map[condition]):
                return
            for other in sorted(references(described)):
                if other in self._resource_json_map and other != logical_id:
                    visit(other)
            order.append(logical_id)

        for logical_id in self._resource_json_map:
            visit(logical_id)
        return order

    def _resolved(self, described: Mapping[str, Any]) -> dict[str, Any]:
        resolved: dict[str, Any] = parsing.clean_json(described, self)
        return resolved

    def _step(self, logical_id: str, action: str, act: Callable[[], None]) -> None:
        self.tell(logical_id, f"{action}_IN_PROGRESS", None)
        try:
            act()
        except MOTO_ERRORS as error:
            reason = f'Resource handler returned message: "{error.message}" (HandlerErrorCode: InvalidRequest)'
            self.tell(logical_id, f"{action}_FAILED", reason)
            raise StackFailed(logical_id, reason) from None
        if self.settled(logical_id) is not None:
            self.tell(logical_id, f"{action}_COMPLETE", None)

    def settled(self, logical_id: str) -> bool | None:
        """Whether the resource is what it is to be. None: it is on its way."""
        return rollout_of(self._parsed_resources.get(logical_id))

    def _make(self, logical_id: str, described: dict[str, Any]) -> None:
        resolved = self._resolved(described)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of types that moto doesn't know nothing exists but the name
            made = parsing.parse_and_create_resource(logical_id, resolved, self, self._account_id, self._region_name)
        if resolved["Type"] == "AWS::IAM::Role":
            _put_policies(made, resolved["Properties"])
        self._parsed_resources[logical_id] = made
        self.made[logical_id] = resolved

    def _change(self, logical_id: str, described: dict[str, Any]) -> None:
        old, before, resolved = self._parsed_resources[logical_id], self.made[logical_id], self._resolved(described)
        match described["Type"]:
            case "AWS::ECS::TaskDefinition":  # the old revision may be gone back to
                self._make(logical_id, described)
                self.left.append((logical_id, old, before))
            case "AWS::Logs::LogGroup":
                old.set_retention_policy(resolved["Properties"].get("RetentionInDays"))
            case "AWS::IAM::Role":
                _change_role(old, resolved["Properties"], self._account_id)
            case _ if old is not None:
                new = parsing.parse_and_update_resource(logical_id, resolved, self, self._account_id, self._region_name)
                self._parsed_resources[logical_id] = new if new is not None else old
        self.made[logical_id] = resolved

    def _remove(self, logical_id: str, described: dict[str, Any], *, retain: bool) -> None:
        resource = self._parsed_resources.get(logical_id)
        if retain:
            self.tell(logical_id, "DELETE_SKIPPED", None)
        else:
            self.tell(logical_id, "DELETE_IN_PROGRESS", None)
            try:
                if resource is not None:
                    self._delete_resource(resource, described)
            except MOTO_ERRORS as error:
                self.tell(logical_id, "DELETE_FAILED", str(error.message))
                raise StackFailed(logical_id, str(error.message)) from None
            self.tell(logical_id, "DELETE_COMPLETE", None)
        self._parsed_resources.pop(logical_id, None)
        del self.made[logical_id]


_clean = parsing.clean_json


def _resolve(described: Any, resources: Resources) -> Any:
    """A part of a template, resolved. Moto leaves AWS::NoValue in lists, as None, and knows one Region's zones."""
    if isinstance(described, dict) and "Fn::GetAZs" in described:
        region = _resolve(described["Fn::GetAZs"], resources) or resources["AWS::Region"]
        zones = ec2_backends[resources._account_id][region].describe_availability_zones()  # noqa: SLF001 - moto's
        return [zone.name for zone in zones]
    resolved = _clean(described, resources)
    return [item for item in resolved if item is not None] if isinstance(resolved, list) else resolved


def _holds(asked: Any, resources: Resources) -> bool:
    """What a rule of a template asks for."""
    match asked:
        case {"Fn::And": list(parts)}:
            return all(_holds(part, resources) for part in parts)
        case {"Fn::Or": list(parts)}:
            return any(_holds(part, resources) for part in parts)
        case {"Fn::Not": [part]}:
            return not _holds(part, resources)
        case {"Fn::Equals": [one, other]}:
            return bool(_resolve(one, resources) == _resolve(other, resources))
        case {"Fn::Contains": [values, value]}:
            return _resolve(value, resources) in _resolve(values, resources)
        case _:
            raise ValidationError(message=f"Template error: {asked} is no function of rules.")


def _change_role(role: Any, properties: Mapping[str, Any], account_id: str) -> None:
    """Change all of a role: by moto's own update its policies stay as they were."""
    backend = iam_backends[account_id]["aws"]
    backend.update_role(role.name, properties.get("Description", ""), properties.get("MaxSessionDuration", 3600))
    backend.update_assume_role_policy(role.name, json.dumps(properties["AssumeRolePolicyDocument"], default=str))
    wanted = {policy["PolicyName"] for policy in properties.get("Policies") or ()}
    for name in [name for name in role.policies if name not in wanted]:
        role.delete_policy(name)
    _put_policies(role, properties)


def _put_policies(role: Any, properties: Mapping[str, Any]) -> None:
    """Give a role its policies as IAM keeps them: as JSON, where moto keeps what the template's parser made."""
    for policy in properties.get("Policies") or ():
        role.put_policy(policy["PolicyName"], json.dumps(policy["PolicyDocument"], default=str))


def references(described: Any) -> set[str]:
    """The names that a part of a template refers to, by Ref, Fn::GetAtt, Fn::Sub and DependsOn."""
    if isinstance(described, list):
        return {name for item in described for name in references(item)}
    if not isinstance(described, dict):
        return set()
    found: set[str] = set()
    for key, value in described.items():
        match key, value:
            case "Ref", str():
                found.add(value)
            case "Fn::GetAtt", [str(name), *_]:
                found.add(name)
            case "Fn::Sub", str(text) | [str(text), *_]:
                found |= set(_IN_TEXT.findall(text)) | references(value)
            case "DependsOn", str():
                found.add(value)
            case "DependsOn", list():
                found |= set(value)
            case _:
                found |= references(value)
    return found


def _mended(template: Any) -> Any:
    """A template as moto reads it, but for `!Condition`, of which it makes a function that nobody knows."""
    if isinstance(template, list):
        return [_mended(item) for item in template]
    if not isinstance(template, dict):
        return template
    return {"Condition" if name == "Fn::Condition" else name: _mended(item) for name, item in template.items()}


class LocalStack(Stack):  # type: ignore[misc]  # moto has no types
    """A stack whose status and events tell what is on its way. `settle` moves it on."""

    template: Any
    tags: dict[str, str]
    _before: tuple[Any, dict[str, Any]] | None = None  # template and parameters that an update goes back to
    _doing = ""  # CREATE or UPDATE, while services are on their way

    @staticmethod
    def parse_template(template: str) -> dict[str, Any]:
        """The template, YAML or JSON."""
        read: dict[str, Any] = _mended(Stack.parse_template(template))
        return read

    def _create_resource_map(self) -> Resources:
        made = Resources(
            self.stack_id,
            self.name,
            self.parameters,
            self.tags,
            account_id=self.account_id,
            region_name=self.region_name,
            template=self.template_dict,
            cross_stack_resources=self.cross_stack_resources,
        )
        made.load()
        made.tell = self._tell
        return made

    @property
    def parameter_list(self) -> list[dict[str, str]]:
        """The parameters as DescribeStacks tells them, with those that have their default; moto leaves lists apart."""
        resolved: Mapping[str, Any] = self.resource_map.resolved_parameters
        return [
            {"ParameterKey": name, "ParameterValue": ",".join(value) if isinstance(value, list) else str(value)}
            for name, value in resolved.items()
        ]

    def _tell(self, logical_id: str, status: str, reason: str | None) -> None:
        resource = self.resource_map._parsed_resources.get(logical_id)  # noqa: SLF001 - moto has no other way
        described = self.resource_map._resource_json_map.get(logical_id) or self.resource_map.made[logical_id]  # noqa: SLF001
        event = Event(
            stack_id=self.stack_id,
            stack_name=self.name,
            logical_resource_id=logical_id,
            physical_resource_id=str(getattr(resource, "physical_resource_id", "")),
            resource_type=described["Type"],
            resource_status=status,
            resource_status_reason=reason,
            resource_properties=None,
        )
        self.events.append(event)

    def _become(self, status: str, reason: str | None = None) -> None:
        self.status = status
        self._add_stack_event(status, reason)

    def create_resources(self) -> None:
        """CreateStack, after its first event."""
        self.begin("CREATE", self.template_dict, self.parameters)

    def update(
        self, template: str, role_arn: str | None = None, parameters: dict[str, Any] | None = None, tags: Any = None
    ) -> None:
        """UpdateStack."""
        if self._doing:
            text = f"Stack:{self.stack_id} is in {self.status} state and can not be updated."
            raise ValidationError(self.stack_id, message=text)
        # Raises for what is wrong in the template or its parameters, before anything is changed.
        self.resource_map.differences(self.parse_template(template), parameters or {})
        self.role_arn = role_arn
        if tags is not None:
            self.tags = tags
        self._become("UPDATE_IN_PROGRESS", "User Initiated")
        before: tuple[Any, dict[str, Any]] = (self.template, dict(self.parameters))
        self.template = template
        self._parse_template()
        self.begin("UPDATE", self.template_dict, parameters or {}, before)

    def begin(
        self, action: str, template: dict[str, Any], parameters: dict[str, Any], before: tuple[Any, Any] | None = None
    ) -> None:
        """Change the resources; `settle` does the rest. `before`: what an update goes back to."""
        self.status, self._doing, self._before = f"{action}_IN_PROGRESS", action, before
        self.template_dict, self.parameters = template, parameters
        self.description = template.get("Description")
        try:
            if action == "CREATE":
                self.resource_map.input_parameters = parameters
                self.resource_map.create(template)
            else:
                self.resource_map.update(template, parameters)
        except StackFailed as failure:
            self._roll_back(failure)
            return
        self.output_map = self._create_output_map()
        self.settle()

    def settle(self) -> None:
        """Look whether what was on its way has arrived or failed, and end the change if so."""
        if not self._doing:
            return
        states = {logical_id: self.resource_map.settled(logical_id) for logical_id in self.resource_map}
        for logical_id, state in states.items():
            if state is False:
                self._tell(logical_id, f"{self._doing}_FAILED", _BROKEN)
                self._roll_back(StackFailed(logical_id, _BROKEN))
                return
        if None not in states.values():
            told = [(event.logical_resource_id, event.resource_status) for event in self._of_this_change()]
            for logical_id in self.resource_map:
                for action in ("CREATE", "UPDATE"):
                    begun = (logical_id, f"{action}_IN_PROGRESS") in told
                    if begun and (logical_id, f"{action}_COMPLETE") not in told:
                        self._tell(logical_id, f"{action}_COMPLETE", None)
            action, self._doing = self._doing, ""
            self.resource_map.complete()
            self._become(f"{action}_COMPLETE")

    def _of_this_change(self) -> list[Any]:
        starts = [place for place, event in enumerate(self.events) if event.logical_resource_id == self.name]
        return list(self.events[starts[-1] :])

    def _roll_back(self, failure: StackFailed) -> None:
        action, self._doing = self._doing, ""
        rolling = _ROLLED[action]
        self._become(
            f"{rolling}_IN_PROGRESS",
            f"The following resource(s) failed to {action.lower()}: [{failure.logical_id}]. Rollback requested by user."
            if action == "CREATE"
            else f"The following resource(s) failed to update: [{failure.logical_id}].",
        )
        try:
            if action == "CREATE":
                self.output_map = OutputMap(self.resource_map, {}, self.stack_id)  # moto would make what they refer to
                self.resource_map.delete(failed=True)
            else:
                assert self._before is not None  # an update begins with it
                self.template, self.parameters = self._before
                self._parse_template()
                self.resource_map.restore()
                self.resource_map.update(self.template_dict, self.parameters)
                self.resource_map.complete()
                self.output_map = self._create_output_map()
        except StackFailed as again:
            self._become(f"{rolling}_FAILED", str(again))
            return
        self._become(f"{rolling}_COMPLETE")

    def delete(self) -> None:
        """DeleteStack."""
        self._doing = ""
        self._become("DELETE_IN_PROGRESS", "User Initiated")
        try:
            self.resource_map.delete()
        except StackFailed as failure:
            self._become("DELETE_FAILED", f"The following resource(s) failed to delete: [{failure.logical_id}].")
            return
        self._become("DELETE_COMPLETE")


class LocalChangeSet(ChangeSet):  # type: ignore[misc]  # moto has no types
    """A change set that knows what its parameters change."""

    def _parse_template(self) -> None:
        self.template_dict = LocalStack.parse_template(self.template)

    def diff(self) -> list[Change]:
        """The changes that CloudFormation would tell."""
        found = self.stack.resource_map.differences(self.template_dict, self.parameters)
        return [Change(action=action, logical_resource_id=name, resource_type=kind) for action, name, kind in found]


class StackBackend(CloudFormationBackend):  # type: ignore[misc]  # moto has no types
    """One account's stacks in one Region."""

    __module__ = "moto.cloudformation.models"  # moto derives the service from it

    def settle(self) -> None:
        """Let every stack notice how far its resources are."""
        for stack in list(self.stacks.values()):
            stack.settle()

    def _resolve_update_parameters(self, instance: Any, incoming_params: list[dict[str, Any]]) -> dict[str, str]:
        """The parameters after an update. A previous value may be the template's default."""
        return {
            each["ParameterKey"]: instance.parameters[each["ParameterKey"]]
            if each.get("UsePreviousValue")
            else each["ParameterValue"]
            for each in incoming_params
            if not each.get("UsePreviousValue") or each["ParameterKey"] in instance.parameters
        }

    def create_change_set(
        self, stack_name: str, change_set_name: str, *given: Any, change_set_type: str = "UPDATE", **named: Any
    ) -> tuple[str, str]:
        """CreateChangeSet. A new stack may have several; one that there is can't be made again."""
        found = next((stack for stack in self.stacks.values() if stack.name == stack_name), None)
        if found is not None and change_set_type == "CREATE":
            if found.status != _IN_REVIEW:
                text = f"Stack [{stack_name}] already exists and cannot be created again with the changeSet"
                raise ValidationError(stack_name, message=f"{text} [{change_set_name}].")
            del self.stacks[found.stack_id]  # moto makes another one of that name
        if found is not None and change_set_type == "UPDATE" and not _CHANGEABLE.fullmatch(found.status):
            text = f"Stack:{found.stack_id} is in {found.status} state and can not be updated."
            raise ValidationError(stack_name, message=text)
        ids: tuple[str, str] = super().create_change_set(
            stack_name, change_set_name, *given, change_set_type=change_set_type, **named
        )
        made = self.change_sets[ids[0]]
        if found is not None and not made.changes and _outputs(made.template_dict) == _outputs(found.template_dict):
            made.status, made.execution_status, made.status_reason = "FAILED", "UNAVAILABLE", _NOTHING
        return ids

    def execute_change_set(self, change_set_name: str, stack_name: str | None = None) -> None:  # noqa: ARG002 - moto's
        """ExecuteChangeSet."""
        found = self.describe_change_set(change_set_name)
        stack = self.stacks[found.stack_id]
        found.execution_status = "EXECUTE_COMPLETE"
        if found.change_set_type == "CREATE":
            stack.template, stack.tags = found.template, found.tags or {}
            stack._become("CREATE_IN_PROGRESS", "User Initiated")  # noqa: SLF001 - of this module
            stack.begin("CREATE", found.template_dict, found.parameters)
        else:
            stack.update(found.template, found.role_arn, found.parameters, found.tags)

    def delete_stack(self, name_or_stack_id: str) -> None:
        """DeleteStack; one that fails stays."""
        for stack in list(self.stacks.values()):
            if name_or_stack_id in {stack.name, stack.stack_id}:
                exports = [export.name for export in stack.exports]
                stack.delete()
                if stack.status == "DELETE_COMPLETE":
                    self.deleted_stacks[stack.stack_id] = self.stacks.pop(stack.stack_id)
                    for name in exports:
                        self.exports.pop(name, None)


def _outputs(template: Mapping[str, Any]) -> Any:
    return template.get("Outputs")


class StackResponse(CloudFormationResponse):  # type: ignore[misc]  # moto has no types
    """The API. A change set that changes nothing fails when it is worked out; only an update is refused at once."""

    __module__ = "moto.cloudformation.responses"  # moto derives the service from it

    def _validate_different_update(self, *given: Any) -> None:
        if self._get_action() != "CreateChangeSet":
            super()._validate_different_update(*given)


def settle_all() -> None:
    """Let every stack notice how far its resources are: before each answer, for nobody else asks."""
    for by_region in moto.cloudformation.models.cloudformation_backends.values():
        for backend in by_region.values():
            backend.settle()


def extend() -> None:
    """Make moto use these classes, before its first stack."""
    parsing.clean_json = _resolve  # which it calls for each part
    moto.cloudformation.models.Stack = LocalStack
    moto.cloudformation.models.ChangeSet = LocalChangeSet
    moto.cloudformation.models.cloudformation_backends.backend = StackBackend
    moto.cloudformation.urls.url_paths["{0}/$"] = StackResponse.dispatch
