"""One Kubernetes API server for a whole test session: the cluster that KUBECONFIG names, else a sandbox of our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from finetune_sandbox import Sandbox

PROJECT = Path(__file__).resolve().parents[2]
KUBECTL = Path(sys.executable).parent / "kubectl"


@dataclass(frozen=True)
class Cluster:
    """A cluster with the CRDs and the chart's access rules installed.

    Attributes:
        kubeconfig: an administrator's.
        sandbox: the sandbox behind it, or None for a cluster that was there before.
    """

    kubeconfig: Path
    sandbox: Sandbox | None = None

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """One kubectl command, whatever comes of it."""
        environment = os.environ | {"KUBECONFIG": str(self.kubeconfig)}
        return subprocess.run(
            [KUBECTL, *arguments], input=stdin, capture_output=True, text=True, env=environment, timeout=120
        )

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Output of a kubectl command that must succeed."""
        result = self.run(*arguments, stdin=stdin)
        assert result.returncode == 0, f"kubectl {' '.join(arguments)}: {result.stderr}"
        return result.stdout

    def apply(self, manifest: dict[str, Any], *arguments: str) -> dict[str, Any]:
        """The object as stored after a server-side apply (or as it would be, with ``--dry-run=server``)."""
        flags = ("apply", "--server-side", "-o", "json", *arguments, "-f", "-")
        return dict(json.loads(self.kubectl(*flags, stdin=json.dumps(manifest))))

    def refusal(self, manifest: dict[str, Any] | str, *arguments: str) -> str:
        """What the API server says to a manifest that it must refuse."""
        text = manifest if isinstance(manifest, str) else json.dumps(manifest)
        result = self.run("apply", "--server-side", *arguments, "-f", "-", stdin=text)
        assert result.returncode != 0, f"accepted: {result.stdout}"
        return result.stderr


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The session's cluster; a sandbox of four nodes with eight GPUs each unless KUBECONFIG says otherwise."""
    # Imported here: unit tests load this module too, and need none of it.
    from finetune_sandbox import Sandbox
    from finetune_sandbox.installation import install

    if existing := os.environ.get("KUBECONFIG"):
        install(Path(existing), PROJECT)
        yield Cluster(Path(existing))
        return
    state = tmp_path_factory.mktemp("cluster") / "state"
    # Hundreds of pods: what they import is worth importing once.
    with Sandbox.up(state, nodes=4, gpus_per_node=8, preload="finetune_trainer.preload", attached=True) as sandbox:
        install(sandbox.kubeconfig, PROJECT)
        yield Cluster(sandbox.kubeconfig, sandbox)
