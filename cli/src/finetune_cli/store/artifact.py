"""A published artifact as its manifest.json describes it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from finetune_api.errors import InvalidSource
from finetune_api.layout import LATEST, MANIFEST
from finetune_api.uris import S3Location, parse_destination
from finetune_cli.documents import Object, objects_at, text_at, whole_at
from finetune_cli.errors import DamagedArtifactError, StoreError, UsageError
from finetune_cli.store.interface import NotThere, Store

METRICS, REPORT = "metrics.jsonl", "report.html"


@dataclass(frozen=True)
class ArtifactFile:
    """One file: its name below the artifact's folder, size in bytes, SHA-256 in hexadecimal, and role."""

    name: str
    size: int
    sha256: str
    role: str


@dataclass(frozen=True)
class PublishedArtifact:
    """An artifact in a store.

    Attributes:
        location: its folder.
        manifest: manifest.json as JSON.
        content: manifest.json as it is stored.
        files: what it lists.
    """

    location: S3Location
    manifest: Object
    content: bytes = field(repr=False)
    files: tuple[ArtifactFile, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of manifest.json, as in ``status.artifact.manifestDigest``."""
        return f"sha256:{hashlib.sha256(self.content).hexdigest()}"

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)

    def has(self, name: str) -> bool:
        return any(file.name == name for file in self.files)


def find_artifact(store: Store, location: S3Location) -> PublishedArtifact:
    """The artifact at a folder: a run's own, or the newest of a job's.

    Raises:
        StoreError: neither manifest.json nor latest.json is there.
        DamagedArtifactError: manifest.json is not readable as one.
    """
    try:
        return _read(store, location)
    except NotThere:
        return _read(store, _newest(store, location))


def _newest(store: Store, location: S3Location) -> S3Location:
    """The run that a job's folder points at."""
    try:
        pointer = _json(store.read(location.child(LATEST)), location.child(LATEST))
    except NotThere as error:
        raise StoreError(
            f"nothing is published at {location}: neither {MANIFEST} (of a run) nor {LATEST} (of a job) is there"
        ) from error
    return location_of(text_at(pointer, "uri"))


def _read(store: Store, location: S3Location) -> PublishedArtifact:
    place = location.child(MANIFEST)
    content = store.read(place)
    manifest = _json(content, place)
    files = tuple(_file(entry, place) for entry in objects_at(manifest, "files"))
    if not files:
        raise DamagedArtifactError(f"{place} lists no files")
    return PublishedArtifact(location, manifest, content, files)


def _file(entry: Object, place: S3Location) -> ArtifactFile:
    name, size = text_at(entry, "name"), whole_at(entry, "size")
    parts = PurePosixPath(name).parts
    # Names become paths on this machine: none may lead out of the folder that was named.
    if size is None or not parts or name.startswith("/") or "\\" in name or set(parts) & {"..", "."}:
        raise DamagedArtifactError(f"{place} lists a file that cannot be one: {name!r}")
    return ArtifactFile(name, size, text_at(entry, "sha256"), text_at(entry, "role"))


def _json(content: bytes, place: S3Location) -> Object:
    try:
        found: Any = json.loads(content)
    except ValueError as error:
        raise DamagedArtifactError(f"{place} is no JSON") from error
    if not isinstance(found, dict):
        raise DamagedArtifactError(f"{place} is no JSON object")
    return found


def location_of(uri: str) -> S3Location:
    """Reads an artifact's URI.

    Raises:
        UsageError: it is no s3://bucket/prefix.
    """
    try:
        return parse_destination(uri.rstrip("/"))
    except InvalidSource as error:
        raise UsageError(f"{uri!r} is no artifact: use s3://bucket/prefix") from error
