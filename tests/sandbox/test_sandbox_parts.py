"""The command lines of the parts and the order in which they start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from finetune_sandbox import parts
from finetune_sandbox.layout import Layout
from finetune_sandbox.parts import Credentials, Part

LAYOUT = Layout(Path("/sandbox"))
BINARIES = Path("/bin-folder")
PORTS = {name: 20_000 + index for index, name in enumerate((*parts.LEADING_PORTS, *parts.FOLLOWING_PORTS))}


def flags_of(part: Part) -> dict[str, str]:
    """``--name=value`` arguments by name."""
    return dict(argument.lstrip("-").split("=", 1) for argument in part.argv if argument.startswith("-"))


def test_etcd_listens_on_sockets_only() -> None:
    part = parts.etcd(BINARIES, LAYOUT)
    assert part.argv == (
        "/bin-folder/etcd",
        "--name=sandbox",
        "--data-dir=/sandbox/data/etcd",
        "--listen-client-urls=unix://etcd.sock:0",
        "--advertise-client-urls=unix://etcd.sock:0",
        "--listen-peer-urls=unix://peer.sock:0",
        "--initial-advertise-peer-urls=unix://peer.sock:0",
        "--initial-cluster=sandbox=unix://peer.sock:0",
        "--log-level=warn",
        "--unsafe-no-fsync=true",
    )
    assert part.ports == ()


def test_api_server_is_guarded() -> None:
    flags = flags_of(parts.api_server(BINARIES, LAYOUT, 6443))
    assert flags["bind-address"] == "127.0.0.1"
    assert flags["secure-port"] == "6443"
    assert flags["authorization-mode"] == "Node,RBAC"
    assert flags["client-ca-file"] == "/sandbox/pki/ca.crt"
    assert flags["kubelet-certificate-authority"] == "/sandbox/pki/ca.crt"
    assert flags["kubelet-preferred-address-types"] == "InternalIP"
    assert flags["etcd-servers"] == flags_of(parts.etcd(BINARIES, LAYOUT))["listen-client-urls"]
    assert not {"token-auth-file", "disable-admission-plugins", "insecure-port"} & set(flags)


@pytest.mark.parametrize(
    "controller",
    [
        "garbage-collector-controller",
        "job-controller",
        "namespace-controller",
        "node-lifecycle-controller",
        "persistentvolume-binder-controller",
        "pod-garbage-collector-controller",
        "root-ca-certificate-publisher-controller",
        "serviceaccount-controller",
        "taint-eviction-controller",
        "ttl-after-finished-controller",
    ],
)
def test_controllers_of_a_training_job_run(controller: str) -> None:
    flags = flags_of(parts.controller_manager(BINARIES, LAYOUT))
    assert controller in flags["controllers"].split(",")


def test_endpoints_are_left_alone() -> None:
    """Pods have loopback addresses, which the API server refuses in endpoints."""
    assert "endpoint" not in flags_of(parts.controller_manager(BINARIES, LAYOUT))["controllers"]


def test_scheduler_configuration() -> None:
    assert parts.scheduler_configuration(LAYOUT) == {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "enableProfiling": False,
        "clientConnection": {"kubeconfig": "/sandbox/pki/kube-scheduler.kubeconfig", "qps": 500, "burst": 1000},
        "podInitialBackoffSeconds": 1,
        "podMaxBackoffSeconds": 3,
    }


def test_store_has_every_port_given_and_secrets_out_of_its_arguments() -> None:
    part = parts.store(Path("/bin-folder/weed"), LAYOUT, PORTS, Credentials("key", "secret"))
    flags = flags_of(part)
    assert flags["ip"] == flags["ip.bind"] == "127.0.0.1"
    assert flags["s3.autoCreateBucket"] == "false"
    assert flags["master.telemetry"] == "false"
    assert int(flags["volume.max"]) >= 10_000
    assert flags["bucket"] == "finetune"
    given = {flags[f"{name}.port"] for name in ("master", "volume", "filer", "admin", "s3")}
    given |= {flags[f"{name}.port.grpc"] for name in ("master", "volume", "filer", "admin", "s3")}
    assert len(given) == 10
    assert given == {str(PORTS[name]) for name in part.ports}
    assert part.environment == {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "TMPDIR": "/sandbox/data",
    }
    assert "secret" not in " ".join(part.argv)


def test_store_sockets_follow_the_ports() -> None:
    assert Path(f"/tmp/seaweedfs-filer-grpc-{PORTS['filer.grpc']}.sock") in parts.store_sockets(PORTS)


def test_node_agent_is_given_time_to_end_its_pods() -> None:
    part = parts.node_agent(LAYOUT)
    assert part.argv == (sys.executable, "-m", "finetune_sandbox.node", "--config", "/sandbox/node.json")
    assert part.graceful


def test_node_configuration() -> None:
    nodes = [{"name": "sandbox-0", "cpu": "64", "memory": "64Gi", "gpus": 8}]
    assert parts.node_configuration(LAYOUT, PORTS, nodes, simulate=True) == {
        "kubeconfig": "/sandbox/pki/node-agent.kubeconfig",
        "apiServer": f"https://127.0.0.1:{PORTS['api']}",
        "clusterCA": "/sandbox/pki/ca.crt",
        "clientCA": "/sandbox/pki/ca.crt",
        "serving": {"certificate": "/sandbox/pki/kubelet.crt", "key": "/sandbox/pki/kubelet.key"},
        "port": PORTS["kubelet"],
        "nodes": nodes,
        "simulate": True,
        "preload": "",
        "stateDir": "/sandbox/pods",
        "logDir": "/sandbox/logs/pods",
        "readyFile": "/sandbox/run/nodes-ready",
    }


def test_configuration_files_are_yaml() -> None:
    document = {"a": [1, {"b": True}], "c": "d"}
    assert yaml.safe_load(parts.as_json(document)) == document


A, B, C = Part("a", ()), Part("b", (), after=("a",)), Part("c", (), after=("a", "b"))


@pytest.mark.parametrize(
    ("started", "ready", "expected"),
    [
        ([], [], [A]),
        (["a"], [], []),
        (["a"], ["a"], [B]),
        (["a", "b"], ["a"], []),
        (["a", "b"], ["a", "b"], [C]),
        (["a", "b", "c"], ["a", "b", "c"], []),
    ],
)
def test_parts_wait_for_what_they_need(started: list[str], ready: list[str], expected: list[Part]) -> None:
    assert parts.startable([A, B, C], started, ready) == expected


def test_storage_starts_at_once_and_the_rest_after_the_api_server() -> None:
    everything = [
        parts.etcd(BINARIES, LAYOUT),
        parts.store(Path("weed"), LAYOUT, PORTS, Credentials("key", "secret")),
        parts.api_server(BINARIES, LAYOUT, 6443),
        parts.controller_manager(BINARIES, LAYOUT),
        parts.scheduler(BINARIES, LAYOUT),
        parts.node_agent(LAYOUT),
    ]
    waves: list[list[str]] = []
    names: list[str] = []
    while wave := [part.name for part in parts.startable(everything, names, names)]:
        waves.append(wave)
        names += wave
    assert waves == [
        ["etcd", "seaweedfs"],
        ["kube-apiserver"],
        ["kube-controller-manager", "kube-scheduler", "node-agent"],
    ]
