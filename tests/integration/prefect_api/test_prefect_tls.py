"""HTTPS: which certificates the client believes."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ecs_worker.errors import PrefectUnreachable, UserError
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.settings import PrefectSettings
from support.servers.scripted import Answer, scripted

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoded_key = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + encoded_key)
    return path


async def version(certificate: Path, **settings: Any) -> str | None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with scripted(Answer(200, "3.8.8"), tls=tls) as server:
        given = PrefectSettings(api_url=server.url, client_csrf_support_enabled=False, **settings)
        async with PrefectClient(given) as api:
            return await api.server_version()


async def test_an_unknown_certificate_is_refused_at_once(certificate: Path) -> None:
    with pytest.raises(PrefectUnreachable, match="PREFECT_API_SSL_CERT_FILE names the CA to trust"):
        await version(certificate)


async def test_a_given_certificate_is_believed(certificate: Path) -> None:
    assert await version(certificate, api_ssl_cert_file=certificate) == "3.8.8"


async def test_verification_can_be_turned_off(certificate: Path) -> None:
    assert await version(certificate, api_tls_insecure_skip_verify=True) == "3.8.8"


async def test_a_file_without_certificates_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.pem"
    path.write_text("nothing")
    with pytest.raises(UserError, match=r"PREFECT_API_SSL_CERT_FILE is '.*empty\.pem', but that file can't be used"):
        PrefectClient(PrefectSettings(api_url="https://127.0.0.1/api", api_ssl_cert_file=path))
