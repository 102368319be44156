"""A store in a folder with a tiny model and rows, and a way to run the command line on it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support.tiny_model import write_chat_rows, write_tiny_model

JOB: dict[str, Any] = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "tiny"},
    "spec": {
        "model": {"source": "s3://finetune/models/tiny", "name": "example/tiny"},
        "dataset": {"train": [{"source": "s3://finetune/rows.jsonl"}], "validation": {"fraction": "0.2"}},
        "hyperparameters": {"maxSteps": 6, "globalBatchSize": 4, "maxSequenceLength": 64, "learningRate": "1e-2"},
        "resources": {"nodes": 2},
        "output": {"destination": "s3://finetune/artifacts"},
    },
}


@dataclass(frozen=True)
class Ended:
    """One ended command."""

    code: int
    stdout: str
    stderr: str

    @property
    def resource(self) -> dict[str, Any]:
        """The resource that a run prints."""
        return dict(yaml.safe_load(self.stdout))

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.resource["status"])

    def condition(self, kind: str) -> dict[str, Any]:
        return next(entry for entry in self.status["conditions"] if entry["type"] == kind)


@dataclass(frozen=True)
class Store:
    """A folder that stands for an S3 endpoint, and a folder for files beside it."""

    root: Path
    files: Path

    @property
    def bucket(self) -> Path:
        return self.root / "finetune"

    def manifest(self, **spec: Any) -> Path:
        """A manifest of the tiny job with groups of its spec replaced or added."""
        self.files.mkdir(exist_ok=True)
        file = self.files / "job.yaml"
        file.write_text(json.dumps(JOB | {"spec": JOB["spec"] | spec}))
        return file

    def command(self, manifest: Path, *options: str) -> list[str]:
        return command(manifest, "--store", f"file://{self.root}", *options)

    def run(self, manifest: Path, *options: str) -> Ended:
        return run_command(manifest, "--store", f"file://{self.root}", *options)


def command(manifest: Path, *options: str) -> list[str]:
    """The command line of a local run."""
    return [sys.executable, "-m", "finetune_cli", "run", "--local", str(manifest), *options]


def run_command(manifest: Path, *options: str, environment: Mapping[str, str] | None = None) -> Ended:
    """Runs a manifest to its end."""
    result = subprocess.run(command(manifest, *options), capture_output=True, text=True, env=environment)
    return Ended(result.returncode, result.stdout, result.stderr)


def new_store(folder: Path) -> Store:
    store = Store(folder / "store", folder / "files")
    write_tiny_model(store.bucket / "models" / "tiny")
    write_chat_rows(store.bucket / "rows.jsonl", rows=40)
    return store
