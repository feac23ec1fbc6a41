"""Images in the embedded AWS's registry, as `docker push` puts them there: without files in their layers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

_OCI = "application/vnd.oci.image"


async def push(ecr: Any, repository: str, tag: str | None, architecture: str = "amd64", size: int = 50_000_000) -> str:
    """An image for Linux with one layer of that many bytes, which is not there itself; its digest."""
    configuration = json.dumps({"os": "linux", "architecture": architecture, "rootfs": {"type": "layers"}}).encode()
    upload = (await ecr.initiate_layer_upload(repositoryName=repository))["uploadId"]
    await ecr.upload_layer_part(
        repositoryName=repository,
        uploadId=upload,
        partFirstByte=0,
        partLastByte=len(configuration) - 1,
        layerPartBlob=configuration,
    )
    digest = _digest(configuration)
    await ecr.complete_layer_upload(repositoryName=repository, uploadId=upload, layerDigests=[digest])
    layer = {"mediaType": f"{_OCI}.layer.v1.tar+gzip", "digest": _digest(f"{repository}{tag}".encode()), "size": size}
    return await _put(
        ecr,
        repository,
        tag,
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": {"mediaType": f"{_OCI}.config.v1+json", "digest": digest, "size": len(configuration)},
            "layers": [layer],
        },
    )


async def push_index(ecr: Any, repository: str, tag: str, *architectures: str) -> str:
    """An image for Linux on several architectures, with what build tools attest of it; its digest."""
    listed = [
        {"digest": await push(ecr, repository, None, each), "platform": {"os": "linux", "architecture": each}}
        for each in architectures
    ]
    attested = {"digest": _digest(b"attested"), "platform": {"os": "unknown", "architecture": "unknown"}}
    manifests = [{"mediaType": f"{_OCI}.manifest.v1+json", "size": 500, **each} for each in (*listed, attested)]
    index = {"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": manifests}
    return await _put(ecr, repository, tag, index)


async def _put(ecr: Any, repository: str, tag: str | None, manifest: dict[str, Any]) -> str:
    text = json.dumps(manifest)
    digest = _digest(text.encode())
    await ecr.put_image(
        repositoryName=repository, imageManifest=text, imageDigest=digest, **({"imageTag": tag} if tag else {})
    )
    return digest


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
