"""AWS IAM: what a role is allowed, and whom it trusts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecs_worker.aws.errors import usable
from ecs_worker.aws.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class RolePolicies:
    """A role's policies, inline and attached, by their names; `boundary` is the name and the document of its limit."""

    arn: str
    policies: Mapping[str, Mapping[str, Any]]
    boundary: tuple[str, Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Role:
    """A role, and the policy that says who may assume it."""

    arn: str
    trust: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What IAM would say to one action on one resource: `allowed`, `explicitDeny` or `implicitDeny`.

    `by` is what limits the principal beyond its own policies, where that denies it. `missing`: condition keys that its
    policies ask for and the simulated request did not have.
    """

    action: str
    resource: str
    decision: str
    by: str = ""
    missing: tuple[str, ...] = ()


class Iam(Service):
    """IAM of one account."""

    name = "iam"

    async def role(self, name: str) -> Role:
        """The role of that name. An AwsError NoSuchEntity: there is none."""
        answer = await self._call("GetRole", RoleName=name)
        with usable("GetRole"):
            found = answer["Role"]
            return Role(str(found["Arn"]), dict(found["AssumeRolePolicyDocument"]))

    async def simulate(
        self, principal: str, actions: Sequence[str], resources: Sequence[str], context: Mapping[str, Iterable[str]]
    ) -> list[Verdict]:
        """What IAM would say if the principal (ARN of a user or role) asked for each action on each resource.

        `context`: the requests' condition keys, and their values. Nothing is done.
        """
        entries = [
            {"ContextKeyName": key, "ContextKeyValues": list(values), "ContextKeyType": "string"}
            for key, values in context.items()
        ]
        found = await self._pages(
            "SimulatePrincipalPolicy",
            "EvaluationResults",
            "Marker",
            PolicySourceArn=principal,
            ActionNames=list(actions),
            ResourceArns=list(resources),
            ContextEntries=entries,
        )
        with usable("SimulatePrincipalPolicy"):
            return [each for result in found for each in _verdicts(result)]

    async def role_policies(self, role: str) -> RolePolicies:
        """All that the role of that name is allowed. An AwsError NoSuchEntity: there is no such role."""
        with usable("GetRole"):
            found = (await self._call("GetRole", RoleName=role))["Role"]
            policies: dict[str, Mapping[str, Any]] = {}
            for name in await self._pages("ListRolePolicies", "PolicyNames", "Marker", RoleName=role):
                answer = await self._call("GetRolePolicy", RoleName=role, PolicyName=name)
                policies[name] = answer["PolicyDocument"]
            for attached in await self._pages("ListAttachedRolePolicies", "AttachedPolicies", "Marker", RoleName=role):
                policies[attached["PolicyName"]] = await self._document(attached["PolicyArn"])
            limit = (found.get("PermissionsBoundary") or {}).get("PermissionsBoundaryArn")
            boundary = (limit.rpartition("/")[2], await self._document(limit)) if limit else None
            return RolePolicies(str(found["Arn"]), policies, boundary)

    async def _document(self, arn: str) -> Mapping[str, Any]:
        version = (await self._call("GetPolicy", PolicyArn=arn))["Policy"]["DefaultVersionId"]
        answer = await self._call("GetPolicyVersion", PolicyArn=arn, VersionId=version)
        document: Mapping[str, Any] = answer["PolicyVersion"]["Document"]
        return document


def _verdicts(result: Mapping[str, Any]) -> list[Verdict]:
    """Of one action: a result for each resource stands inside that of all, or by itself."""
    specific = result.get("ResourceSpecificResults") or ()
    return [
        Verdict(
            str(result["EvalActionName"]),
            str(one.get("EvalResourceName") or "*"),
            str(one["EvalResourceDecision"] if specific else one["EvalDecision"]),
            _limited_by({**result, **one}),
            tuple(map(str, one.get("MissingContextValues") or ())),
        )
        for one in specific or (result,)
    ]


def _limited_by(result: Mapping[str, Any]) -> str:
    if (result.get("OrganizationsDecisionDetail") or {}).get("AllowedByOrganizations") is False:
        return "a policy of the organization"
    if (result.get("PermissionsBoundaryDecisionDetail") or {}).get("AllowedByPermissionsBoundary") is False:
        return "its permissions boundary"
    return ""
