"""A sandbox's cluster with short ways to make pods and to wait for what becomes of them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from finetune_sandbox import Sandbox
from support.kube_reader import KubeReader

Json = dict[str, Any]
_numbers = count()
# Waited for over one connection: a kubectl ten times a second would take a core.
_LOOKED_AT = {"pod": "pods", "job": "jobs"}


@dataclass(frozen=True)
class Cluster:
    """One namespace of a sandbox."""

    kubectl: Callable[..., Any]
    kubeconfig: Path
    namespace: str

    def line(self, *arguments: str) -> list[str]:
        """The command line of a kubectl that the test runs itself."""
        program = str(Path(sys.executable).parent / "kubectl")
        return [program, "--kubeconfig", str(self.kubeconfig), "-n", self.namespace, *arguments]

    def run(self, *arguments: str, manifest: str = "") -> str:
        """Output of a kubectl command that has to succeed."""
        done = self.kubectl("-n", self.namespace, *arguments, manifest=manifest)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    def failure(self, *arguments: str) -> str:
        """Error message of a kubectl command that has to fail."""
        done = self.kubectl("-n", self.namespace, *arguments)
        assert done.returncode != 0, done.stdout
        return str(done.stderr)

    def apply(self, *objects: Json) -> None:
        """Create the objects."""
        self.run("create", "-f", "-", manifest=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def pod(self, name: str, command: list[str] | None = None, *, container: Json | None = None, **spec: Any) -> None:
        """Create a pod with one container ``main``, which runs once unless ``spec`` says otherwise."""
        main = {"name": "main", "image": "none"} | ({"command": command} if command else {}) | (container or {})
        defaults = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [main]}
        annotations = spec.pop("annotations", {})
        metadata = {"name": name, "labels": {"app": name}, "annotations": annotations}
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": defaults | spec})

    def get(self, kind: str, name: str) -> Json:
        """An object."""
        found: Json = json.loads(self.run("get", kind, name, "-o", "json"))
        return found

    def until(self, kind: str, name: str, reached: Callable[[Json], bool]) -> Json:
        """The object once ``reached`` holds; the test's own time limit ends the wait otherwise."""
        plural = _LOOKED_AT.get(kind)
        while not reached(found := self._reader.get(plural, self.namespace, name) if plural else self.get(kind, name)):
            time.sleep(0.1)
        return found

    @cached_property
    def _reader(self) -> KubeReader:
        return KubeReader(self.kubeconfig)

    def ended(self, name: str) -> Json:
        """A pod's status once it is Succeeded or Failed."""
        pod = self.until("pod", name, lambda pod: pod["status"]["phase"] in ("Succeeded", "Failed"))
        status: Json = pod["status"]
        return status

    def state(self, name: str, kind: str) -> Json:
        """The state of a pod's container once it is of ``kind``: waiting, running or terminated."""

        def reached(pod: Json) -> bool:
            return kind in first_state(pod)

        found: Json = first_state(self.until("pod", name, reached))[kind]
        return found

    def waiting(self, name: str, reason: str) -> Json:
        """The state of a pod's container once it waits for ``reason``."""

        def reached(pod: Json) -> bool:
            return bool(first_state(pod).get("waiting", {}).get("reason") == reason)

        found: Json = first_state(self.until("pod", name, reached))["waiting"]
        return found


def first_state(pod: Json) -> Json:
    """State of the first container, {} while the node has not reported."""
    statuses = pod["status"].get("containerStatuses") or [{"state": {}}]
    state: Json = statuses[0]["state"]
    return state


@pytest.fixture
def space(sandbox: Sandbox, kubectl: Callable[..., Any]) -> Iterator[Cluster]:
    """A namespace of the test's own, with its service account."""
    cluster = Cluster(kubectl, sandbox.kubeconfig, f"test-{next(_numbers)}")
    assert kubectl("create", "namespace", cluster.namespace).returncode == 0
    cluster.run("wait", "--for=create", "serviceaccount/default", "--timeout=60s")
    yield cluster
    kubectl("delete", "namespace", cluster.namespace, "--wait=false")
