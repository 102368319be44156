"""The demo on a sandbox cluster: install, apply the example with kubectl, follow its status."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from scripts.demo.console import say

from finetune_sandbox import Sandbox
from finetune_sandbox.installation import OperatorProcess, install, kubectl

SECRET = "s3-credentials"
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")
# Far beyond what the demo takes on any machine: something hangs then.
_PATIENCE_SECONDS = 1800.0
_LOG_LINES = "40"

Status = Mapping[str, Any]


class DemoFailed(Exception):
    """The demo did not get to its end; the message says why."""


@contextmanager
def operator(sandbox: Sandbox, project: Path, folder: Path) -> Iterator[OperatorProcess]:
    """Installs CRDs and access rules, and runs the operator for as long as the block lasts."""
    install(sandbox.kubeconfig, project)
    process = OperatorProcess.start(sandbox.kubeconfig, folder)
    try:
        yield process
    finally:
        process.stop()


def create_secret(sandbox: Sandbox) -> None:
    """The Secret that the example names, with the sandbox's own credentials."""
    environment = sandbox.environment()
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": "default"},
        "stringData": {name: environment[name] for name in _CREDENTIALS},
    }
    kubectl(sandbox.kubeconfig, "apply", "-f", "-", stdin=yaml.safe_dump(secret))


def apply(sandbox: Sandbox, project: Path, manifest: Path) -> None:
    """``kubectl apply -f`` of an example, as a user would type it in the project's folder."""
    say(f"$ kubectl apply -f {manifest}")
    say(kubectl(sandbox.kubeconfig, "apply", "-f", str(project / manifest)).strip())


def follow(sandbox: Sandbox, name: str, show: Callable[[Status], None]) -> Status:
    """Shows the job's status as it changes and returns the last one: Complete or Failed.

    Raises:
        DemoFailed: neither came, for much longer than the demo takes.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for status in _watch(sandbox, name, deadline):
            show(status)
            if is_true(status, "Complete") or is_true(status, "Failed"):
                return status
    raise DemoFailed(f"the job {name} was neither Complete nor Failed after {_PATIENCE_SECONDS:.0f} s")


def is_true(status: Status, condition: str) -> bool:
    return any(entry["type"] == condition and entry["status"] == "True" for entry in status.get("conditions", ()))


def _watch(sandbox: Sandbox, name: str, deadline: float) -> Iterator[Status]:
    """Each status that ``kubectl get --watch`` prints, until it ends or the deadline passes."""
    command = ["kubectl", "get", "ftj", name, "--watch", "-o", 'jsonpath={.status}{"\\n"}']
    environment = os.environ | {"KUBECONFIG": str(sandbox.kubeconfig)}
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


def resource_text(sandbox: Sandbox, name: str) -> str:
    """The resource as kubectl shows it, its status only."""
    document = yaml.safe_load(kubectl(sandbox.kubeconfig, "get", "ftj", name, "-o", "yaml"))
    return yaml.safe_dump({"status": document.get("status", {})}, sort_keys=False, allow_unicode=True, width=120)


def print_logs(sandbox: Sandbox, operator_log: Path, name: str) -> None:
    """The ends of the logs that explain a failure: of the operator, and of each pod of the job."""
    if operator_log.exists():
        _print_tail("the operator", operator_log.read_text(errors="replace"))
    pods = kubectl(sandbox.kubeconfig, "get", "pods", "-l", f"finetune.dev/job={name}", "-o", "name").split()
    for pod in pods:
        _print_tail(pod, kubectl(sandbox.kubeconfig, "logs", f"--tail={_LOG_LINES}", pod))


def _print_tail(what: str, text: str) -> None:
    say(f"--- log of {what}, its end")
    say("\n".join(text.splitlines()[-int(_LOG_LINES) :]))
