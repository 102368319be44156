"""``manifest.json``: what an artifact consists of and what it was made from. It is written last and makes it count."""

from __future__ import annotations

import hashlib
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from finetune_api.base import Document
from finetune_api.results import Artifact, Digest, EvaluationResult, RunId
from finetune_api.uris import S3Location
from finetune_trainer.storage.digests import digest_of_files, file_sha256

FORMAT = 1
# What a run leaves beside the model: it holds times, and so differs between runs of the same definition.
RECORDS = frozenset({"metrics.jsonl", "report.html", "samples.jsonl", "trainer_state.json", "data-report.html"})


class Role(StrEnum):
    CONTENT = "content"
    RECORD = "record"


class Kind(StrEnum):
    ADAPTER = "adapter"
    MODEL = "model"


class ManifestFile(Document):
    """One file of the artifact. ``name`` is relative to the artifact's folder."""

    name: str
    size: Annotated[int, Field(ge=0, description="Bytes.")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    role: Role


class Manifest(Document):
    """The whole manifest."""

    format: int = FORMAT
    run_id: Annotated[RunId, Field(alias="runID")]
    kind: Kind
    created: datetime
    base_model: str
    model_digest: Digest
    model_revision: str | None = None
    definition: Annotated[dict[str, Any], Field(description="What the run ID is the digest of.")]
    evaluation: EvaluationResult | None = None
    record: Annotated[dict[str, Any], Field(description="How it was made: versions, world, times.")]
    files: tuple[ManifestFile, ...]

    @property
    def content_digest(self) -> str:
        """Digest of the files that make the model: equal for equal results, whenever they were made."""
        return digest_of_files({file.name: file.sha256 for file in self.files if file.role is Role.CONTENT})


def describe_files(folder: Path) -> tuple[ManifestFile, ...]:
    """Every file below a folder, sorted by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(_describe(path, path.relative_to(folder).as_posix()) for path in paths)


def _describe(path: Path, name: str) -> ManifestFile:
    role = Role.RECORD if name in RECORDS else Role.CONTENT
    return ManifestFile(name=name, size=path.stat().st_size, sha256=file_sha256(path), role=role)


def artifact_of(manifest: Manifest, content: bytes, prefix: S3Location) -> Artifact:
    """The artifact that a manifest describes; ``content`` is the manifest as it is stored."""
    return Artifact(
        uri=str(prefix),
        kind=manifest.kind.value,
        manifest_digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
        content_digest=manifest.content_digest,
        files=len(manifest.files),
        total_bytes=sum(file.size for file in manifest.files),
    )
