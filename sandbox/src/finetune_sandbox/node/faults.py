"""Injects the faults that ``finetune_sandbox.faults`` asks for."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from finetune_sandbox.faults import NODE_FAULTS, POD_FAULTS, Fault
from finetune_sandbox.node.errors import FaultRefused, KubeRefused
from finetune_sandbox.node.kube import Kube
from finetune_sandbox.node.nodes import NodeKeeper
from finetune_sandbox.node.pods import PodKeeper
from finetune_sandbox.node.publisher import pod_path
from finetune_sandbox.node.status import TERMINAL, pod_phase
from finetune_sandbox.node.worker import PodWorker
from finetune_sandbox.processes import Identity

_SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "thaw": signal.SIGCONT}
# The words of a kubelet.
_LOW_ON_MEMORY = "The node was low on resource: memory."
_LOW_ON_DISK = "The node was low on resource: ephemeral-storage."
_TOO_MANY_REQUESTS = 429
_EVICTION_PAUSE = 0.5


class FaultInjector:
    """Does to pods and nodes of the agent what may happen to those of a cluster."""

    def __init__(self, kube: Kube, pods: PodKeeper, nodes: NodeKeeper) -> None:
        self._kube, self._pods, self._nodes = kube, pods, nodes

    async def inject(self, fault: Fault) -> str:
        """Injects one fault; returns what was done, in words.

        Raises:
            FaultRefused: there is no such pod, node or process.
            KubeError: the API server refused its part.
        """
        if fault.kind in POD_FAULTS:
            return self._strike_pod(fault)
        if fault.kind not in NODE_FAULTS:
            raise FaultRefused(f"no fault {fault.kind!r}; there are {', '.join((*POD_FAULTS, *NODE_FAULTS))}")
        if fault.name not in self._nodes.names:
            raise FaultRefused(f"no node {fault.name!r}; there are {', '.join(sorted(self._nodes.names))}")
        return await self._strike_node(fault.kind, fault.name)

    def _strike_pod(self, fault: Fault) -> str:
        worker = self._pods.find(fault.namespace, fault.name)
        if worker is None or pod_phase(worker.facts) in TERMINAL:
            raise FaultRefused(f"no pod {fault.namespace}/{fault.name} runs on these nodes")
        if fault.kind == "evict":
            worker.evict(_LOW_ON_MEMORY)
            return f"evicted {fault.namespace}/{fault.name}"
        chosen = [process for process in worker.processes() if _matches(process, fault.process)]
        if not chosen:
            raise FaultRefused(f"no process of {fault.namespace}/{fault.name} has {fault.process!r} in its command")
        # Parents first: one that sees a child end could end by itself before its turn comes.
        for process in chosen:
            process.send(_SIGNALS[fault.kind])
        return f"sent {_SIGNALS[fault.kind].name} to {len(chosen)} processes of {fault.namespace}/{fault.name}"

    async def _strike_node(self, kind: str, node: str) -> str:
        workers = [worker for worker in self._pods.on_node(node) if pod_phase(worker.facts) not in TERMINAL]
        if kind == "restore":
            await self._nodes.restore(node)
            self._pods.restore(node)
            return f"{node} is back"
        if kind == "lose":
            self._nodes.lose(node)
            await self._pods.lose(node)
            return f"{node} is lost with {len(workers)} pods"
        if kind == "fill":
            await self._nodes.fill(node)
            for worker in workers:
                worker.evict(_LOW_ON_DISK)
            return f"the disk of {node} is full; evicted {len(workers)} pods"
        await self._nodes.cordon(node, True)
        await asyncio.gather(*(self._evict_by_api(worker) for worker in workers))
        return f"drained {node} of {len(workers)} pods"

    async def _evict_by_api(self, worker: PodWorker) -> None:
        """The Eviction API respects disruption budgets: until they allow it, it answers 429."""
        metadata = {key: worker.pod["metadata"][key] for key in ("name", "namespace")}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
        while True:
            try:
                await self._kube.create(f"{pod_path(worker.pod)}/eviction", body)
                return
            except KubeRefused as error:
                # It is gone, or goes with its namespace.
                if error.code in (403, 404):
                    return
                if error.code != _TOO_MANY_REQUESTS:
                    raise
            await asyncio.sleep(_EVICTION_PAUSE)


def _matches(process: Identity, text: str) -> bool:
    """By its command line, or the name that it has given itself."""
    folder = Path(f"/proc/{process.pid}")
    try:
        names = (folder / "cmdline").read_bytes().replace(b"\0", b" "), (folder / "comm").read_bytes()
    except OSError:
        return False
    return any(text.encode() in name for name in names)
