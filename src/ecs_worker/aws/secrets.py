"""AWS Secrets Manager: the credentials of a deployed worker. Values never stand in errors or in a `repr`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ecs_worker.aws.errors import usable
from ecs_worker.aws.service import Service
from ecs_worker.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MISSING = "ResourceNotFoundException"


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret without its value. `deleted`: it is to be deleted for good in some days, and can't be read till then."""

    arn: str
    name: str
    deleted: bool


class Secrets(Service):
    """Secrets Manager in one account and Region. A `secret` is named by its name or its ARN."""

    name = "secretsmanager"

    async def find(self, secret: str) -> Secret | None:
        """The secret; None if there is none."""
        try:
            answer = await self._call("DescribeSecret", SecretId=secret)
        except AwsError as error:
            if error.code == _MISSING:
                return None
            raise
        with usable("DescribeSecret"):
            return Secret(str(answer["ARN"]), str(answer["Name"]), bool(answer.get("DeletedDate")))

    async def value(self, secret: str) -> str | None:
        """The secret's text; None if it has no value yet, or another than text."""
        try:
            answer = await self._call("GetSecretValue", SecretId=secret)
        except AwsError as error:
            if error.code == _MISSING:
                return None
            raise
        with usable("GetSecretValue"):
            text = answer.get("SecretString")
            return None if text is None else str(text)

    async def create(self, name: str, value: str, description: str, tags: Mapping[str, str]) -> str:
        """Make a secret and return its ARN."""
        listed = [{"Key": key, "Value": text} for key, text in tags.items()]
        answer = await self._call(
            "CreateSecret", Name=name, SecretString=value, Description=description, Tags=listed or None
        )
        with usable("CreateSecret"):
            return str(answer["ARN"])

    async def put(self, secret: str, value: str) -> None:
        """Give the secret another value. Tasks that run keep the old one."""
        await self._call("PutSecretValue", SecretId=secret, SecretString=value)

    async def restore(self, secret: str) -> None:
        """Keep a secret that was to be deleted."""
        await self._call("RestoreSecret", SecretId=secret)

    async def delete(self, secret: str, days: int) -> None:
        """Have the secret deleted after so many days (7 to 30)."""
        await self._call("DeleteSecret", SecretId=secret, RecoveryWindowInDays=days)
