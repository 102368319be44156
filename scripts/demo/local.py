"""The demo without a control plane: the same example as processes of this machine, with a folder as its store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def run(manifest: Path, store: Path, status_file: Path, upstream: Path | None = None) -> dict[str, Any] | None:
    """Runs ``finetune run --local``, which shows its own progress; returns the final status, None if there is none.

    ``upstream`` is the status file of the finished job that the manifest goes on from.
    """
    command = [sys.executable, "-m", "finetune_cli", "run", "--local", str(manifest)]
    command += ["--store", f"file://{store}", "--status-file", str(status_file)]
    if upstream:
        command += ["--upstream", str(upstream)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if not status_file.exists():
        return None
    status: dict[str, Any] = yaml.safe_load(status_file.read_text())["status"]
    return status


def status_text(status: Mapping[str, Any]) -> str:
    return yaml.safe_dump({"status": dict(status)}, sort_keys=False, allow_unicode=True, width=120)
