"""What the services have in common: how a call is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from botocore import xform_name

from ecs_worker.aws.errors import translated

if TYPE_CHECKING:
    from ecs_worker.aws.limits import Limits
    from ecs_worker.model import AwsTarget


class Service:
    """One AWS service in one account and Region: the only holder of its botocore client.

    Every method raises AwsError when AWS did not do what was asked, and UserError when the credentials or the
    Region can't work.
    """

    name: ClassVar[str]

    def __init__(self, client: Any, target: AwsTarget, limits: Limits) -> None:
        self._client = client
        self._limits = limits
        self.target = target

    async def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Wait for the operation's turn, then ask AWS. Parameters that are None are left out."""
        bucket = self._limits.bucket(self.target.key, operation)
        if bucket is not None:
            await bucket.take()
        call = getattr(self._client, xform_name(operation))
        with translated(operation):
            answer: dict[str, Any] = await call(**{k: v for k, v in parameters.items() if v is not None})
        return answer
