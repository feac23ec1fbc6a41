"""A job rendered as the worker would, with placeholders for what only AWS knows, and its requests for people."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ecs_worker.aws.session import Aws
from ecs_worker.cli.jobs import PLACEHOLDERS
from ecs_worker.errors import UserError
from ecs_worker.job.masking import MASK, masked
from ecs_worker.job.requests import FoundNetwork, definition_digest
from ecs_worker.lifecycle.define import registration
from ecs_worker.lifecycle.rendering.files import S3, Documents, s3_object
from ecs_worker.lifecycle.rendering.render import render_job, warnings_of
from ecs_worker.lifecycle.rendering.sources import PrefectSources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecs_worker.cli.jobs import RenderJob
    from ecs_worker.job.attached import Document
    from ecs_worker.job.job import Job
    from ecs_worker.job.requests import NetworkNeed
    from ecs_worker.job.template import BlockReference
    from ecs_worker.model import AwsTarget
    from ecs_worker.prefect_api.client import PrefectClient


@dataclass
class Preview:
    """Sources that never ask AWS. Nor the Prefect server, if `api` is None.

    Blocks come without their secrets. `notes` tell what had to be left open, in sentences; `unread` are the texts
    that stand for it.
    """

    api: PrefectClient | None
    notes: dict[str, None] = field(default_factory=dict)  # in their order, each once
    unread: list[str] = field(default_factory=lambda: [MASK])
    _read: dict[object, Any] = field(default_factory=dict)

    def region(self, target: AwsTarget) -> str:
        """The Region that is configured here; the worker's may be another."""
        try:
            return Aws().region(target) or "<Region>"
        except UserError:  # a profile, say, that only the worker's machine has
            return "<Region>"

    async def block(self, reference: BlockReference) -> Mapping[str, Any]:
        """The block's data with ******** for secrets; offline a placeholder."""
        if self.api is None:
            text = self._open("block", reference)
            credentials = not reference.name or reference.type_slug == "aws-credentials"
            return {} if credentials else {"value": _Anything(text)}
        if reference not in self._read:
            self._read[reference] = await PrefectSources(self.api, secrets=False).block(reference)
        return dict(self._read[reference])

    async def variable(self, name: str) -> Any:
        """The variable's value; offline a placeholder."""
        if self.api is None:
            return self._open("variable", name)
        if name not in self._read:
            self._read[name] = await PrefectSources(self.api).variable(name)
        return self._read[name]

    async def document(self, document: Document) -> Any:
        """A file's content. What is on S3 is left open."""
        if document.path.startswith(S3):
            s3_object(document)
            self.note(
                f"{document.path} ({document.source}) is not read, as AWS is not asked: what it says is missing here."
            )
            return {}
        if document not in self._read:
            self._read[document] = await Documents(Aws()).read(document)
        return self._read[document]

    async def definition(self, target: AwsTarget, name: str) -> Mapping[str, Any] | None:  # noqa: ARG002 - the protocol's
        """Only ECS knows it."""
        self.note(
            f"The task definition {name} is not described, as AWS is not asked: its containers and network mode are "
            "presumed to fit, and are not checked."
        )
        return None

    async def network(self, target: AwsTarget, need: NetworkNeed) -> FoundNetwork:  # noqa: ARG002 - the protocol's
        """A text in place of what EC2 would tell."""
        subnets = need.given.get("subnets") or [f"<subnets of {need}>"]
        if not need.inherit:
            return FoundNetwork(subnets)
        self.note("The security groups and the public address are those of the worker's own task.")
        return FoundNetwork(["<subnet of the worker>"], ["<security groups of the worker>"], public_ip=False)

    def _open(self, kind: str, name: object) -> str:
        self.note(
            f"The {kind} {name} is not read: that takes the Prefect server (--deployment, --flow-run). What it is used "
            "for is not checked, and left out where no text can be."
        )
        text = f"<{kind} {name}>"
        self.unread.append(text)
        return text

    def note(self, sentence: str) -> None:
        """Something to tell beside the requests."""
        self.notes[sentence] = None


class _Anything(str):
    """What stands for a block's value stands for each part of it, too."""

    __slots__ = ()

    def __getitem__(self, key: object) -> str:
        return self


async def rendered(asked: RenderJob, sources: Preview) -> Job:
    """The job as the worker would render it; notes come with it. Raises JobInvalid with all problems."""
    job = await render_job(asked.template, asked.deployed, asked.context, sources)
    for warning in warnings_of(job, asked.template, asked.deployed):
        sources.note(warning)
    if (reused := job.configuration.reused_definition) and job.configuration.derive_task_definition:
        sources.note(
            f"derive_task_definition: where the job needs it, the worker registers and runs a changed copy of "
            f"{reused}. It is not shown, as only AWS knows what is to be changed."
        )
    return job


def shown(job: Job) -> dict[str, Any]:
    """Both requests by name, as `define` and `launch` would send them, secrets masked."""
    requests: dict[str, Any] = {}
    reused = job.configuration.reused_definition
    if reused is None:
        request, tags = registration(job.definition, definition_digest(job.definition))
        requests["RegisterTaskDefinition"] = {**request, "tags": [{"key": k, "value": v} for k, v in tags.items()]}
    run = job.context.run
    requests["RunTask"] = {
        **job.run_task,
        "taskDefinition": reused or "<ARN of the task definition>",
        "clientToken": run.client_token(1),
        "startedBy": run.started_by,
    }
    result: dict[str, Any] = _with_placeholders(masked(requests))
    return result


def _with_placeholders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_placeholders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_placeholders(item) for item in value]
    if isinstance(value, str):
        for text, placeholder in PLACEHOLDERS.items():
            value = value.replace(text, placeholder)
    return value
