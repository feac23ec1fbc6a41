"""AWS Service Quotas: how much of something the account may have."""

from __future__ import annotations

from ecs_worker.aws.errors import usable
from ecs_worker.aws.service import Service

FARGATE = "fargate"
ON_DEMAND_VCPUS, SPOT_VCPUS = "L-3032A538", "L-36FBB829"
"""Source: AWS Fargate endpoints and quotas (AWS General Reference)."""


class Quotas(Service):
    """Service Quotas in one account and Region."""

    name = "service-quotas"

    async def quota(self, service: str, code: str) -> float:
        """The quota's value now."""
        answer = await self._call("GetServiceQuota", ServiceCode=service, QuotaCode=code)
        with usable("GetServiceQuota"):
            return float(answer["Quota"]["Value"])
