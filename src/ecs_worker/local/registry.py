"""ECR and Service Quotas as far as moto lacks them: small layers can be downloaded, and Fargate has its quotas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import moto.ecr.models
import moto.ecr.urls
import moto.servicequotas.models
from moto.core.responses import ActionResult
from moto.ecr.models import ECRBackend
from moto.ecr.responses import ECRResponse
from moto.servicequotas.models import ServiceQuotasBackend

from ecs_worker.local.rules import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LAYERS_PATH = "/__ecs_worker/layers/"
_MOST_BYTES = 1_048_576  # of a layer that is kept: an image's configuration has some thousand, and no layer is run here
_NEW_ACCOUNT = 6.0  # vCPUs
_FARGATE = {
    "L-3032A538": "Fargate On-Demand vCPU resource count",
    "L-36FBB829": "Fargate Spot vCPU resource count",
}


class Registry(ECRBackend):  # type: ignore[misc]  # moto has no types
    """One account's registry in one Region."""

    __module__ = "moto.ecr.models"  # moto derives the service from it

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self.contents: dict[tuple[str, str], bytes] = {}  # by repository and digest

    def complete_layer_upload(
        self, repository_name: str, upload_id: str, layer_digests: Sequence[str], registry_id: str | None = None
    ) -> dict[str, Any]:
        """moto's, which keeps only the layer's size."""
        upload = self._get_repository(repository_name, registry_id).uploads.get(upload_id)
        content = bytes(upload.layer_parts) if upload is not None else b""
        answer: dict[str, Any] = super().complete_layer_upload(repository_name, upload_id, layer_digests, registry_id)
        if len(content) <= _MOST_BYTES:
            self.contents[repository_name, answer["layerDigest"]] = content
        return answer


class RegistryResponse(ECRResponse):  # type: ignore[misc]  # likewise
    """The answers that moto lacks. A method's name is an AWS action's."""

    def get_download_url_for_layer(self) -> ActionResult:
        """GetDownloadUrlForLayer: a URL of this server."""
        repository, digest = self._get_param("repositoryName"), self._get_param("layerDigest")
        backend = self.ecr_backend
        backend._get_repository(repository, self._get_param("registryId"))  # noqa: SLF001 - it says what doesn't exist
        if (repository, digest) not in backend.contents:
            raise Refused(
                "LayersNotFoundException",
                f"The layer with digest '{digest}' does not exist in the repository '{repository}'.",
            )
        place = f"{backend.account_id}/{backend.region_name}/{repository}/{digest}"
        return ActionResult(
            {"downloadUrl": f"http://{self.headers['Host']}{LAYERS_PATH}{place}", "layerDigest": digest}
        )


def layer(path: str) -> bytes | None:
    """The layer at a path of `get_download_url_for_layer`."""
    account, _, rest = path.removeprefix(LAYERS_PATH).partition("/")
    region, _, rest = rest.partition("/")
    repository, _, digest = rest.rpartition("/")
    content: bytes | None = moto.ecr.models.ecr_backends[account][region].contents.get((repository, digest))
    return content


class Quotas(ServiceQuotasBackend):  # type: ignore[misc]  # likewise
    """A new account's quotas in one Region."""

    __module__ = "moto.servicequotas.models"  # moto derives the service from it

    def get_service_quota(self, service_code: str, quota_code: str) -> Mapping[str, Any]:
        """Fargate's; moto knows those of VPCs."""
        if service_code != "fargate" or quota_code not in _FARGATE:
            found: Mapping[str, Any] = super().get_service_quota(service_code, quota_code)
            return found
        return {
            "ServiceCode": "fargate",
            "ServiceName": "AWS Fargate",
            "QuotaCode": quota_code,
            "QuotaName": _FARGATE[quota_code],
            "Value": _NEW_ACCOUNT,
            "Unit": "None",
            "Adjustable": True,
            "GlobalQuota": False,
        }


def extend() -> None:
    """Make moto use these, before its first request."""
    moto.ecr.models.ecr_backends.backend = Registry
    moto.ecr.urls.url_paths["{0}/$"] = RegistryResponse.dispatch
    moto.servicequotas.models.servicequotas_backends.backend = Quotas
