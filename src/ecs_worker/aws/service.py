"""How a call is made, the same for all services."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar

from botocore import xform_name
from botocore.parsers import ResponseParserError

from ecs_worker.aws.errors import translated

if TYPE_CHECKING:
    from ecs_worker.aws.limits import Limits
    from ecs_worker.model import AwsTarget


class Service:
    """One AWS service in one account and Region: the only holder of its botocore client.

    Every method raises AwsError if AWS did not do what was asked, and UserError if the credentials or the Region
    can't be used.
    """

    name: ClassVar[str]

    def __init__(self, client: Any, target: AwsTarget, limits: Limits) -> None:
        self._client = client
        self._limits = limits
        self.target = target

    @property
    def endpoint(self) -> str:
        """The URL that calls go to."""
        return str(self._client.meta.endpoint_url)

    async def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Wait for the operation's turn, then ask AWS. Parameters that are None are left out."""
        await self.turn(operation)
        return await self._ask(operation, **parameters)

    async def turn(self, operation: str) -> None:
        """Wait until AWS's limits leave room for the operation."""
        bucket = self._limits.bucket(self.target.key, operation)
        if bucket is not None:
            await bucket.take()

    async def _ask(self, operation: str, **parameters: Any) -> dict[str, Any]:
        call = getattr(self._client, xform_name(operation))
        with translated(operation):
            answer: dict[str, Any] = await call(**{k: v for k, v in parameters.items() if v is not None})
        return answer


def read_plainly(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """Botocore hook `before-parse`, for operations with long answers: read the answer as plain JSON.

    botocore goes through a hundred tasks or ten thousand lines by the service's model, which takes several times as
    long. The only difference is that times are numbers here.
    """
    if response_dict["status_code"] == HTTPStatus.OK:
        try:
            answer = json.loads(response_dict["body"])
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ResponseParserError("The answer is not the JSON object that it should be.")
        customized_response_dict.update(answer)
        response_dict["body"] = b"{}"
