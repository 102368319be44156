"""Certificates and kubeconfigs."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from finetune_sandbox import kubeconfig, pki

ISSUED = pki.issue(("sandbox-0", "sandbox-1"))
AUTHORITY = x509.load_pem_x509_certificate(ISSUED.authority.certificate)


def load(credential: pki.Credential) -> x509.Certificate:
    return x509.load_pem_x509_certificate(credential.certificate)


def subject(credential: pki.Credential) -> tuple[str, list[str]]:
    """User and groups, as Kubernetes reads them."""
    name = load(credential).subject
    users = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    groups = name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(users[0].value), [str(group.value) for group in groups]


def test_identities() -> None:
    assert subject(ISSUED.admin) == ("kubernetes-admin", ["system:masters"])
    assert subject(ISSUED.controller_manager) == ("system:kube-controller-manager", [])
    assert subject(ISSUED.scheduler) == ("system:kube-scheduler", [])
    assert subject(ISSUED.node_agent) == ("finetune-sandbox:node-agent", ["system:masters"])
    assert subject(ISSUED.kubelet_client) == ("kube-apiserver-kubelet-client", ["system:masters"])


def test_servers_verify_for_their_names_only() -> None:
    verifier = PolicyBuilder().store(Store([AUTHORITY])).build_server_verifier(x509.DNSName("kubernetes.default.svc"))
    assert verifier.verify(load(ISSUED.api_server), [])[0] == load(ISSUED.api_server)
    names = load(ISSUED.kubelet_server).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "sandbox-0", "sandbox-1"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_clients_cannot_serve() -> None:
    usage = load(ISSUED.admin).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_authority_key_is_not_written() -> None:
    files = ISSUED.files()
    assert "ca.key" not in files
    assert ISSUED.authority.key not in files.values()


def test_service_account_keys_belong_together() -> None:
    private = load_pem_private_key(ISSUED.service_account.key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert load_pem_public_key(ISSUED.service_account.certificate) == private.public_key()


def test_kubeconfig_embeds_everything() -> None:
    document = kubeconfig.for_certificate("https://127.0.0.1:1", b"CA", "me", pki.Credential(b"CERT", b"KEY"))
    assert document == {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "finetune-sandbox",
                "cluster": {
                    "server": "https://127.0.0.1:1",
                    "certificate-authority-data": base64.b64encode(b"CA").decode(),
                },
            }
        ],
        "users": [
            {
                "name": "me",
                "user": {
                    "client-certificate-data": base64.b64encode(b"CERT").decode(),
                    "client-key-data": base64.b64encode(b"KEY").decode(),
                },
            }
        ],
        "contexts": [
            {
                "name": "finetune-sandbox",
                "context": {"cluster": "finetune-sandbox", "user": "me", "namespace": "default"},
            }
        ],
        "current-context": "finetune-sandbox",
    }


def test_private_files_are_replaced_whole_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    kubeconfig.write_private(path, kubeconfig.dump({"new": True}))
    assert yaml.safe_load(path.read_text()) == {"new": True}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
