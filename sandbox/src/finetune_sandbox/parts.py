"""The parts of the cluster: their command lines, what they wait for, in which order they start (no I/O here)."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_sandbox.layout import Layout
from finetune_sandbox.pki import SERVICE_RANGE
from finetune_sandbox.ports import LOOPBACK

ETCD, API_SERVER, CONTROLLERS, SCHEDULER = "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"
STORE, NODE_AGENT = "seaweedfs", "node-agent"
# How long the node agent may take to end its pods.
AGENT_GRACE_SECONDS = 15.0

API_PORT, KUBELET_PORT, S3_PORT = "api", "kubelet", "s3"
_STORE_SERVICES = ("master", "volume", "filer", "admin", S3_PORT)
_STORE_PORTS = tuple(f"{service}{suffix}" for service in _STORE_SERVICES for suffix in ("", ".grpc"))
# SeaweedFS's worker looks for the admin server there, whatever -admin.port.grpc says.
FOLLOWING_PORTS = {"admin.grpc": ("admin", 10_000)}
LEADING_PORTS = tuple(name for name in (API_PORT, KUBELET_PORT, *_STORE_PORTS) if name not in FOLLOWING_PORTS)

BUCKET = "finetune"
REGION = "us-east-1"
# etcd and the API server speak over sockets in the 0700 folder that both have as working directory. The names stay
# relative because a socket's path is limited to 107 bytes; etcd insists on the form host:port even so.
_ETCD_SOCKET, _PEER_SOCKET = "etcd.sock:0", "peer.sock:0"

# No endpoint controllers: the pods' addresses are loopback addresses, which endpoints must not have.
_CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "deployment-controller",
    "disruption-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "persistentvolume-binder-controller",
    "persistentvolume-protection-controller",
    "persistentvolumeclaim-protection-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "taint-eviction-controller",
    "ttl-after-finished-controller",
)


@dataclass(frozen=True)
class Part:
    """One process of the cluster.

    ``after`` names the parts that must be ready first; ``ports`` the reserved ports that it binds. A part that ends
    by SIGTERM cleans up something that nobody else can, and is given time for it; the others are killed.
    """

    name: str
    argv: tuple[str, ...]
    ports: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    graceful: bool = False


@dataclass(frozen=True)
class Credentials:
    """What clients of the object store authenticate with."""

    access_key: str
    secret_key: str


def startable(parts: Sequence[Part], started: Collection[str], ready: Collection[str]) -> list[Part]:
    """The parts that can be started now: not started yet, and everything that they wait for is ready."""
    return [part for part in parts if part.name not in started and set(part.after) <= set(ready)]


def etcd(binaries: Path, layout: Layout) -> Part:
    """A single-member etcd that listens on a socket only.

    Without fsync: a sandbox does not outlive the machine, and a slow disk would make every write wait.
    """
    client, peer = f"unix://{_ETCD_SOCKET}", f"unix://{_PEER_SOCKET}"
    flags = {
        "name": "sandbox",
        "data-dir": str(layout.data / "etcd"),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"sandbox={peer}",
        "log-level": "warn",
        "unsafe-no-fsync": "true",
    }
    return Part(ETCD, _command(binaries / ETCD, flags))


def etcd_socket(layout: Layout) -> Path:
    """The socket on which etcd answers."""
    return layout.run / _ETCD_SOCKET


def api_server(binaries: Path, layout: Layout, port: int) -> Part:
    """kube-apiserver behind TLS on the loopback interface, with RBAC and the default admission plugins.

    Pod Security is among these plugins; namespaces enforce it by their labels.
    """
    pki = layout.pki
    flags = {
        "bind-address": LOOPBACK,
        "advertise-address": LOOPBACK,
        "secure-port": str(port),
        "endpoint-reconciler-type": "none",
        "etcd-servers": f"unix://{_ETCD_SOCKET}",
        "tls-cert-file": str(pki / "apiserver.crt"),
        "tls-private-key-file": str(pki / "apiserver.key"),
        "client-ca-file": str(pki / "ca.crt"),
        "authorization-mode": "Node,RBAC",
        "kubelet-client-certificate": str(pki / "apiserver-kubelet-client.crt"),
        "kubelet-client-key": str(pki / "apiserver-kubelet-client.key"),
        "kubelet-certificate-authority": str(pki / "ca.crt"),
        "kubelet-preferred-address-types": "InternalIP",
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "service-account-key-file": str(pki / "sa.pub"),
        "service-account-signing-key-file": str(pki / "sa.key"),
        "service-cluster-ip-range": SERVICE_RANGE,
        "profiling": "false",
    }
    # Collected less often, it takes a fifth less CPU time for 100 MB more.
    environment = {"GOGC": "400"}
    return Part(API_SERVER, _command(binaries / API_SERVER, flags), (API_PORT,), (ETCD,), environment=environment)


def controller_manager(binaries: Path, layout: Layout) -> Part:
    """kube-controller-manager with the controllers that the operator and its jobs meet.

    Each controller acts under its own ServiceAccount, as kubeadm sets it up, with client limits that a laptop's
    scale tests do not hit. The node grace period is shorter than the default 50 s so that a lost node shows soon,
    and long enough for an agent that waits for a busy CPU.
    """
    flags = {
        "kubeconfig": str(kubeconfig_of(layout, CONTROLLERS)),
        "controllers": ",".join(_CONTROLLERS),
        "use-service-account-credentials": "true",
        "service-account-private-key-file": str(layout.pki / "sa.key"),
        "root-ca-file": str(layout.pki / "ca.crt"),
        "leader-elect": "false",
        "secure-port": "0",
        "authentication-skip-lookup": "true",
        "kube-api-qps": "500",
        "kube-api-burst": "1000",
        "concurrent-job-syncs": "20",
        "concurrent-namespace-syncs": "20",
        "concurrent-gc-syncs": "20",
        "node-monitor-grace-period": "30s",
        "node-monitor-period": "2s",
        # The default is a system folder that an ordinary user cannot make.
        "flex-volume-plugin-dir": str(layout.run / "flex-volumes"),
        "profiling": "false",
    }
    return Part(CONTROLLERS, _command(binaries / CONTROLLERS, flags), after=(API_SERVER,))


def scheduler(binaries: Path, layout: Layout) -> Part:
    """kube-scheduler, configured by file: its client's limits cannot be set otherwise."""
    flags = {
        "config": str(layout.run / "scheduler.yaml"),
        "secure-port": "0",
        "authentication-skip-lookup": "true",
    }
    return Part(SCHEDULER, _command(binaries / SCHEDULER, flags), after=(API_SERVER,))


