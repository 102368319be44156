"""Files of published Go modules, from the machine's cache of Go modules."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from finetune_sandbox import toolchain
from finetune_sandbox.compiler import go_environment
from finetune_sandbox.errors import ProgramUnavailable


@dataclass(frozen=True)
class Module:
    """A fetched Go module.

    Attributes:
        folder: where its files are, read-only.
        checksum: of all of them, as a go.sum has it (``h1:...``).
    """

    folder: Path
    checksum: str


def fetch(module: str, title: str, required: tuple[int, ...], work: Path, cache: Path) -> Module:
    """A module's files; fetched unless they are there.

    Args:
        module: its path, for the version that the go.mod of ``work`` names, or path@version.
        title: what messages call it.
        required: the oldest Go that reads it.
        work: the folder that ``go`` is run in.
        cache: of the sandbox, for a Go toolchain of its own.

    Raises:
        ProgramUnavailable: the module cannot be fetched, or there is no Go.
    """
    go = toolchain.command(toolchain.find(required), cache)
    command = [str(go), "mod", "download", "-json", module]
    done = subprocess.run(command, cwd=work, env=go_environment(), capture_output=True, text=True)
    found = json.loads(done.stdout or "{}")
    if "Dir" not in found:
        raise ProgramUnavailable(f"the Go module of {title} cannot be fetched:\n{found.get('Error') or done.stderr}")
    return Module(Path(found["Dir"]), found.get("Sum", ""))
