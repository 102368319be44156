"""The node agent's configuration: one JSON file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_sandbox.node.errors import InvalidNodeConfig


@dataclass(frozen=True)
class NodeSpec:
    """One Node: its name and what the scheduler counts with (quantities as Kubernetes writes them)."""

    name: str
    cpu: str
    memory: str
    gpus: int

    def resources(self) -> dict[str, str]:
        """Capacity, which is all allocatable."""
        resources = {"cpu": self.cpu, "memory": self.memory, "pods": "110", "ephemeral-storage": "1Ti"}
        return resources | ({"nvidia.com/gpu": str(self.gpus)} if self.gpus else {})


@dataclass(frozen=True)
class AgentConfig:
    """Everything the agent is told. ``port`` is the kubelet endpoint's; ``preload`` a module that is imported once for
    all containers of its package, empty for none."""

    kubeconfig: Path
    state_dir: Path
    log_dir: Path
    certificate: Path
    key: Path
    client_ca: Path
    port: int
    nodes: tuple[NodeSpec, ...]
    simulate: bool
    preload: str
    cluster_ca: Path
    api_server: str
    ready_file: Path


def load_config(path: Path) -> AgentConfig:
    """Read and check the file; raises InvalidNodeConfig."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidNodeConfig(f"cannot read {path}: {error}") from error
    try:
        return parse_config(document)
    except KeyError as error:
        raise InvalidNodeConfig(f"{path}: {error.args[0]} is missing") from error
    except (TypeError, ValueError) as error:
        raise InvalidNodeConfig(f"{path}: {error}") from error


def parse_config(document: dict[str, Any]) -> AgentConfig:
    """The configuration of a decoded file; raises KeyError, TypeError or ValueError for what does not fit."""
    nodes = tuple(
        NodeSpec(str(node["name"]), str(node["cpu"]), str(node["memory"]), int(node["gpus"]))
        for node in document["nodes"]
    )
    if not nodes:
        raise ValueError("nodes must name at least one node")
    return AgentConfig(
        kubeconfig=Path(document["kubeconfig"]),
        state_dir=Path(document["stateDir"]).absolute(),
        log_dir=Path(document["logDir"]).absolute(),
        certificate=Path(document["serving"]["certificate"]),
        key=Path(document["serving"]["key"]),
        client_ca=Path(document["clientCA"]),
        port=int(document["port"]),
        nodes=nodes,
        simulate=bool(document["simulate"]),
        preload=str(document["preload"]),
        cluster_ca=Path(document["clusterCA"]),
        api_server=str(document["apiServer"]),
        ready_file=Path(document["readyFile"]),
    )
