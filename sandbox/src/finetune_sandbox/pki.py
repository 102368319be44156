"""The sandbox's own certificate authority and the certificates it issues (no I/O here).

Names follow Kubernetes' "PKI certificates and requirements": the common name is the user, organizations are groups.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# The first address of the API server's service range, which in-cluster clients are told to use.
SERVICE_RANGE = "10.96.0.0/16"
_API_SERVER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "127.0.0.1",
    "10.96.0.1",
)
_VALID_FOR = datetime.timedelta(days=365)
# Tolerates a clock that steps back a little after the sandbox has started.
_BACKDATED = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Credential:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class Authority:
    """A certificate authority that signs others."""

    credential: Credential
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def client(self, user: str, *groups: str) -> Credential:
        """A client certificate that authenticates as ``user`` in ``groups``."""
        return self._issue(user, groups, ExtendedKeyUsageOID.CLIENT_AUTH, ())

    def server(self, common_name: str, names: tuple[str, ...], *groups: str) -> Credential:
        """A serving certificate for ``names``, each a DNS name or an IP address."""
        return self._issue(common_name, groups, ExtendedKeyUsageOID.SERVER_AUTH, names)

    def _issue(
        self, common_name: str, groups: tuple[str, ...], usage: x509.ObjectIdentifier, names: tuple[str, ...]
    ) -> Credential:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(_subject(common_name, groups), self.certificate.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
            )
        return Credential(_pem(builder.sign(self.key, hashes.SHA256())), private_key_pem(key))


@dataclass(frozen=True)
class Pki:
    """Every credential of one sandbox."""

    authority: Credential
    api_server: Credential
    kubelet_client: Credential
    kubelet_server: Credential
    admin: Credential
    controller_manager: Credential
    scheduler: Credential
    node_agent: Credential
    service_account: Credential

    def files(self) -> dict[str, bytes]:
        """File name in the ``pki`` folder to content, named as kubeadm names them."""
        return {
            "ca.crt": self.authority.certificate,
            "apiserver.crt": self.api_server.certificate,
            "apiserver.key": self.api_server.key,
            "apiserver-kubelet-client.crt": self.kubelet_client.certificate,
            "apiserver-kubelet-client.key": self.kubelet_client.key,
            "kubelet.crt": self.kubelet_server.certificate,
            "kubelet.key": self.kubelet_server.key,
            "sa.pub": self.service_account.certificate,
            "sa.key": self.service_account.key,
        }


def issue(node_names: tuple[str, ...] = ()) -> Pki:
    """A fresh authority and every credential of a sandbox.

    The authority's key is not among them: nothing is ever signed afterwards, so it is forgotten at once.
    """
    authority = new_authority("finetune-sandbox")
    masters = "system:masters"
    return Pki(
        authority=authority.credential,
        api_server=authority.server("kube-apiserver", _API_SERVER_NAMES),
        kubelet_client=authority.client("kube-apiserver-kubelet-client", masters),
        kubelet_server=authority.server("finetune-sandbox:kubelet", ("127.0.0.1", "localhost", *node_names)),
        admin=authority.client("kubernetes-admin", masters),
        controller_manager=authority.client("system:kube-controller-manager"),
        scheduler=authority.client("system:kube-scheduler"),
        # One agent speaks for all nodes, which the Node authorizer does not allow a system:node identity to do.
        node_agent=authority.client("finetune-sandbox:node-agent", masters),
        service_account=key_pair(),
    )


def new_authority(common_name: str) -> Authority:
    """A self-signed certificate authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(common_name, ())
    certificate = (
        _builder(subject, subject, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_ca_key_usage(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(Credential(_pem(certificate), private_key_pem(key)), certificate, key)


def key_pair() -> Credential:
    """A bare key pair; ``certificate`` holds the public key. Signs service account tokens."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Credential(public, private_key_pem(key))


def private_key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as unencrypted PKCS #8."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _VALID_FOR)
    )


def _ca_key_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
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


def _subject(common_name: str, groups: tuple[str, ...]) -> x509.Name:
    organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
