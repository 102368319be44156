"""Kueue's real controllers beside a sandbox, as a process of this machine.

What its chart makes is applied, but for what runs in the cluster: its Deployment, with the rights of that, and its API
for pending workloads. Its webhooks are reached by a Service of type ExternalName, and this harness does the kubelet's
part in bringing the certificate that Kueue makes for itself to its folder.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from finetune_sandbox import kueue
from finetune_sandbox.installation import kubectl
from finetune_sandbox.ports import Reservation
from finetune_sandbox.processes import spawn
from finetune_sandbox.rest import answers
from support import helm
from support.operated import eventually

Object = dict[str, Any]

NAMESPACE = "kueue-system"
_SERVICE = "kueue-webhook-service"
_KINDS = frozenset(
    {"CustomResourceDefinition", "Secret", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"}
)
# Of the webhooks those of the one integration, and of Kueue's own kinds.
_RESOURCES = frozenset({"jobs", "workloads", "clusterqueues", "cohorts", "resourceflavors"})
_START_SECONDS = 120


def configuration(ports: dict[str, int], certificates: Path) -> Object:
    """What the administrator of a cluster would write into Kueue's ConfigMap, with this machine's ports."""
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": NAMESPACE,
        "health": {"healthProbeBindAddress": f"127.0.0.1:{ports['health']}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"port": ports["webhook"], "certDir": str(certificates)},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {
            "enable": True,
            "webhookServiceName": _SERVICE,
            "webhookSecretName": "kueue-webhook-server-cert",
        },
        "integrations": {"frameworks": ["batch/job"]},
        "featureGates": {"VisibilityOnDemand": False},
    }


def installed_objects(port: int) -> list[Object]:
    """What is applied of Kueue's chart, with webhooks that lead to a port of this machine."""
    result = helm.run("template", "kueue", str(kueue.chart()), "--namespace", NAMESPACE)
    assert result.returncode == 0, result.stderr
    made = [document for document in yaml.safe_load_all(result.stdout) if document and document["kind"] in _KINDS]
    for document in made:
        if webhooks := document.get("webhooks"):
            document["webhooks"] = [hook for hook in webhooks if _RESOURCES & set(hook["rules"][0]["resources"])]
        for client in _webhook_clients(document):
            client["service"]["port"] = port
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": _SERVICE, "namespace": NAMESPACE},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
    }
    return [namespace, service, *made]


def _webhook_clients(document: Object) -> list[Object]:
    conversion = document.get("spec", {}).get("conversion", {}).get("webhook")
    return [hook["clientConfig"] for hook in (*document.get("webhooks", ()), *([conversion] if conversion else ()))]


@dataclass
class Kueue:
    """Kueue's controller manager."""

    kubeconfig: Path
    folder: Path
    reservation: Reservation = field(default_factory=lambda: Reservation(("webhook", "health")))
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / "kueue.log"

    def start(self) -> None:
        """Installs Kueue and starts it; returns when it is ready."""
        command = kueue.obtain()
        certificates = self.folder / "certificates"
        certificates.mkdir(parents=True)
        ports = self.reservation.ports
        objects = json.dumps({"apiVersion": "v1", "kind": "List", "items": installed_objects(ports["webhook"])})
        kubectl(self.kubeconfig, "apply", "--server-side", "-f", "-", stdin=objects)
        config = self.folder / "config.yaml"
        config.write_text(json.dumps(configuration(ports, certificates)))
        self.reservation.release()
        environment = os.environ | {"KUBECONFIG": str(self.kubeconfig)}
        argv = [str(command), f"--config={config}"]
        self.process = spawn(argv, environment, self.folder, self.log, signal.SIGKILL)
        eventually(lambda: self._certificate(certificates), _START_SECONDS, self.tail)
        eventually(lambda: answers(ports["health"], "/readyz") == 200, _START_SECONDS, self.tail)

    def _certificate(self, folder: Path) -> bool:
        """Brings the Secret's files to the folder, as a kubelet would; False while Kueue has not made it."""
        text = kubectl(self.kubeconfig, "get", "secret", "kueue-webhook-server-cert", "-n", NAMESPACE, "-o", "json")
        files = json.loads(text).get("data") or {}
        for name, content in files.items():
            (folder / name).write_bytes(base64.b64decode(content))
        return bool(files)

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(30)

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
