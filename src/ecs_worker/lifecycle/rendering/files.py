"""Documents that jobs name: task definitions and RunTask arguments in files or on S3.

Nothing is written; what was read is kept and read again only when it has changed. Whoever may write job variables may
name any path, so a job's file is under the operator's directory, and what it costs to read is bounded.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import yaml

from ecs_worker.errors import AwsError, DocumentUnread, JobInvalid
from ecs_worker.lifecycle.rendering.lookups import Lookups
from ecs_worker.settings import JobDefaults, option
from ecs_worker.verdicts.classify import Kind, classify

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from ecs_worker.aws.session import Aws
    from ecs_worker.job.attached import Document

MOST_BYTES = 1_048_576  # ECS takes task definitions of 64 KiB; YAML's comments and layout may be larger than that
MOST_NODES = 10_000  # of YAML, each alias counted with all that it stands for; 64 KiB of JSON have fewer
LONGEST_NUMBER = 400  # digits; YAML's sexagesimal ones take quadratic time to read
FRESH = 10.0  # seconds that a document is taken as read: a burst of runs asks once
TIMEOUT = 10.0  # seconds to read a document and to parse it, which take milliseconds
S3 = "s3://"

T = TypeVar("T")


class Documents:
    """Reads YAML and JSON by path: of this machine, or `s3://bucket/key` with the worker's own credentials.

    `timeout`: seconds for each attempt to read one.
    """

    def __init__(self, aws: Aws, fresh: float = FRESH, timeout: float = TIMEOUT) -> None:
        self._aws = aws
        self._timeout = timeout
        self._fresh: Lookups[Hashable, Any] = Lookups(fresh)
        self._kept: Lookups[str, tuple[object, Any]] = Lookups(float("inf"), most=100)
        self._hanging: set[str] = set()  # paths that threads are at whom nobody waits for any more

    async def read(self, document: Document) -> Any:
        """What the document says, parsed.

        Raises JobInvalid if it can't be had or is neither YAML nor JSON, DocumentUnread and AwsError if it may be
        another time.
        """
        if "\0" in document.path:
            raise _problem(document, f"{document.path!r} is no path; correct it.")
        ask = self._from_s3 if document.path.startswith(S3) else self._from_file
        return await self._fresh.get(document, lambda: ask(document))

    async def _from_file(self, document: Document) -> Any:
        path, directory = _place(document)
        kept = self._kept.peek(str(path))
        try:
            version, content = await self._in_thread(document, lambda: _read_file(document, path, directory, kept))
        except OSError as error:
            remedy = "put it there, or correct the path"
            raise _problem(document, f"the worker can't read {document.path}: {error.strerror}; {remedy}.") from None
        self._kept.put(str(path), (version, content))
        return content

    async def _from_s3(self, document: Document) -> Any:
        bucket, key = s3_object(document)
        kept = self._kept.peek(document.path)
        s3 = await self._aws.s3()
        try:
            etag = str(kept[0]) if kept else None
            found = await s3.read(bucket, key, most=MOST_BYTES + 1, etag=etag, seconds=self._timeout)
        except AwsError as error:
            if classify(error).kind is not Kind.PERMANENT:
                raise
            remedy = "Put it there, correct the path, or allow the worker s3:GetObject on it."
            raise _problem(document, f"the worker can't read {document.path}: {error}. {remedy}") from None
        if found is None:
            assert kept is not None, "only what is kept is asked for with its tag"
            return kept[1]
        content = await self._in_thread(document, lambda: _checked(document, found.content))
        self._kept.put(document.path, (found.etag, content))
        return content

    async def _in_thread(self, document: Document, work: Callable[[], T]) -> T:
        """What `work` returns, if it does so in time; in a thread, as disks can be slow and YAML is.

        Raises DocumentUnread, and what `work` raises.

        A thread that hangs in the kernel can't be ended. So nothing waits for this one for ever, not even the end of
        the process, and while it hangs no other one follows it.
        """
        path = document.path
        if path in self._hanging:
            raise DocumentUnread(f"{document.source}: an earlier attempt to read {path} still hangs.")
        answer: Future[T] = Future()
        answer.set_running_or_notify_cancel()

        def run() -> None:
            try:
                answer.set_result(work())
            except BaseException as error:  # noqa: BLE001 - it is raised where the answer is awaited
                answer.set_exception(error)

        threading.Thread(target=run, name="document", daemon=True).start()
        try:
            with anyio.move_on_after(self._timeout):
                return await asyncio.wrap_future(answer)
        finally:
            if not answer.done():
                self._hanging.add(path)
                answer.add_done_callback(lambda _: self._hanging.discard(path))
        raise DocumentUnread(
            f"{document.source}: to read {path} takes more than {self._timeout:g} s; look at the file and at the "
            "worker's disk."
        )


def s3_object(document: Document) -> tuple[str, str]:
    """Bucket and key of the document's path. Raises JobInvalid if it has not both."""
    bucket, _, key = document.path.removeprefix(S3).partition("/")
    if not bucket or not key:
        raise _problem(document, f"{document.path} names no object; write s3://bucket/key.")
    return bucket, key


