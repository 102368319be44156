"""The Node objects: registration, Leases and heartbeats."""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import platform
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from finetune_sandbox.node.config import NodeSpec
from finetune_sandbox.node.errors import KubeError, KubeRefused
from finetune_sandbox.node.follow import follow
from finetune_sandbox.node.kube import JSON_PATCH, STRATEGIC_PATCH, Json, Kube
from finetune_sandbox.node.times import micro_time, now, timestamp

_log = logging.getLogger(__name__)
HOST_IP = "127.0.0.1"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# The kubelet's defaults: the node-lifecycle controller gives a node 40 s between two renewals.
_LEASE_SECONDS = 40
_RENEWAL_PERIOD = 10.0
_STATUS_PERIOD = 60.0
# Early requests fail until the API server has made its own namespaces.
_RETRY_PERIOD = 0.2
_PARALLEL = 16
_NOT_READY = "node.kubernetes.io/not-ready"
_NODES = "/api/v1/nodes"
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


@dataclass(frozen=True)
class Endpoint:
    """What nodes say of the agent: the port of its HTTPS endpoint and the version of the cluster."""

    port: int
    version: str


def node_object(node: NodeSpec, endpoint: Endpoint, at: datetime.datetime) -> Json:
    """The Node as it is registered."""
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    labels = {
        "kubernetes.io/hostname": node.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": architecture,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": architecture,
    }
    status = node_status(node, endpoint, at)
    for condition in status["conditions"]:
        condition["lastTransitionTime"] = timestamp(at)
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "status": status,
    }


def node_status(node: NodeSpec, endpoint: Endpoint, at: datetime.datetime, full: bool = False) -> Json:
    """Capacity, address and conditions with the heartbeat ``at``; ``full`` is the disk."""
    return {
        "capacity": node.resources(),
        "allocatable": node.resources(),
        "conditions": _conditions(timestamp(at), full),
        "addresses": [{"type": "InternalIP", "address": HOST_IP}, {"type": "Hostname", "address": node.name}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": endpoint.port}},
        "nodeInfo": {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "bootID": _read("/proc/sys/kernel/random/boot_id"),
            "machineID": node.name,
            "systemUUID": node.name,
            "kernelVersion": platform.release(),
            "osImage": "finetune-sandbox",
            "operatingSystem": "linux",
            "containerRuntimeVersion": "process://1",
            "kubeletVersion": endpoint.version,
            "kubeProxyVersion": "",
        },
    }


def _conditions(heartbeat: str, full: bool) -> list[Json]:
    disk = ("DiskPressure", "False", "KubeletHasNoDiskPressure", "the sandbox does not measure disk pressure")
    if full:
        disk = ("DiskPressure", "True", "KubeletHasDiskPressure", "the disk was filled on purpose")
    conditions = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "the sandbox does not measure memory pressure"),
        disk,
        ("PIDPressure", "False", "KubeletHasSufficientPID", "the sandbox does not measure PID pressure"),
        ("Ready", "True", "KubeletReady", "the node agent runs pods as processes"),
    ]
    return [
        {"type": kind, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": heartbeat}
        for kind, status, reason, message in conditions
    ]


def lease_object(name: str, uid: str, at: datetime.datetime) -> Json:
    """The Lease whose renewals show that the node lives."""
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease", "ownerReferences": [owner]},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": _LEASE_SECONDS, "renewTime": micro_time(at)},
    }


def _read(path: str) -> str:
    return Path(path).read_text().strip() if os.path.exists(path) else ""


