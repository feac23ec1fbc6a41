"""How a call is made, the same for all services."""

from __future__ import annotations

import json
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar

from botocore import xform_name
from botocore.parsers import ResponseParserError

from ecs_worker.aws.errors import translated, usable
from ecs_worker.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from ecs_worker.aws.limits import Limits
    from ecs_worker.model import AwsTarget


class Service:
    """One AWS service in one account and Region: the only holder of its botocore client.

    Every method raises AwsError if AWS did not do what was asked, and UserError if the credentials or the Region
    can't be used.
    """

    name: ClassVar[str]

    def __init__(self, client: Any, target: AwsTarget, limits: Limits, account: Hashable) -> None:
        """`account`: whose limits the calls count against, the Region included."""
        self._client = client
        self._limits = limits
        self._account = account
        self.target = target
        self.calls = 0
        """How many are under way, those that wait for their turn among them."""
        self.used_at = self._limits.clock.now()
        self.answered_at: float | None = None
        """When AWS answered last, whatever it said."""
        self.closed = False

    @property
    def endpoint(self) -> str:
        """The URL that calls go to."""
        return str(self._client.meta.endpoint_url)

    async def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Wait for the operation's turn, then ask AWS. Parameters that are None are left out."""
        await self.turn(operation)
        return await self._ask(operation, **parameters)

    async def _pages(self, operation: str, items: str, token: str, **given: Any) -> list[Any]:
        """The `items` of all pages. `token`: the member of an answer that names the next page, and of its request.

        No page follows itself: who says so would be asked for ever.
        """
        found: list[Any] = []
        page: str | None = None
        while True:
            answer = await self._call(operation, **given, **{token: page})
            with usable(operation):
                found += answer[items]
                page, before = answer.get(token) or None, page
                if page is None:
                    return found
                if page == before:
                    raise ValueError(token)

    async def turn(self, operation: str) -> None:
        """Wait until AWS's limits leave room for the operation."""
        bucket = self._limits.bucket(self._account, operation)
        if bucket is not None:
            with self._in_use():
                await bucket.take()

    async def _ask(self, operation: str, **parameters: Any) -> dict[str, Any]:
        if self.closed:  # botocore would take it, and leave its connections open
            raise AwsError(operation, "ClientClosed", "Its client was closed, as nobody had used it for long.")
        call = getattr(self._client, xform_name(operation))
        with self._in_use():
            try:
                with usable(operation), translated(operation):
                    answer: dict[str, Any] = await call(**{k: v for k, v in parameters.items() if v is not None})
            except AwsError as error:
                if error.status is not None:
                    self._answered()
                raise
        self._answered()
        return answer

    def _answered(self) -> None:
        self.answered_at = self._limits.clock.now()

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1
            self.used_at = self._limits.clock.now()


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
