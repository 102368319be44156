"""Results as JSON files with the versions they belong to."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "results"
_LIBRARIES = ("torch", "transformers", "deepspeed", "peft", "trl", "datasets", "numpy", "boto3", "obstore")


def environment() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
        "threads": 1,
        **{name: version(name) for name in _LIBRARIES},
    }


def publish(name: str, figures: Mapping[str, Any]) -> Path:
    """Prints the figures and writes them to ``benchmarks/results/<name>.json``."""
    for key, value in figures.items():
        print(f"{key:44} {value:.4g}" if isinstance(value, float) else f"{key:44} {value}", flush=True)
    plain = {key: _rounded(asdict(value) if is_dataclass(value) else value) for key, value in figures.items()}  # type: ignore[arg-type]
    file = FOLDER / f"{name}.json"
    file.write_text(json.dumps({**plain, "environment": environment()}, indent=2) + "\n")
    return file


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
