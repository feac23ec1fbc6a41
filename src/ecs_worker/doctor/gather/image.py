"""What ECR says of the images that jobs name."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from ecs_worker.doctor.checks.image import ImageFacts, ImageWanted
from ecs_worker.doctor.gather.account import target_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ecs_worker.aws.ecr import Platform
    from ecs_worker.aws.session import Aws
    from ecs_worker.doctor.asking import Asking
    from ecs_worker.job.job import Job
    from ecs_worker.model import AwsTarget


class ImageGatherer:
    """Asks ECR."""

    def __init__(self, aws: Aws, asking: Asking) -> None:
        self._aws = aws
        self._asking = asking

    async def gather(self, jobs: Mapping[str, Job]) -> list[ImageFacts]:
        """Of each image that jobs (by what they are called) name."""
        asked: defaultdict[tuple[AwsTarget, ImageWanted], list[str]] = defaultdict(list)
        for name, job in jobs.items():
            for wanted in _images(job):
                asked[target_of(job), wanted].append(name)
        on_ecr = [(target, wanted.image) for target, wanted in asked if wanted.place is not None]
        found = await self._asking.each(set(on_ecr), lambda place: ("image", *place), self._ask)
        return [
            ImageFacts(wanted, tuple(about), found.get((target, wanted.image)))
            for (target, wanted), about in asked.items()
        ]

    async def _ask(self, asked: tuple[AwsTarget, str]) -> tuple[Platform, ...] | None:
        target, image = asked
        place = ImageWanted(image).place
        assert place is not None, "only ECR's are asked about"
        account, region, repository, reference = place
        ecr = await self._aws.ecr(replace(target, region=region))
        found = await ecr.platforms(account, repository, reference)
        return None if found is None else tuple(found)


def _images(job: Job) -> Iterator[ImageWanted]:
    platform = job.definition.get("runtimePlatform") or {}
    architecture = str(platform.get("cpuArchitecture") or "X86_64")
    system = "WINDOWS" if job.on_windows else "LINUX"
    for image in dict.fromkeys(str(each["image"]) for each in job.containers if each.get("image")):
        yield ImageWanted(image, architecture, system)
