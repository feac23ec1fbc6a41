"""IAM as far as moto lacks it: what would be said to a request, by the policies of a user or role."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import moto.iam.models
import moto.iam.urls
from moto.core.responses import ActionResult
from moto.iam.exceptions import InvalidInput
from moto.iam.models import IAMBackend
from moto.iam.responses import IamResponse

from ecs_worker.iam.evaluate import Decision, Request, decide, keys_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class Roles(IAMBackend):  # type: ignore[misc]  # moto has no types
    """One account's IAM."""

    __module__ = "moto.iam.models"  # moto derives the service from it

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        # ECS makes it with an account's first cluster, and here the default one is there from the start.
        self.create_service_linked_role("ecs.amazonaws.com", "Role to enable Amazon ECS to manage your cluster.", "")


class Permissions(IamResponse):  # type: ignore[misc]  # likewise
    """The answers that moto lacks. A method's name is an AWS action's."""

    def simulate_principal_policy(self) -> ActionResult:
        """SimulatePrincipalPolicy, by the policies as they are now."""
        policies, boundary = self._policies_of(str(self._get_param("PolicySourceArn")))
        policies += [json.loads(text) for text in self._get_param("PolicyInputList", [])]
        context = {
            each["ContextKeyName"]: _values(each.get("ContextKeyValues") or [])
            for each in self._get_param("ContextEntries", [])
        }
        resources = self._get_param("ResourceArns", ["*"])
        results = [
            _result([Request(action, resource, context) for resource in resources], policies, boundary)
            for action in self._get_param("ActionNames", [])
        ]
        return ActionResult({"EvaluationResults": results, "IsTruncated": False})

    def _policies_of(self, arn: str) -> tuple[list[Mapping[str, Any]], Mapping[str, Any] | None]:
        """A principal's policies, and the boundary of all that they allow."""
        kind, _, name = arn.rpartition(":")[2].partition("/")
        if kind == "role":
            found = self.backend.get_role_by_arn(arn)
            holders = [found]
        elif kind == "user" and ":iam:" in arn:
            found = self.backend.get_user(name.rpartition("/")[2])
            holders = [found, *self.backend.get_groups_for_user(found.name)]
        else:
            raise InvalidInput(f"Invalid Entity Arn: {arn} does not clearly define entity type and name.")
        texts = [text for holder in holders for text in _policies(holder)]
        limit = getattr(found, "permissions_boundary_arn", None)
        boundary = json.loads(_document(self.backend.get_policy(limit))) if limit else None
        return [json.loads(text) for text in texts], boundary


def _policies(holder: Any) -> Iterator[str]:
    """Of a user, group or role: inline and attached ones."""
    yield from holder.policies.values()
    for policy in holder.managed_policies.values():
        yield _document(policy)


def _document(policy: Any) -> str:
    """A managed policy's, of the version that counts."""
    return next(str(each.document) for each in policy.versions if each.version_id == policy.default_version_id)


def _result(
    requests: Sequence[Request], policies: Sequence[Mapping[str, Any]], boundary: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Of one action, on each resource."""
    decisions = [decide(policies, request, boundary) for request in requests]
    result: dict[str, Any] = {
        "EvalActionName": requests[0].action,
        "EvalResourceName": requests[0].resource,
        "EvalDecision": next((each for each in decisions if each is not Decision.ALLOWED), Decision.ALLOWED).value,
        "MatchedStatements": [],
        "MissingContextValues": _missing(requests[0], policies),
        "ResourceSpecificResults": [
            {
                "EvalResourceName": request.resource,
                "EvalResourceDecision": decision.value,
                "MissingContextValues": _missing(request, policies),
                **_within(request, boundary),
            }
            for request, decision in zip(requests, decisions, strict=True)
        ],
    }
    return result if len(requests) > 1 else {**result, "ResourceSpecificResults": [], **_within(requests[0], boundary)}


def _missing(request: Request, policies: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that the policies ask for, and the request doesn't have: whether they would matter or not."""
    given = {key.lower() for key in request.context}
    return sorted(key for key in keys_of(policies) if key.lower() not in given)


def _within(request: Request, boundary: Mapping[str, Any] | None) -> dict[str, Any]:
    """Whether the boundary allows it, if there is one."""
    if boundary is None:
        return {}
    allowed = decide([boundary], request) is Decision.ALLOWED
    return {"PermissionsBoundaryDecisionDetail": {"AllowedByPermissionsBoundary": allowed}}


def _values(given: list[str]) -> str | list[str]:
    return given[0] if len(given) == 1 else given


def extend() -> None:
    """Make moto use this, before its first request."""
    moto.iam.models.iam_backends.backend = Roles
    moto.iam.models.SERVICE_NAME_CONVERSION["ecs"] = "ECS"
    moto.iam.urls.url_paths["{0}/$"] = Permissions.dispatch
