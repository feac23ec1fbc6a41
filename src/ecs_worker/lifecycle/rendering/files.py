"""Documents that jobs name: task definitions and RunTask arguments in files or on S3.

Nothing is written; what was read is kept and read again only when it has changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from anyio import to_thread

from ecs_worker.errors import AwsError, JobInvalid
from ecs_worker.lifecycle.rendering.lookups import Lookups
from ecs_worker.verdicts.classify import Kind, classify

if TYPE_CHECKING:
    from ecs_worker.aws.session import Aws

MOST_BYTES = 1_048_576  # ECS takes task definitions of 64 KiB; YAML's comments and layout may be larger than that
FRESH = 10.0  # seconds that a document is taken as read: a burst of runs asks once
S3 = "s3://"


class Documents:
    """Reads YAML and JSON by path: of this machine, or `s3://bucket/key` with the worker's own credentials."""

    def __init__(self, aws: Aws, fresh: float = FRESH) -> None:
        self._aws = aws
        self._fresh: Lookups[str, Any] = Lookups(fresh)
        self._kept: Lookups[str, tuple[object, Any]] = Lookups(float("inf"), most=100)

    async def read(self, source: str, path: str) -> Any:
        """The document at `path`, parsed; `source` is the variable or option that names it, for messages.

        Raises JobInvalid if it can't be had or is neither YAML nor JSON, AwsError if AWS may answer another time.
        """
        if "\0" in path:
            raise JobInvalid([f"{source}: {path!r} is no path; correct it."])
        ask = self._from_s3 if path.startswith(S3) else self._from_file
        return await self._fresh.get(path, lambda: ask(source, path))

    async def _from_file(self, source: str, path: str) -> Any:
        kept = self._kept.peek(path)
        try:
            version, document = await to_thread.run_sync(_read_file, source, path, kept)
        except OSError as error:
            raise JobInvalid(
                [f"{source}: the worker can't read {path}: {error.strerror}; put it there, or correct the path."]
            ) from None
        self._kept.put(path, (version, document))
        return document

    async def _from_s3(self, source: str, path: str) -> Any:
        bucket, key = s3_object(source, path)
        kept = self._kept.peek(path)
        s3 = await self._aws.s3()
        try:
            found = await s3.read(bucket, key, most=MOST_BYTES + 1, etag=str(kept[0]) if kept else None)
        except AwsError as error:
            if classify(error).kind is not Kind.PERMANENT:
                raise
            remedy = "Put it there, correct the path, or allow the worker s3:GetObject on it."
            raise JobInvalid([f"{source}: the worker can't read {path}: {error}. {remedy}"]) from None
        if found is None:
            assert kept is not None, "only what is kept is asked for with its tag"
            return kept[1]
        document = await to_thread.run_sync(_checked, source, path, found.content)
        self._kept.put(path, (found.etag, document))
        return document


def s3_object(source: str, path: str) -> tuple[str, str]:
    """Bucket and key of `path`. Raises JobInvalid if it has not both."""
    bucket, _, key = path.removeprefix(S3).partition("/")
    if not bucket or not key:
        raise JobInvalid([f"{source}: {path} names no object; write s3://bucket/key."])
    return bucket, key


def _read_file(source: str, path: str, kept: tuple[object, Any] | None) -> tuple[object, Any]:
    """Version and document; in a thread, as disks can be slow and YAML is."""
    file = Path(path)
    status = file.stat()
    version = (status.st_mtime_ns, status.st_size, status.st_ino)
    if kept is not None and kept[0] == version:
        return kept
    with file.open("rb") as opened:
        content = opened.read(MOST_BYTES + 1)
    return version, _checked(source, path, content)


def _checked(source: str, path: str, content: bytes) -> Any:
    if len(content) > MOST_BYTES:
        raise JobInvalid([f"{source}: {path} has more than {MOST_BYTES} bytes; no ECS request is as large."])
    try:
        return parsed(content)
    except ValueError as error:
        raise JobInvalid([f"{source}: {path} {error}; correct it."]) from None


class _Loader(yaml.SafeLoader):
    """Without YAML's dates: they stay texts, as in JSON."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the parent has it
        first: [(tag, shape) for tag, shape in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def parsed(content: bytes) -> Any:
    """The document as JSON would have it: JSON is YAML, and names in it are texts.

    Raises ValueError with the reason. Of what can't be read only the place is told: any file may have been named.
    """
    try:
        return json.loads(json.dumps(yaml.load(content, _Loader), allow_nan=False))  # noqa: S506 - it is a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"is neither YAML nor JSON{place}") from None
    except (RecursionError, TypeError, ValueError):
        raise ValueError("says what JSON can't, like a list inside itself") from None