def _place(document: Document) -> tuple[Path, Path | None]:
    """The path to open, and the directory that must hold it (None: any may). Without a look at the disk.

    Raises JobInvalid for a path that the job may not name, with words that don't depend on what is there.
    """
    if document.anywhere:
        return Path(document.path), None
    if document.directory is None:
        raise _problem(
            document,
            f"jobs may not name files of the worker's machine, such as {document.path}; put it on S3 "
            "(s3://bucket/key), or let the worker's operator allow a directory "
            f"({option(JobDefaults, 'documents_dir')}).",
        )
    directory = Path(os.path.normpath(document.directory.absolute()))
    path = Path(os.path.normpath(directory / document.path))
    if not path.is_relative_to(directory):
        raise _elsewhere(document)
    return path, directory


def _elsewhere(document: Document) -> JobInvalid:
    return _problem(
        document,
        f"{document.path} is not under {document.directory}, the directory that the worker's operator allows; put it "
        "there, or on S3.",
    )


def _problem(document: Document, sentence: str) -> JobInvalid:
    return JobInvalid([f"{document.source}: {sentence}"])


def _read_file(
    document: Document, path: Path, directory: Path | None, kept: tuple[object, Any] | None
) -> tuple[object, Any]:
    """Version and content. Only what is a file is opened: devices do things, and pipes and terminals hang."""
    if directory is not None:
        path = Path(os.path.realpath(path))  # symbolic links may lead out, too
        if not path.is_relative_to(os.path.realpath(directory)):
            raise _elsewhere(document)
    status = path.stat()
    if stat.S_ISREG(status.st_mode):
        version = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
        if kept is not None and kept[0] == version:
            return kept
        # Should it have become a pipe by now, it is not waited for.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
            if stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                return version, _checked(document, opened.read(MOST_BYTES + 1))
    raise _problem(document, f"{document.path} is no regular file; name one.")


def _checked(document: Document, content: bytes) -> Any:
    if len(content) > MOST_BYTES:
        raise _problem(document, f"{document.path} has more than {MOST_BYTES} bytes; no ECS request is as large.")
    try:
        return parsed(content)
    except ValueError as error:
        raise _problem(document, f"{document.path} {error}; correct it.") from None


class _Unfit(ValueError):
    """Its text tells what is wrong with a document."""


class _Loader(yaml.SafeLoader):
    """Without YAML's dates: they stay texts, as in JSON. Raises _Unfit for what grows when it is read."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the parent has it
        first: [(tag, shape) for tag, shape in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self._nodes = 0
        self._sizes: dict[int, int] = {}  # the nodes in each complete one, by its id

    def compose_node(self, parent: Any, index: Any) -> Any:
        """PyYAML's hook for each node and alias of the document, before any value is made of it."""
        alias = self.check_event(yaml.AliasEvent)
        before = self._nodes
        node: Any = super().compose_node(parent, index)
        if alias and id(node) not in self._sizes:
            raise _Unfit("says what JSON can't, like a list inside itself")
        self._nodes += self._sizes[id(node)] if alias else 1
        if self._nodes > MOST_NODES:
            raise _Unfit(f"has more than {MOST_NODES} values, counted with what its aliases repeat")
        if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and len(node.value) > LONGEST_NUMBER:
            raise _Unfit(f"has a number of more than {LONGEST_NUMBER} digits")
        if not alias:
            self._sizes[id(node)] = self._nodes - before
        return node


_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}


def parsed(content: bytes) -> Any:
    """The document as JSON would have it: JSON is YAML, and names in it are texts.

    Raises ValueError with the reason. Of what can't be read only the place is told: any file may have been named.
    """
    try:
        return json.loads(json.dumps(yaml.load(content, _Loader), allow_nan=False))  # noqa: S506 - it is a SafeLoader
    except _Unfit:
        raise
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"is neither YAML nor JSON{place}") from None
    except (RecursionError, TypeError, ValueError):
        raise ValueError("says what JSON can't, like a list inside itself") from None
