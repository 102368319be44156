"""The ``helm`` command: the system's when it is new enough, else compiled from its published Go module."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from finetune_sandbox.compiler import Program
from finetune_sandbox.layout import default_cache_dir
from finetune_sandbox.programs import Source, compiled

HELM_VERSION = "v4.3.1"
# The first that can take over objects which something else made (--take-ownership).
_OLDEST = (3, 17)
HELM = Source(
    folder="helm_module",
    program=Program(
        "Helm",
        "3 minutes on 2 cores",
        package="helm.sh/helm/v4/cmd/helm",
        stamps={"helm.sh/helm/v4/internal/version.version": HELM_VERSION},
    ),
    commands=("helm",),
)


def obtain(cache: Path | None = None, environment: Mapping[str, str] | None = None) -> Path:
    """The ``helm`` command.

    Raises:
        ProgramUnavailable: none is installed, and it cannot be compiled here.
        CompileFailed: the compiler failed.
    """
    variables = os.environ if environment is None else environment
    system = shutil.which("helm", path=variables.get("PATH"))
    if system is not None and _version(Path(system)) >= _OLDEST:
        return Path(system)
    return compiled(HELM, cache or default_cache_dir(variables)) / "helm"


def _version(helm: Path) -> tuple[int, ...]:
    """Major and minor version that a ``helm`` tells of itself; empty when it does not work."""
    command = [str(helm), "version", "--template", "{{ .Version }}"]
    try:
        answer = subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return ()
    found = re.match(r"v(\d+)\.(\d+)", answer.stdout)
    return tuple(int(part) for part in found.groups()) if found else ()
