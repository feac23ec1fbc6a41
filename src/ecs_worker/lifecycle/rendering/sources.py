"""Where a job's parts come from while it is rendered: the Prefect server, AWS, files.

`render` asks a Sources; the worker's is `WorkerSources`, and `ecs-worker render` has one that never asks AWS.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

from ecs_worker.aws.metadata import own_mac_address
from ecs_worker.errors import JobInvalid, PrefectNotFound, UserError
from ecs_worker.job.requests import FoundNetwork
from ecs_worker.job.template import UNSET
from ecs_worker.lifecycle.rendering.files import Documents
from ecs_worker.lifecycle.rendering.lookups import Lookups

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ecs_worker.aws.ecs import Definition
    from ecs_worker.aws.session import Aws
    from ecs_worker.job.attached import Document
    from ecs_worker.job.requests import NetworkNeed
    from ecs_worker.job.template import BlockReference
    from ecs_worker.model import AwsTarget
    from ecs_worker.prefect_api.client import PrefectClient

FRESH = 300.0  # seconds for networks and reused definitions, which hardly change


class Sources(Protocol):
    """What rendering has to ask.

    Methods raise JobInvalid for what the user must mend, PrefectError, AwsError and DocumentUnread.
    """

    @property
    def unread(self) -> Sequence[str]:
        """Texts that stand for what was not asked for: what is wrong with them can't be told."""

    def region(self, target: AwsTarget) -> str:
        """The Region that the target's tasks run in; empty if none is known."""

    async def block(self, reference: BlockReference) -> Mapping[str, Any]:
        """A block's data."""

    async def variable(self, name: str) -> Any:
        """A Prefect variable's value; UNSET if there is none."""

    async def document(self, document: Document) -> Any:
        """What the file or S3 object says, parsed."""

    async def definition(self, target: AwsTarget, name: str) -> Mapping[str, Any] | None:
        """The task definition of that ARN or family, as ECS describes it; None where nobody may ask ECS."""

    async def network(self, target: AwsTarget, need: NetworkNeed) -> FoundNetwork:
        """The network that a job needs."""


class PrefectSources:
    """What the Prefect server knows. `secrets` False: blocks' secrets come as ********."""

    unread: Sequence[str] = ()

    def __init__(self, api: PrefectClient, *, secrets: bool = True) -> None:
        self._api = api
        self._secrets = secrets

    async def block(self, reference: BlockReference) -> Mapping[str, Any]:
        """A block's data, secrets included: it is never logged."""
        try:
            if reference.document_id:
                return await self._api.read_block_document(reference.document_id, secrets=self._secrets)
            return await self._api.read_block_document_by_name(
                reference.type_slug, reference.name, secrets=self._secrets
            )
        except PrefectNotFound:
            sentence = f"The block {reference} that the job's template or variables name does not exist"
            raise JobInvalid([f"{sentence}; create or correct it."]) from None

    async def variable(self, name: str) -> Any:
        """The variable's value, which may be null; UNSET if there is none."""
        try:
            return await self._api.read_variable(name)
        except PrefectNotFound:
            return UNSET


class WorkerSources(PrefectSources):
    """The worker's: what hardly changes is kept for some minutes, and runs that ask together share one call."""

    def __init__(self, api: PrefectClient, aws: Aws) -> None:
        super().__init__(api)
        self._aws = aws
        self._documents = Documents(aws)
        self._definitions: Lookups[tuple[tuple[str, str], str], Definition] = Lookups(FRESH)
        self._subnets: Lookups[tuple[tuple[str, str], str | None], FoundNetwork] = Lookups(FRESH)
        self._own: Lookups[None, FoundNetwork] = Lookups(FRESH)

    def region(self, target: AwsTarget) -> str:
        """The target's Region, or the worker's."""
        return self._aws.region(target) or ""

    async def document(self, document: Document) -> Any:
        """What the file or S3 object says, parsed."""
        return await self._documents.read(document)

    async def definition(self, target: AwsTarget, name: str) -> Mapping[str, Any]:
        """The description of a task definition: ECS knows its containers, network mode and launch types."""
        ecs = await self._aws.ecs(target)
        found = await self._definitions.get((target.key, name), lambda: ecs.describe_definition(name))
        return {**found.request, "compatibilities": found.compatibilities}

    async def network(self, target: AwsTarget, need: NetworkNeed) -> FoundNetwork:
        """The VPC's subnets, or the worker's own network."""
        if need.inherit:
            return await self._own_network(target)
        ec2 = await self._aws.ec2(target)

        async def ask() -> FoundNetwork:
            vpc_id = need.vpc_id or await ec2.default_vpc()
            return FoundNetwork(await ec2.subnets(vpc_id) if vpc_id else ())

        return await self._subnets.get((target.key, need.vpc_id), ask)

    async def _own_network(self, target: AwsTarget) -> FoundNetwork:
        here, there = self._aws.region(), self._aws.region(target)
        if here != there:
            raise UserError(
                f"inherit_network can't be used for tasks in {there}: the worker's own network is in {here}. Set "
                "subnets or vpc_id."
            )
        return await self._own.get(None, self._ask_own_network)

    async def _ask_own_network(self) -> FoundNetwork:
        mac_address = await own_mac_address(os.environ)
        found = await (await self._aws.ec2()).interface(mac_address)
        if found is None:
            raise UserError(
                f"inherit_network: EC2 knows no network interface {mac_address} in the worker's own account and "
                "Region. Check the worker's AWS credentials and AWS_REGION, or set subnets or vpc_id."
            )
        return FoundNetwork([found.subnet], found.security_groups, found.public)
