"""The demo on a sandbox cluster: install, apply the example with kubectl, follow its status."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from scripts.demo.console import say

from finetune_sandbox import Sandbox
from finetune_sandbox.installation import OperatorProcess, install, kubectl

SECRET = "s3-credentials"
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")
# Far beyond what the demo takes on any machine: something hangs then.
_PATIENCE_SECONDS = 1800.0
_LOG_LINES = "40"

Status = Mapping[str, Any]


class DemoFailed(Exception):
    """The demo did not get to its end; the message says why."""


@dataclass(frozen=True)
class Cluster:
    """Where the demo runs.

    Attributes:
        kubeconfig: an administrator's.
        environment: the AWS variables of the store, as pods reach it too.
        namespace: the namespace of the job.
    """

    kubeconfig: Path
    environment: Mapping[str, str]
    namespace: str

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Output of a kubectl command in the demo's namespace; raises RequestFailed with what it printed."""
        return kubectl(self.kubeconfig, "-n", self.namespace, *arguments, stdin=stdin)


@contextmanager
def sandbox_cluster(folder: Path) -> Iterator[Cluster]:
    """A sandbox of the demo's own.

    Raises:
        ControlPlaneUnavailable: none can be had here.
    """
    with Sandbox.up(folder, nodes=2, attached=True) as sandbox:
        yield Cluster(sandbox.kubeconfig, sandbox.environment(), "default")


@contextmanager
def existing_cluster(environment: Mapping[str, str]) -> Iterator[Cluster]:
    """The cluster that KUBECONFIG names and the store that the AWS variables name, in a namespace of the demo's own.

    Raises:
        DemoFailed: a variable is missing.
    """
    missing = [name for name in CREDENTIALS if not environment.get(name)]
    if missing:
        raise DemoFailed(
            f"KUBECONFIG is set, so the demo uses that cluster, and its store: set {', '.join(missing)} too; or unset "
            "KUBECONFIG for a sandbox"
        )
    cluster = Cluster(Path(environment["KUBECONFIG"]), environment, f"finetune-demo-{uuid.uuid4().hex[:6]}")
    kubectl(cluster.kubeconfig, "create", "namespace", cluster.namespace)
    try:
        yield cluster
    finally:
        kubectl(cluster.kubeconfig, "delete", "namespace", cluster.namespace, "--wait=false")


@contextmanager
def operator(cluster: Cluster, project: Path, folder: Path) -> Iterator[OperatorProcess]:
    """Installs CRDs and access rules, and runs the operator for as long as the block lasts."""
    install(cluster.kubeconfig, project)
    process = OperatorProcess.start(cluster.kubeconfig, folder)
    try:
        yield process
    finally:
        process.stop()


def create_secret(cluster: Cluster) -> None:
    """The Secret that the example names, with the store's credentials."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET},
        "stringData": {name: cluster.environment[name] for name in CREDENTIALS},
    }
    cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(secret))


def apply(cluster: Cluster, project: Path, manifest: Path) -> None:
    """``kubectl apply -f`` of an example, as a user would type it in the project's folder."""
    place = "" if cluster.namespace == "default" else f" -n {cluster.namespace}"
    say(f"$ kubectl apply -f {manifest}{place}")
    say(cluster.kubectl("apply", "-f", str(project / manifest)).strip())


def follow(cluster: Cluster, name: str, show: Callable[[Status], None]) -> Status:
    """Shows the job's status as it changes and returns the last one: Complete or Failed.

    Raises:
        DemoFailed: neither came, for much longer than the demo takes.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for status in _watch(cluster, name, deadline):
            show(status)
            if is_true(status, "Complete") or is_true(status, "Failed"):
                return status
    raise DemoFailed(f"the job {name} was neither Complete nor Failed after {_PATIENCE_SECONDS:.0f} s")


def is_true(status: Status, condition: str) -> bool:
    return any(entry["type"] == condition and entry["status"] == "True" for entry in status.get("conditions", ()))


def _watch(cluster: Cluster, name: str, deadline: float) -> Iterator[Status]:
    """Each status that ``kubectl get --watch`` prints, until it ends or the deadline passes."""
    command = ["kubectl", "-n", cluster.namespace, "get", "ftj", name, "--watch", "-o", 'jsonpath={.status}{"\\n"}']
    environment = os.environ | {"KUBECONFIG": str(cluster.kubeconfig)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            yield from (json.loads(line) for line in _lines(process, deadline) if line.strip())
        finally:
            process.terminate()


def _lines(process: subprocess.Popen[bytes], deadline: float) -> Iterator[bytes]:
    """Lines of a process's output; ends with the output or at the deadline."""
    assert process.stdout is not None
    text = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                return
            *lines, text = (text + chunk).split(b"\n")
            yield from lines


def resource_text(cluster: Cluster, name: str) -> str:
    """The resource as kubectl shows it, its status only."""
    document = yaml.safe_load(cluster.kubectl("get", "ftj", name, "-o", "yaml"))
    return yaml.safe_dump({"status": document.get("status", {})}, sort_keys=False, allow_unicode=True, width=120)


def print_logs(cluster: Cluster, operator_log: Path, name: str) -> None:
    """The ends of the logs that explain a failure: of the operator, and of each pod of the job."""
    if operator_log.exists():
        _print_tail("the operator", operator_log.read_text(errors="replace"))
    pods = cluster.kubectl("get", "pods", "-l", f"finetune.dev/job={name}", "-o", "name").split()
    for pod in pods:
        _print_tail(pod, cluster.kubectl("logs", f"--tail={_LOG_LINES}", pod))


def _print_tail(what: str, text: str) -> None:
    say(f"--- log of {what}, its end")
    say("\n".join(text.splitlines()[-int(_LOG_LINES) :]))
