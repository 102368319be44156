"""Installs the operator on a cluster and runs it on this machine, with the rights of the chart only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from finetune_sandbox.errors import RequestFailed
from finetune_sandbox.ports import LOOPBACK, Reservation
from finetune_sandbox.processes import spawn
from finetune_sandbox.rest import answers
from finetune_sandbox.service_account import service_account_kubeconfig

OPERATOR_NAMESPACE = "finetune-system"
SERVICE_ACCOUNT = "finetune-operator"
# Images are ignored by the process node; on another cluster this must be one that it can pull.
DEFAULT_IMAGE = "finetune-trainer:dev"
# A machine that is busy with other things takes a while to import the libraries.
_START_SECONDS = 90.0
_STOP_SECONDS = 10.0

Object = dict[str, Any]
Rules = list[Object]


@dataclass(frozen=True)
class ChartRules:
    """The RBAC rules of the chart: for the whole cluster, which the operator serves here, and for its own namespace."""

    cluster: Rules
    namespace: Rules

    @classmethod
    def read(cls, chart: Path) -> Self:
        """The same files that the chart's templates include."""

        def rules(name: str) -> Rules:
            return list(yaml.safe_load((chart / "files" / f"{name}-rules.yaml").read_text()))

        return cls(rules("cluster") + rules("served"), rules("own"))


def access_manifests(
    rules: ChartRules, name: str = SERVICE_ACCOUNT, namespace: str = OPERATOR_NAMESPACE
) -> list[Object]:
    """Namespace, ServiceAccount, roles and bindings, in the order of creation."""
    rbac = "rbac.authorization.k8s.io"
    subjects = [{"kind": "ServiceAccount", "name": name, "namespace": namespace}]
    local = {"name": name, "namespace": namespace}

    def role(kind: str, metadata: Object, content: Rules) -> Object:
        return {"apiVersion": f"{rbac}/v1", "kind": kind, "metadata": metadata, "rules": content}

    def binding(kind: str, metadata: Object) -> Object:
        reference = {"apiGroup": rbac, "kind": kind, "name": name}
        document = {"apiVersion": f"{rbac}/v1", "kind": f"{kind}Binding", "metadata": metadata}
        return document | {"roleRef": reference, "subjects": subjects}

    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": local},
        role("ClusterRole", {"name": name}, rules.cluster),
        binding("ClusterRole", {"name": name}),
        role("Role", local, rules.namespace),
        binding("Role", local),
    ]


def kubectl(kubeconfig: Path, *arguments: str, stdin: str | None = None) -> str:
    """Output of one kubectl command.

    Raises:
        RequestFailed: it failed; the message is what it printed.
    """
    environment = os.environ | {"KUBECONFIG": str(kubeconfig)}
    result = subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise RequestFailed(f"kubectl {' '.join(arguments)}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout


def install(kubeconfig: Path, project: Path) -> None:
    """Applies the CRDs and the chart's access rules, and waits until the API serves FineTuneJobs.

    Raises:
        RequestFailed: the API server refused one of them.
    """
    kubectl(kubeconfig, "apply", "--server-side", "-k", str(project / "crds"))
    manifests = access_manifests(ChartRules.read(project / "charts" / "finetune-operator"))
    kubectl(kubeconfig, "apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(manifests))
    kubectl(kubeconfig, "wait", "--for=condition=Established", "--timeout=30s", "crd/finetunejobs.finetune.dev")


def _free_port() -> int:
    reservation = Reservation(("port",))
    reservation.release()
    return reservation.ports["port"]


@dataclass
class OperatorProcess:
    """The operator as a process of this machine. It can be killed and started again as the same installation.

    Attributes:
        health_port: where it serves probes and metrics since it was last started; 0 before.
    """

    kubeconfig: Path
    log: Path
    progress_port: int
    options: tuple[str, ...] = ()
    health_port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, admin: Path, folder: Path, options: Sequence[str] = (), account: str = SERVICE_ACCOUNT) -> Self:
        """Starts an operator that acts as a ServiceAccount of the installation; returns when it answers.

        Raises:
            RequestFailed: it ended while starting; the message has the tail of its log.
        """
        folder.mkdir(parents=True, exist_ok=True)
        config = service_account_kubeconfig(admin, OPERATOR_NAMESPACE, account, folder / f"{account}.kubeconfig")
        operator = cls(config, folder / "operator.log", _free_port(), tuple(options))
        operator.launch()
        return operator

    def launch(self) -> None:
        """Starts the process, also again after :meth:`kill` or :meth:`stop`. It ends with this one."""
        self.health_port = _free_port()
        address = f"{LOOPBACK}:{self.progress_port}"
        command = [sys.executable, "-m", "finetune_operator", "--trainer-image", DEFAULT_IMAGE]
        command += ["--namespace", OPERATOR_NAMESPACE, "--health-listen", f"{LOOPBACK}:{self.health_port}"]
        command += ["--progress-listen", address, "--progress-url", f"https://{address}", *self.options]
        environment = os.environ | {"KUBECONFIG": str(self.kubeconfig)}
        self.process = spawn(command, environment, self.log.parent, self.log, signal.SIGTERM)
        self._await(lambda: answers(self.health_port, "/healthz") is not None)

    def _await(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not ready():
            if self.process is None or self.process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
                raise RequestFailed(f"the operator did not start:\n{tail}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Ends it as a crash does (SIGKILL)."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it as a deployment does (SIGTERM)."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def resident_bytes(self) -> int:
        """Resident memory of the process.

        Raises:
            RequestFailed: it does not run.
        """
        if self.process is None or self.process.poll() is not None:
            raise RequestFailed("the operator does not run")
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024
