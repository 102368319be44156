"""Where a sandbox keeps its files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")


def _base(environment: Mapping[str, str], variable: str, default: str) -> Path:
    """The folder of an XDG variable; relative values are ignored, as the XDG Base Directory specification says."""
    value = environment.get(variable, "")
    return Path(value) if os.path.isabs(value) else Path.home() / default


def default_state_dir(environment: Mapping[str, str] | None = None) -> Path:
    """The state directory when none is named: ``$XDG_STATE_HOME/finetune-sandbox``."""
    return _base(os.environ if environment is None else environment, "XDG_STATE_HOME", ".local/state") / (
        "finetune-sandbox"
    )


def default_cache_dir(environment: Mapping[str, str] | None = None) -> Path:
    """Where compiled control planes and toolchains are kept: ``$XDG_CACHE_HOME/finetune-operator``."""
    return _base(os.environ if environment is None else environment, "XDG_CACHE_HOME", ".cache") / "finetune-operator"


def memory_folder(shared_memory: Path, pods: Path) -> Path:
    """Where volumes of medium Memory are, for the node agent that keeps its pods in ``pods``."""
    digest = hashlib.sha256(str(pods).encode()).hexdigest()[:16]
    return shared_memory / f"finetune-sandbox-{digest}"


@dataclass(frozen=True)
class Layout:
    """Names of the files below one state directory (an absolute path)."""

    root: Path

    @property
    def state(self) -> Path:
        """What runs and where, written by the supervisor only."""
        return self.root / "state.json"

    @property
    def lock(self) -> Path:
        """Marks a state directory; locked by ``up`` and then by the supervisor for as long as it lives."""
        return self.root / ".finetune-sandbox.lock"

    @property
    def request(self) -> Path:
        """What ``up`` asks of the supervisor."""
        return self.root / "request.json"

    @property
    def kubeconfig(self) -> Path:
        """The cluster administrator's kubeconfig."""
        return self.root / "admin.kubeconfig"

    @property
    def node_config(self) -> Path:
        """What the node agent is started with."""
        return self.root / "node.json"

    @property
    def nodes_ready(self) -> Path:
        """Written by the node agent when all its nodes are registered and Ready."""
        return self.run / "nodes-ready"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.root / "pki"

    @property
    def logs(self) -> Path:
        """One log file for each part."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Working directory of the parts: sockets and generated configuration."""
        return self.root / "run"

    @property
    def data(self) -> Path:
        """What etcd and the object store keep."""
        return self.root / "data"

    @property
    def pods(self) -> Path:
        """The node agent's folder for pods and their volumes."""
        return self.root / "pods"

    def log(self, part: str) -> Path:
        """The log file of a part."""
        return self.logs / f"{part}.log"

    def make(self) -> None:
        """Create the folders, readable by their owner only."""
        for folder in (self.root, self.pki, self.logs, self.run, self.data, self.pods):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)