def scheduler_configuration(layout: Layout) -> dict[str, Any]:
    """The scheduler's configuration file."""
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "enableProfiling": False,
        "clientConnection": {"kubeconfig": str(kubeconfig_of(layout, SCHEDULER)), "qps": 500, "burst": 1000},
        "podInitialBackoffSeconds": 1,
        "podMaxBackoffSeconds": 3,
    }


def store(weed: Path, layout: Layout, ports: Mapping[str, int], credentials: Credentials) -> Part:
    """SeaweedFS in one process, on the loopback interface only.

    ``weed mini`` rather than ``weed server``: ready in 1 s rather than 5. A bucket that does not exist stays an
    error (``autoCreateBucket``), no usage statistics are sent (``telemetry``), and every port it would open is either
    given or off, so that two sandboxes do not meet.
    """
    flags = {
        "dir": str(layout.data / "objects"),
        "ip": LOOPBACK,
        "ip.bind": LOOPBACK,
        "bucket": BUCKET,
        "s3.autoCreateBucket": "false",
        "s3.iam.readOnly": "false",
        "s3.localSocket": "s3.sock",
        "s3.port.iceberg": "0",
        "s3.port.lance": "0",
        "filer.localSocket": "filer.sock",
        "admin.ui": "false",
        "webdav": "false",
        "master.telemetry": "false",
        # Each bucket takes volumes; left alone, their number follows from the free disk space, and some 35 buckets were
        # all that 35 GB had room for, empty as they were.
        "volume.max": "10000",
    }
    for service in _STORE_SERVICES:
        flags[f"{service}.port"] = str(ports[service])
        flags[f"{service}.port.grpc"] = str(ports[f"{service}.grpc"])
    argv = (str(weed), "mini", *(f"-{name}={value}" for name, value in flags.items()))
    # Its own log files, which no flag turns off, go where temporary files go.
    environment = {
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
        "TMPDIR": str(layout.data),
    }
    return Part(STORE, argv, ports=_STORE_PORTS, environment=environment)


def store_sockets(ports: Mapping[str, int]) -> list[Path]:
    """Sockets that SeaweedFS puts into a fixed folder, and leaves there when it is killed."""
    return [Path(f"/tmp/seaweedfs-{name}-grpc-{ports[f'{name}.grpc']}.sock") for name in _STORE_SERVICES]


def node_agent(layout: Layout) -> Part:
    """The agent that speaks for all nodes and runs their pods."""
    argv = (sys.executable, "-m", "finetune_sandbox.node", "--config", str(layout.node_config))
    return Part(NODE_AGENT, argv, ports=(KUBELET_PORT,), after=(API_SERVER,), graceful=True)


def node_configuration(
    layout: Layout, ports: Mapping[str, int], nodes: Sequence[Mapping[str, Any]], simulate: bool, preload: str = ""
) -> dict[str, Any]:
    """The node agent's configuration file."""
    return {
        "kubeconfig": str(kubeconfig_of(layout, NODE_AGENT)),
        "apiServer": api_url(ports),
        "clusterCA": str(layout.pki / "ca.crt"),
        "clientCA": str(layout.pki / "ca.crt"),
        "serving": {"certificate": str(layout.pki / "kubelet.crt"), "key": str(layout.pki / "kubelet.key")},
        "port": ports[KUBELET_PORT],
        "nodes": [dict(node) for node in nodes],
        "simulate": simulate,
        "preload": preload,
        "stateDir": str(layout.pods),
        "logDir": str(layout.logs / "pods"),
        "readyFile": str(layout.nodes_ready),
    }


def kubeconfig_of(layout: Layout, part: str) -> Path:
    """The kubeconfig of one part."""
    return layout.pki / f"{part}.kubeconfig"


def api_url(ports: Mapping[str, int]) -> str:
    """The API server's address."""
    return f"https://{LOOPBACK}:{ports[API_PORT]}"


def s3_url(ports: Mapping[str, int]) -> str:
    """The object store's address."""
    return f"http://{LOOPBACK}:{ports[S3_PORT]}"


def as_json(document: Mapping[str, Any]) -> bytes:
    """A configuration file's content; JSON is YAML too."""
    return json.dumps(document, indent=2).encode() + b"\n"


def _command(program: Path, flags: Mapping[str, str]) -> tuple[str, ...]:
    return (str(program), *(f"--{name}={value}" for name, value in flags.items()))
