"""Define: the ARN of the task definition that a run needs, reused whenever possible.

Definitions are content-addressed: the digest of the request is kept as a tag, and found again after a restart among
the family's newest revisions. What ECS gives back is never compared, since ECS adds defaults to it. If the process
dies after registering, the next worker finds the revision by its tag.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import anyio

from ecs_worker.errors import AwsError, EcsWorkerError
from ecs_worker.job.requests import definition_digest
from ecs_worker.lifecycle.rendering.lookups import Lookups
from ecs_worker.verdicts.classify import Kind, classify

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ecs_worker.aws.ecs import Ecs
    from ecs_worker.aws.session import Aws
    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.model import AwsTarget, LaunchRequest

log = logging.getLogger(__name__)

DIGEST_TAG = "ecs-worker:digest"
GONE = ("inactive", "unable to describe task definition", "taskdefinition not found")  # ECS of one that is gone
NEWEST = 5  # revisions looked at before registering another
KEPT_FOR = 3600.0  # seconds; a definition that was deregistered meanwhile is noticed at RunTask

_Family = tuple[tuple[str, str], str]
_Key = tuple[tuple[str, str], str, str]


class Define:
    """Finds or registers task definitions, one registration in flight per family (ECS refuses more)."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._known: Lookups[_Key, str] = Lookups(KEPT_FOR)
        self._families: defaultdict[_Family, anyio.Lock] = defaultdict(anyio.Lock)
        self._failed: dict[_Family, tuple[float, AwsError]] = {}  # when ECS failed last, and how

    async def ensure(self, request: LaunchRequest) -> str:
        """The ARN (or the name, as given) to run. Raises AwsError."""
        definition = request.definition
        if isinstance(definition, str):
            return definition
        target = request.placement.target
        digest = definition_digest(definition)
        newest = 1 if request.match_latest else NEWEST
        return await self._known.get(
            (target.key, definition["family"], digest),
            lambda: self._find_or_register(target, definition, digest, newest),
        )

    def heed(self, request: LaunchRequest, refusal: AwsError) -> bool:
        """RunTask failed. Whether our definition was deregistered or deleted: then another is made next time."""
        if isinstance(request.definition, str) or not any(word in refusal.message.lower() for word in GONE):
            return False
        family = request.definition["family"]
        self._known.forget((request.placement.target.key, family, definition_digest(request.definition)))
        return True

    async def retire(self, run: Run, others: Iterable[Run]) -> None:
        """Deregister the definition of a run that has ended, if its job wants that and none of `others` uses it.

        Tasks that run go on. A run that needs the same definition later registers a new revision.
        """
        launched = run.launched
        if not run.deregister or launched is None or not (arn := launched.task.definition_arn):
            return
        if any(other.task is not None and other.task.definition_arn == arn for other in others):
            return
        try:
            ecs = await self._aws.ecs(launched.placement.target)
            self._known.forget_value(arn)  # first: a launch that comes meanwhile makes another
            await ecs.deregister(arn)
        except EcsWorkerError as error:
            log.warning("Task definition %s is not deregistered: %s", arn, error)

    async def _find_or_register(
        self, target: AwsTarget, definition: Mapping[str, Any], digest: str, newest: int
    ) -> str:
        family = target.key, str(definition["family"])
        ecs = await self._aws.ecs(target)
        began = time.monotonic()
        async with self._families[family]:
            failed_at, failure = self._failed.get(family, (-math.inf, None))
            if failure is not None and failed_at >= began:
                raise failure  # ECS failed while this waited: it needn't wait for another failure
            try:
                arn = await self._found_or_registered(ecs, definition, digest, newest)
            except AwsError as error:
                if classify(error).kind is not Kind.PERMANENT:
                    self._failed[family] = time.monotonic(), error
                raise
            self._failed.pop(family, None)
            return arn

    async def _found_or_registered(self, ecs: Ecs, definition: Mapping[str, Any], digest: str, newest: int) -> str:
        for arn in await ecs.newest_revisions(str(definition["family"]), newest):
            found = await ecs.describe_definition(arn)
            if found.tags.get(DIGEST_TAG) == digest:
                log.debug("Task definition %s is as needed.", found.arn)
                return found.arn
        arn = await ecs.register(*registration(definition, digest))
        log.info("Registered task definition %s.", arn)
        return arn


def registration(definition: Mapping[str, Any], digest: str) -> tuple[dict[str, Any], dict[str, str]]:
    """RegisterTaskDefinition's request without tags, and the tags, the digest among them."""
    request = {name: value for name, value in definition.items() if name != "tags"}
    return request, {tag["key"]: tag.get("value", "") for tag in definition.get("tags", ())} | {DIGEST_TAG: digest}
