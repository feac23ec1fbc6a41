"""AWS STS: whose credentials these are."""

from __future__ import annotations

from dataclasses import dataclass

from ecs_worker.aws.errors import usable
from ecs_worker.aws.service import Service


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose credentials they are: the ARN of a user, or of a role's session."""

    account: str
    arn: str


class Sts(Service):
    """STS, with the credentials of one target."""

    name = "sts"

    async def account(self) -> str:
        """The account that the credentials belong to."""
        return (await self.identity()).account

    async def identity(self) -> Identity:
        """Whose credentials these are. No policy can forbid to ask (STS API, GetCallerIdentity)."""
        answer = await self._call("GetCallerIdentity")
        with usable("GetCallerIdentity"):
            return Identity(str(answer["Account"]), str(answer["Arn"]))
