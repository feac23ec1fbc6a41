"""AWS IAM: what a role is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecs_worker.aws.errors import usable
from ecs_worker.aws.service import Service

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class RolePolicies:
    """A role's policies, inline and attached, by their names; `boundary` is the name and the document of its limit."""

    arn: str
    policies: Mapping[str, Mapping[str, Any]]
    boundary: tuple[str, Mapping[str, Any]] | None = None


class Iam(Service):
    """IAM of one account."""

    name = "iam"

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
