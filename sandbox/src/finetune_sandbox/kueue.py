"""Kueue's controller manager and its chart, of the published Go module; for the tests of queues."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from finetune_sandbox import modules, toolchain
from finetune_sandbox.compiler import Program
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
        found = modules.fetch(_MODULE, KUEUE.program.title, required, folder, cache or default_cache_dir(os.environ))
    return found.folder / "charts" / "kueue"
