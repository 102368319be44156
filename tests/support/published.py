"""A small published artifact in a folder store, as a run leaves it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.shown_jobs import COMPLETE, RUN_ID, Object, job

BUCKET = "results"


@dataclass(frozen=True)
class Published:
    """An artifact below ``root``, which stands for a store.

    Attributes:
        root: folder of the store.
        name: job that published it.
        files: content by name, without manifest.json.
        manifest: manifest.json.
    """

    root: Path
    name: str
    files: dict[str, bytes]
    manifest: bytes

    @property
    def store(self) -> str:
        return f"file://{self.root}"

    @property
    def job_uri(self) -> str:
        return f"s3://{BUCKET}/team-a/{self.name}"

    @property
    def uri(self) -> str:
        return f"{self.job_uri}/{RUN_ID}"

    @property
    def folder(self) -> Path:
        return self.root / BUCKET / "team-a" / self.name / RUN_ID

    def job(self, **spec: Any) -> Object:
        """The job as the cluster knows it."""
        document = job(self.name, status=COMPLETE)
        document["spec"] |= spec
        digest = f"sha256:{hashlib.sha256(self.manifest).hexdigest()}"
        document["status"]["artifact"] |= {"uri": self.uri, "manifestDigest": digest}
        return document


def metrics(steps: int = 20, fall: float = 6.0) -> bytes:
    """A metrics.jsonl with a loss that falls, evaluated every five steps."""
    lines: list[Object] = []
    for step in range(1, steps + 1):
        loss = 1.0 + 1.5 * math.exp(-step / fall)
        lines.append({"kind": "step", "step": step, "loss": loss, "learningRate": 1e-4, "tokens": 100, "seconds": 0.5})
        if step % 5 == 0:
            lines.append({"kind": "evaluation", "step": step, "loss": loss + 0.1, "tokenAccuracy": 0.5})
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()


def publish(root: Path, name: str = "support-bot", fall: float = 6.0, rank: int = 16) -> Published:
    """Writes an artifact, its manifest, and the job's pointer to it."""
    files = {
        "adapter_model.safetensors": bytes(range(256)) * 40 + bytes([rank]),
        "nested/adapter_config.json": b"{}",
        "metrics.jsonl": metrics(fall=fall),
        "report.html": b"<html>the report</html>",
    }
    listed = [
        {"name": file, "size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "role": "content"}
        for file, content in files.items()
    ]
    manifest = json.dumps(
        {
            "format": 1,
            "runID": RUN_ID,
            "kind": "adapter",
            "created": "2026-03-01T12:29:00Z",
            "definition": {"method": {"lora": {"rank": rank}}, "hyperparameters": {"seed": 42}},
            "evaluation": {"lossBefore": "2.5", "lossAfter": "1.25"},
            "files": listed,
        }
    ).encode()
    made = Published(root, name, files, manifest)
    for file, content in (files | {"manifest.json": manifest}).items():
        path = made.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (made.folder.parent / "latest.json").write_text(json.dumps({"runID": RUN_ID, "uri": made.uri}))
    return made
