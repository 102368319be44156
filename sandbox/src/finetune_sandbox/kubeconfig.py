"""kubeconfig files, complete in themselves (certificates and tokens are embedded)."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import yaml

from finetune_sandbox.pki import Credential


def for_certificate(server: str, authority: bytes, user: str, credential: Credential) -> dict[str, Any]:
    """A kubeconfig that authenticates by client certificate."""
    return _document(
        {"server": server, "certificate-authority-data": _encoded(authority)},
        user,
        {
            "client-certificate-data": _encoded(credential.certificate),
            "client-key-data": _encoded(credential.key),
        },
    )


def for_token(cluster: dict[str, Any], user: str, token: str, namespace: str) -> dict[str, Any]:
    """A kubeconfig for the same ``cluster`` entry that authenticates by bearer token."""
    return _document(cluster, user, {"token": token}, namespace)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, replacing what was there at once."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)


def dump(document: dict[str, Any]) -> bytes:
    """The document as YAML."""
    return yaml.safe_dump(document, sort_keys=False).encode()


def _document(
    cluster: dict[str, Any], user: str, credential: dict[str, Any], namespace: str = "default"
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "finetune-sandbox", "cluster": cluster}],
        "users": [{"name": user, "user": credential}],
        "contexts": [
            {
                "name": "finetune-sandbox",
                "context": {"cluster": "finetune-sandbox", "user": user, "namespace": namespace},
            }
        ],
        "current-context": "finetune-sandbox",
    }


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
