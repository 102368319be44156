"""The demo without a control plane: the same example as processes of this machine, with a folder as its store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml


def run(manifest: Path, store: Path, folder: Path) -> dict[str, Any] | None:
    """Runs ``finetune run --local``, which shows its own progress; returns the final status, None if there is none."""
    status_file = folder / "status.yaml"
    command = [sys.executable, "-m", "finetune_cli", "run", "--local", str(manifest)]
    command += ["--store", f"file://{store}", "--status-file", str(status_file)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if not status_file.exists():
        return None
    status: dict[str, Any] = yaml.safe_load(status_file.read_text())["status"]
    return status


def status_text(status: dict[str, Any]) -> str:
    return yaml.safe_dump({"status": status}, sort_keys=False, allow_unicode=True, width=120)
