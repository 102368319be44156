"""What the tests of the sandbox share: one running sandbox for each module that wants it, and the command lines."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune_sandbox import Sandbox, binaries

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def control_plane() -> Path:
    """The folder with the control plane's binaries, compiled on the first run on a machine."""
    return binaries.obtain()


@pytest.fixture(scope="module")
def sandbox(control_plane: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox with two nodes of eight GPUs each."""
    with Sandbox.up(tmp_path_factory.mktemp("sandbox") / "state", nodes=2, gpus_per_node=8, attached=True) as running:
        yield running


@pytest.fixture(scope="session")
def command() -> Run:
    """Runs ``python -m finetune_sandbox`` with the given arguments."""

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "finetune_sandbox", *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, env=os.environ | environment)

    return run


@pytest.fixture(scope="module")
def kubectl(sandbox: Sandbox) -> Run:
    """Runs kubectl against the module's sandbox; ``manifest`` goes to its standard input."""

    def run(*arguments: str, manifest: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).parent / "kubectl"
        variables = os.environ | sandbox.environment() | environment
        return subprocess.run([program, *arguments], input=manifest, capture_output=True, text=True, env=variables)

    return run
