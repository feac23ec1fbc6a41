"""What EC2 says of the networks that jobs name."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

from ecs_worker.aws.ec2 import Ec2
from ecs_worker.doctor.asking import all_of
from ecs_worker.doctor.checks.image import ImageWanted
from ecs_worker.doctor.checks.job import API_URL, environment
from ecs_worker.doctor.checks.network import NetworkFacts, NetworkWanted
from ecs_worker.doctor.finding import Untold
from ecs_worker.doctor.gather.account import target_of
from ecs_worker.doctor.gather.jobs import NOT_TOLD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ecs_worker.aws.ec2 import Subnet
    from ecs_worker.aws.session import Aws
    from ecs_worker.doctor.asking import Asking
    from ecs_worker.job.job import Job
    from ecs_worker.model import AwsTarget

T = TypeVar("T")


class NetworkGatherer:
    """Asks EC2."""

    def __init__(self, aws: Aws, asking: Asking) -> None:
        self._aws = aws
        self._asking = asking

    async def gather(self, jobs: Mapping[str, Job]) -> list[NetworkFacts]:
        """Of each network that jobs (by what they are called) name."""
        asked: defaultdict[tuple[AwsTarget, NetworkWanted], list[str]] = defaultdict(list)
        for name, job in jobs.items():
            if job.network.get("subnets") and NOT_TOLD not in job.network["subnets"]:
                asked[target_of(job), wanted_by(job)].append(name)

        async def facts(place: tuple[AwsTarget, NetworkWanted]) -> NetworkFacts:
            return await self._facts(*place, tuple(asked[place]))

        return list((await all_of(list(asked), facts)).values())

    async def _facts(self, target: AwsTarget, wanted: NetworkWanted, about: tuple[str, ...]) -> NetworkFacts:
        async def ask(ids: frozenset[str]) -> tuple[Subnet, ...]:
            return tuple(await (await self._aws.ec2(target)).subnets_named(sorted(ids)))

        subnets = await self._asking.get(("subnets", target, wanted.subnets), lambda: ask(wanted.subnets))
        if isinstance(subnets, Untold):
            return NetworkFacts(wanted, about, subnets)
        vpcs = {subnet.vpc_id for subnet in subnets}
        return NetworkFacts(
            wanted,
            about,
            subnets,
            await self._of_vpcs(target, vpcs, Ec2.route_tables),
            await self._of_vpcs(target, vpcs, Ec2.nat_gateways),
            await self._of_vpcs(target, vpcs, Ec2.endpoints),
            await self._of_vpcs(target, vpcs, Ec2.security_groups),
        )

    async def _of_vpcs(
        self, target: AwsTarget, vpcs: set[str], ask: Callable[[Ec2, str], Awaitable[T]]
    ) -> dict[str, T | Untold]:
        async def question(vpc: str) -> T:
            return await ask(await self._aws.ec2(target), vpc)

        return await self._asking.each(vpcs, lambda vpc: ("network", ask, target, vpc), question)


def wanted_by(job: Job) -> NetworkWanted:
    """What the job needs of its network: as Fargate pulls the image, writes the log and reads secrets through it."""
    images = [ImageWanted(str(container.get("image"))) for container in job.containers]
    others = frozenset(_registry(each.image) for each in images if each.place is None)
    services = {service for container in job.containers for service in _services(container)}
    if any(each.place is not None for each in images):
        services |= {"ecr.api", "ecr.dkr", "s3"}
    off = job.off_fargate  # there the instance does all that, through a network of its own
    return NetworkWanted(
        region=job.context.region,
        subnets=frozenset(map(str, job.network.get("subnets") or ())),
        groups=frozenset(map(str, job.network.get("securityGroups") or ())),
        public=job.network.get("assignPublicIp") == "ENABLED",
        services=frozenset() if off else frozenset(services),
        registries=frozenset() if off else others,
        api_url=job.hidden.hide(environment(job).get(API_URL, "")),
    )


def _services(container: Mapping[str, object]) -> set[str]:
    """Those of AWS that ECS asks for a container, the image aside."""
    log = container.get("logConfiguration") or {}
    secrets = container.get("secrets") or []
    assert isinstance(log, dict), "requests are made so"
    assert isinstance(secrets, list), "likewise"
    found = {"logs"} if log.get("logDriver") == "awslogs" else set()
    for secret in [*secrets, *(log.get("secretOptions") or [])]:
        found.add("secretsmanager" if ":secretsmanager:" in str(secret.get("valueFrom")) else "ssm")
    return found


def _registry(image: str) -> str:
    """Whose image it is: without a host it is Docker Hub's."""
    host, slash, _ = image.partition("/")
    return host if slash and ("." in host or ":" in host) else "docker.io"
