"""Kueue's controller manager and its chart, of the published Go module; for the tests of queues."""

from __future__ import annotations

import json
import os
import subprocess
from importlib import resources
from pathlib import Path

from finetune_sandbox import toolchain
from finetune_sandbox.compiler import Program, go_environment
from finetune_sandbox.errors import ProgramUnavailable
from finetune_sandbox.layout import default_cache_dir
from finetune_sandbox.programs import Source, compiled

# The newest whose module the checksum database of Go knows.
KUEUE_VERSION = "v0.15.2"
_MODULE = "sigs.k8s.io/kueue"
KUEUE = Source(
    folder="kueue_module",
    program=Program(
        "Kueue",
        "6 minutes on 2 cores",
        package=f"{_MODULE}/cmd/kueue",
        stamps={f"{_MODULE}/pkg/version.GitVersion": KUEUE_VERSION},
    ),
    commands=("kueue",),
)


def obtain(cache: Path | None = None) -> Path:
    """The controller manager, compiled unless that was done before.

    Raises:
        ProgramUnavailable: it cannot be compiled here.
        CompileFailed: the compiler failed.
    """
    return compiled(KUEUE, cache or default_cache_dir(os.environ)) / "kueue"


def chart(cache: Path | None = None) -> Path:
    """The folder of Kueue's Helm chart, in the cache of Go modules; fetched unless it is there.

    Raises:
        ProgramUnavailable: the module cannot be fetched.
    """
    with resources.as_file(resources.files("finetune_sandbox").joinpath(KUEUE.folder)) as folder:
        required = toolchain.required_version((folder / "go.mod").read_text())
        go = toolchain.command(toolchain.find(required), cache or default_cache_dir(os.environ))
        command = [str(go), "mod", "download", "-json", _MODULE]
        done = subprocess.run(command, cwd=folder, env=go_environment(), capture_output=True, text=True)
    found = json.loads(done.stdout or "{}")
    if "Dir" not in found:
        raise ProgramUnavailable(f"the Go module of Kueue cannot be fetched:\n{found.get('Error') or done.stderr}")
    return Path(found["Dir"]) / "charts" / "kueue"
