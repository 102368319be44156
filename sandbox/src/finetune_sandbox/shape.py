"""How large a sandbox is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from finetune_sandbox.errors import InvalidShape

# The non-negative subset of Kubernetes quantities: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(r"\d+(\.\d+)?([EPTGMk]i?|Ki|m)?")


@dataclass(frozen=True)
class Shape:
    """The nodes of a sandbox.

    Capacity is what the scheduler counts with, not what the machine has: the default of 64 CPUs and 64Gi lets every
    pod of a small training job be placed on a laptop. ``preload`` names a Python module that is imported once for all
    containers that run its package with ``python -m``.
    """

    nodes: int = 1
    gpus_per_node: int = 0
    cpus_per_node: str = "64"
    memory_per_node: str = "64Gi"
    simulate: bool = False
    preload: str = ""

    def __post_init__(self) -> None:
        """Raise InvalidShape for what no cluster can be."""
        if self.nodes < 1:
            raise InvalidShape(f"--nodes must be at least 1, not {self.nodes}")
        if self.gpus_per_node < 0:
            raise InvalidShape(f"--gpus-per-node must not be negative, not {self.gpus_per_node}")
        if self.preload and not _is_module(self.preload):
            raise InvalidShape(f"--preload must name a Python module that is installed here, not {self.preload!r}")
        for option, value in (("--cpus-per-node", self.cpus_per_node), ("--memory-per-node", self.memory_per_node)):
            if not _QUANTITY.fullmatch(value) or not float(re.match(r"[\d.]+", value)[0]):  # type: ignore[index]
                raise InvalidShape(f"{option} must be a quantity above zero such as 8 or 64Gi, not {value!r}")

    def node_entries(self) -> list[dict[str, Any]]:
        """The nodes as the node agent's configuration lists them."""
        return [
            {
                "name": f"sandbox-{index}",
                "cpu": self.cpus_per_node,
                "memory": self.memory_per_node,
                "gpus": self.gpus_per_node,
            }
            for index in range(self.nodes)
        ]


def _is_module(name: str) -> bool:
    try:
        return all(part.isidentifier() for part in name.split(".")) and find_spec(name) is not None
    except ModuleNotFoundError:
        # Nor is there the package that it would be in.
        return False
