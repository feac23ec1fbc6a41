"""Amazon ECR: what an image is, without pulling it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from ecs_worker.aws.errors import translated, usable
from ecs_worker.aws.service import Service
from ecs_worker.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_MOST_BYTES = 1_048_576  # of an image's configuration, which has some thousand
_TIMEOUT = aiohttp.ClientTimeout(total=20)  # seconds


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, in the words of its manifest: `linux` and `amd64`, say. `size`: of its layers, in bytes.

    As stored, which is compressed. None: not known.
    """

    system: str
    architecture: str
    size: int | None


class Ecr(Service):
    """ECR in one account and Region."""

    name = "ecr"

    async def platforms(self, registry: str, repository: str, reference: str) -> list[Platform] | None:
        """What the image runs on; None: there is no such image. An AwsError RepositoryNotFoundException: nor its place.

        `registry`: the account whose it is. `reference`: a tag, or a digest (`sha256:…`).
        """
        place = {"registryId": registry, "repositoryName": repository}
        key = "imageDigest" if reference.startswith("sha256:") else "imageTag"
        manifest = next(iter((await self._manifests(place, [{key: reference}])).values()), None)
        if manifest is None:
            return None
        with usable("BatchGetImage"):
            if "manifests" in manifest:
                listed = [
                    (str(each["digest"]), str(each["platform"]["os"]), str(each["platform"]["architecture"]))
                    for each in manifest["manifests"]
                    if each.get("platform", {}).get("os") not in {None, "unknown"}  # of attestations
                ]
                found = await self._manifests(place, [{"imageDigest": digest} for digest, *_ in listed])
                return [Platform(system, kind, _size(found.get(digest))) for digest, system, kind in listed]
            digest = str(manifest["config"]["digest"])
        configuration = await self._configuration(place, digest)
        with usable("GetDownloadUrlForLayer"):
            return [Platform(str(configuration["os"]), str(configuration["architecture"]), _size(manifest))]

    async def _manifests(
        self, place: Mapping[str, str], ids: Sequence[Mapping[str, str]]
    ) -> dict[str, Mapping[str, Any]]:
        """By their digests, those that exist."""
        operation = "BatchGetImage"
        answer = await self._call(operation, **place, imageIds=list(ids), acceptedMediaTypes=list(_MANIFESTS))
        with usable(operation):
            for failure in answer.get("failures", ()):
                if (code := str(failure.get("failureCode", ""))) != "ImageNotFound":
                    raise AwsError(operation, code, str(failure.get("failureReason", "")))
            return {
                str(image["imageId"]["imageDigest"]): json.loads(image["imageManifest"])
                for image in answer.get("images", ())
            }

    async def _configuration(self, place: Mapping[str, str], digest: str) -> Mapping[str, Any]:
        """The image's configuration, which is kept like a layer."""
        operation = "GetDownloadUrlForLayer"
        answer = await self._call(operation, **place, layerDigest=digest)
        with usable(operation):
            url = str(answer["downloadUrl"])
        try:
            with translated(operation):
                content = await _downloaded(url)
        except AwsError as error:  # its message may repeat the URL, which is signed
            raise AwsError(operation, error.code, "The image's configuration can't be downloaded.") from None
        with usable(operation):
            found: dict[str, Any] = json.loads(content)
            return found


async def _downloaded(url: str) -> bytes:
    """What is there, at most `_MOST_BYTES`. Raises what aiohttp raises."""
    content = b""
    async with (
        aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=True, raise_for_status=True) as http,
        http.get(url) as response,
    ):
        async for part in response.content.iter_any():
            content += part
            if len(content) > _MOST_BYTES:
                break
    return content


def _size(manifest: Mapping[str, Any] | None) -> int | None:
    return sum(int(layer["size"]) for layer in manifest["layers"]) if manifest is not None else None
