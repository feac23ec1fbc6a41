"""Amazon S3: files that jobs name."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import anyio

from ecs_worker.aws.errors import translated
from ecs_worker.aws.service import Service
from ecs_worker.errors import AwsError


@dataclass(frozen=True, slots=True)
class S3Object:
    """An object's content, and the tag that changes with it."""

    etag: str
    content: bytes


class S3(Service):
    """S3. Requests go to the account's Region first; S3 then redirects them to the bucket's own."""

    name = "s3"

    async def read(
        self, bucket: str, key: str, *, most: int, etag: str | None = None, seconds: float = 20
    ) -> S3Object | None:
        """The object, with at most its first `most` bytes. None: it still has that `etag`.

        `seconds`: for its content, once S3 has answered; botocore bounds only the pause between two parts of it.
        """
        try:
            answer = await self._call("GetObject", Bucket=bucket, Key=key, IfNoneMatch=etag)
        except AwsError as error:
            if error.status == HTTPStatus.NOT_MODIFIED:
                return None
            raise
        body: Any = answer["Body"]
        content = b""
        with translated("GetObject"), anyio.fail_after(seconds):
            async with body:
                while len(content) < most and (part := await body.read(most - len(content))):
                    content += part  # what has arrived so far
        return S3Object(str(answer.get("ETag", "")), content)
