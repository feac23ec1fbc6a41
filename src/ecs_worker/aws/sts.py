"""AWS STS: whose credentials these are."""

from __future__ import annotations

from ecs_worker.aws.errors import usable
from ecs_worker.aws.service import Service


class Sts(Service):
    """STS, with the credentials of one target."""

    name = "sts"

    async def account(self) -> str:
        """The account that the credentials belong to. No policy can forbid to ask (STS API, GetCallerIdentity)."""
        answer = await self._call("GetCallerIdentity")
        with usable("GetCallerIdentity"):
            return str(answer["Account"])
