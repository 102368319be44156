"""The node agent as a whole: starts its parts and stops them at SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import signal

from finetune_sandbox.node.config import AgentConfig
from finetune_sandbox.node.faults import FaultInjector
from finetune_sandbox.node.kube import Kube, wait_until_reachable
from finetune_sandbox.node.machine import this_machine
from finetune_sandbox.node.namespaces import check_namespaces
from finetune_sandbox.node.nodes import Endpoint, NodeKeeper
from finetune_sandbox.node.pods import PodKeeper
from finetune_sandbox.node.provisioner import Provisioner
from finetune_sandbox.node.server import LogServer

_log = logging.getLogger(__name__)


async def run_agent(config: AgentConfig) -> None:
    """Run until a signal; raises NodeError when the node cannot be started, or whatever made a part of it fail."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    work = asyncio.create_task(_run(config))
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    work.cancel()
    try:
        await work
    except asyncio.CancelledError:
        _log.info("stopped")


async def _run(config: AgentConfig) -> None:
    if not config.simulate:
        await check_namespaces(config.state_dir)
    async with Kube.connect(config.kubeconfig) as kube:
        version = await wait_until_reachable(kube)
        pods = PodKeeper(kube, config, this_machine(config))
        pods.remove_leftovers()
        nodes = NodeKeeper(kube, config.nodes, Endpoint(config.port, version))
        server = LogServer(config, pods, FaultInjector(kube, pods, nodes))
        await server.start()
        try:
            await _serve(config, kube, nodes, pods)
        finally:
            await pods.shut_down()
            await server.stop()


async def _serve(config: AgentConfig, kube: Kube, nodes: NodeKeeper, pods: PodKeeper) -> None:
    """Register the nodes, say so, and run the parts for ever; the first that fails ends all."""
    await nodes.register_all()
    config.ready_file.parent.mkdir(parents=True, exist_ok=True)
    config.ready_file.write_text("\n".join(node.name for node in config.nodes) + "\n")
    _log.info("%d nodes are ready", len(config.nodes))
    async with asyncio.TaskGroup() as parts:
        for part in (nodes, pods, Provisioner(kube, config.state_dir / "volumes")):
            parts.create_task(part.run())