class NodeKeeper:
    """Keeps the agent's Nodes registered and alive."""

    def __init__(self, kube: Kube, nodes: tuple[NodeSpec, ...], endpoint: Endpoint) -> None:
        self._kube = kube
        self._nodes = {node.name: node for node in nodes}
        self._endpoint = endpoint
        self._uids: dict[str, str] = {}
        self._lost: set[str] = set()
        self._full: set[str] = set()

    @property
    def names(self) -> frozenset[str]:
        """The agent's nodes."""
        return frozenset(self._nodes)

    def lose(self, name: str) -> None:
        """Say nothing of a node any more: the node-lifecycle controller misses it after 40 s."""
        self._lost.add(name)

    async def fill(self, name: str) -> None:
        """Say that a node's disk is full; the node-lifecycle controller keeps new pods away."""
        self._full.add(name)
        await self._report(self._nodes[name])

    async def restore(self, name: str) -> None:
        """Have a node live again, with room on its disk and open to new pods."""
        self._lost.discard(name)
        self._full.discard(name)
        await self._register(self._nodes[name])
        await self.cordon(name, False)

    async def cordon(self, name: str, closed: bool) -> None:
        """Close a node to new pods, or open it."""
        await self._kube.patch(f"{_NODES}/{name}", {"spec": {"unschedulable": closed or None}})

    async def register_all(self) -> None:
        """Register every node and return when all are Ready and schedulable."""
        gate = asyncio.Semaphore(_PARALLEL)

        async def register(node: NodeSpec) -> None:
            async with gate:
                await self._register_until_done(node)

        await asyncio.gather(*(register(node) for node in self._nodes.values()))

    async def run(self) -> None:
        """Renew Leases and heartbeats and register deleted nodes again, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_nodes())
            for node in self._nodes.values():
                tasks.create_task(self._every(_RENEWAL_PERIOD, self._renew, node))
                tasks.create_task(self._every(_STATUS_PERIOD, self._report, node))

    async def _register(self, node: NodeSpec) -> None:
        try:
            created = await self._kube.create(_NODES, node_object(node, self._endpoint, now()))
        except KubeRefused as error:
            if error.code != 409:
                raise
            created = await self._report(node)
        self._uids[node.name] = created["metadata"]["uid"]
        await self._renew(node)
        await self._remove_not_ready_taint(created)

    async def _remove_not_ready_taint(self, node: Json) -> None:
        """Admission taints every new node; the node-lifecycle controller would remove that, but seconds later."""
        taints = node["spec"].get("taints") or []
        kept = [taint for taint in taints if taint["key"] != _NOT_READY]
        if kept == taints:
            return
        patch: list[Json] = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": node["metadata"]["resourceVersion"]},
            {"op": "replace", "path": "/spec/taints", "value": kept},
        ]
        path = f"{_NODES}/{node['metadata']['name']}"
        try:
            await self._kube.patch(path, patch, JSON_PATCH)
        except KubeRefused as error:
            if error.code not in (409, 422):
                raise
            # Somebody else wrote to the node meanwhile, perhaps the controller that removes the taint.
            await self._remove_not_ready_taint(await self._kube.get(path))

    async def _report(self, node: NodeSpec) -> Json:
        body = {"status": node_status(node, self._endpoint, now(), full=node.name in self._full)}
        return await self._kube.patch(f"{_NODES}/{node.name}/status", body, STRATEGIC_PATCH)

    async def _renew(self, node: NodeSpec) -> None:
        lease = lease_object(node.name, self._uids[node.name], now())
        try:
            # The owner as well: a Lease that still names a deleted Node is garbage.
            owners = {"ownerReferences": lease["metadata"]["ownerReferences"]}
            await self._kube.patch(f"{_LEASES}/{node.name}", {"metadata": owners, "spec": lease["spec"]})
        except KubeRefused as error:
            if error.code != 404:
                raise
            await self._kube.create(_LEASES, lease)

    async def _every(self, period: float, action: Callable[[NodeSpec], Awaitable[object]], node: NodeSpec) -> None:
        while True:
            await asyncio.sleep(period)
            if node.name in self._lost:
                continue
            try:
                await action(node)
            except KubeError as error:
                _log.warning("heartbeat of node %s: %s", node.name, error)

    async def _follow_nodes(self) -> None:
        async for change in follow(self._kube, _NODES):
            name = change.object.get("metadata", {}).get("name")
            if change.kind == "GONE" and name in self._nodes and name not in self._lost:
                _log.warning("node %s was deleted; registering it again", name)
                await self._register_until_done(self._nodes[name])

    async def _register_until_done(self, node: NodeSpec) -> None:
        while True:
            try:
                return await self._register(node)
            except KubeError as error:
                _log.warning("registering node %s: %s", node.name, error)
                await asyncio.sleep(_RETRY_PERIOD)
