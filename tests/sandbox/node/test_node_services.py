"""Which pod answers for a Service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_sandbox.node.hosts import PodName
from finetune_sandbox.node.hosts_files import HostsFiles
from finetune_sandbox.node.machine import api_environment
from finetune_sandbox.node.services import service_lines

NAMES = "api.system.svc.cluster.local\tapi.system.svc\tapi.system"


def service(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "api", "namespace": "system"}, "spec": {"selector": {"app": "api"}} | spec}


def pod(address: str = "127.1.1.1", phase: str = "Running", created: str = "1", **metadata: Any) -> dict[str, Any]:
    known = {"namespace": "system", "labels": {"app": "api", "more": "x"}, "creationTimestamp": created}
    return {"metadata": known | metadata, "status": {"phase": phase, "podIP": address}}


def test_a_service_resolves_to_its_newest_running_pod() -> None:
    pods = [pod("127.1.1.1"), pod("127.1.1.3", created="3"), pod("127.1.1.2", created="2")]
    assert service_lines([service()], pods) == [f"127.1.1.3\t{NAMES}"]


@pytest.mark.parametrize(
    "other",
    [
        pod(phase="Pending"),
        pod(phase="Succeeded"),
        pod(deletionTimestamp="now"),
        pod(namespace="elsewhere"),
        pod(labels={"app": "other"}),
        pod(labels=None),
        {"metadata": {"namespace": "system", "labels": {"app": "api"}}},
    ],
)
def test_pods_that_do_not_answer(other: dict[str, Any]) -> None:
    assert service_lines([service()], [other]) == []


@pytest.mark.parametrize("spec", [{"clusterIP": "None"}, {"selector": None}, {"selector": {}}])
def test_services_without_a_cluster_address_or_pods(spec: dict[str, Any]) -> None:
    assert service_lines([service(**spec)], [pod()]) == []


def test_every_pod_is_told_when_a_service_moves(tmp_path: Path) -> None:
    files, path = HostsFiles(), tmp_path / "pod" / "hosts"
    files.set_services([f"127.1.1.1\t{NAMES}"])
    files.add("u", PodName("team", "job", "", "127.9.9.9"), path, [])
    assert f"127.1.1.1\t{NAMES}\n" in path.read_text()
    inode = path.stat().st_ino
    files.set_services([f"127.1.1.2\t{NAMES}"])
    assert f"127.1.1.2\t{NAMES}\n" in path.read_text()
    assert "127.1.1.1" not in path.read_text()
    files.set_services([])
    assert "api.system" not in path.read_text()
    assert path.stat().st_ino == inode


def test_containers_are_told_where_the_api_server_is() -> None:
    assert api_environment("https://127.0.0.1:16443") == {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": "16443",
    }
