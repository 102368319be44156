"""The CA of the progress server. It is kept in a Secret: running pods trust it across restarts of the operator."""

from __future__ import annotations

import base64
import ipaddress
import os
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from finetune_operator.errors import AlreadyExists, ConfigurationError, NotFound
from finetune_operator.kube import Kube
from finetune_operator.naming import FIELD_MANAGER

SECRET_NAME = "finetune-operator-progress-ca"
_CA_LIFETIME = timedelta(days=3650)
# A new one is made at every start of the operator.
_SERVER_LIFETIME = timedelta(days=825)
_CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True)
class Authority:
    """A CA: certificate and private key, both PEM."""

    certificate: bytes
    key: bytes


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def new_authority() -> Authority:
    """Makes a CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(
            "finetune-operator progress CA", _name("finetune-operator progress CA"), key.public_key(), _CA_LIFETIME
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def server_certificate(authority: Authority, host: str) -> tuple[bytes, bytes]:
    """Certificate and key, both PEM, of a server that is reached by ``host``."""
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = serialization.load_pem_private_key(authority.key, password=None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise TypeError("the CA's key is not an elliptic-curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder("finetune-operator", issuer.subject, key.public_key(), _SERVER_LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_alternative_name(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _pem(key)


def server_context(certificate: bytes, key: bytes) -> ssl.SSLContext:
    """A TLS context of a server. The ssl module reads files only; they are gone when this returns."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    descriptor, path = tempfile.mkstemp()
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(certificate + key)
        context.load_cert_chain(path)
    finally:
        os.unlink(path)
    return context


def _secret(namespace: str, authority: Authority) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": SECRET_NAME,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": FIELD_MANAGER},
        },
        "type": "kubernetes.io/tls",
        "data": {
            "tls.crt": base64.b64encode(authority.certificate).decode(),
            "tls.key": base64.b64encode(authority.key).decode(),
        },
    }


def _authority_of(secret: dict[str, Any], namespace: str) -> Authority:
    data = secret.get("data") or {}
    try:
        return Authority(base64.b64decode(data["tls.crt"]), base64.b64decode(data["tls.key"]))
    except (KeyError, ValueError) as error:
        raise ConfigurationError(
            f"Secret {namespace}/{SECRET_NAME} is damaged; delete it to have a new CA made (pods that run now will not "
            "be able to report until they end)"
        ) from error


async def load_authority(kube: Kube, namespace: str) -> Authority:
    """The CA of this installation; made and stored the first time.

    Raises:
        KubeError: the Secret can neither be read nor written.
        ConfigurationError: the Secret holds no CA.
    """
    try:
        secret = await kube.get("v1", "secrets", namespace, SECRET_NAME)
    except NotFound:
        authority = new_authority()
        try:
            await kube.create(_secret(namespace, authority), FIELD_MANAGER)
            return authority
        except AlreadyExists:
            secret = await kube.get("v1", "secrets", namespace, SECRET_NAME)
    return _authority_of(secret, namespace)
