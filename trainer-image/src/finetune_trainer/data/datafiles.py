"""Files of the dataset: found in stores and claims, read as streams, digested."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from finetune_api.plan import RunPlan
from finetune_api.runid import canonical_json, sha256_digest
from finetune_api.spec import DataSource
from finetune_api.uris import ClaimLocation, S3Location, parse_source
from finetune_trainer.errors import DataError, UserError
from finetune_trainer.storage.digests import DigestMemory, file_sha256
from finetune_trainer.storage.interface import CHUNK_BYTES, ObjectStore, StoredObject
from finetune_trainer.storage.s3 import store_of

_SUFFIX = ".jsonl"


class DataFile(Protocol):
    """One file of rows."""

    @property
    def uri(self) -> str:
        """Where it is, for messages."""

    def sha256(self) -> str:
        """Hexadecimal SHA-256 of its content."""

    def chunks(self) -> Iterator[bytes]:
        """Its content in pieces of bounded size."""


@dataclass(frozen=True)
class StoredFile:
    """A file in an object store."""

    store: ObjectStore
    stored: StoredObject
    endpoint: str | None
    memory: DigestMemory

    @property
    def uri(self) -> str:
        return str(self.stored.location)

    def sha256(self) -> str:
        return self.memory.sha256(self.store, self.endpoint, self.stored)

    def chunks(self) -> Iterator[bytes]:
        return self.store.chunks(self.stored.location)


@dataclass(frozen=True)
class MountedFile:
    """A file in a claim."""

    uri: str
    path: Path

    def sha256(self) -> str:
        return file_sha256(self.path)

    def chunks(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk


def find_files(plan: RunPlan, environment: Mapping[str, str], split: str) -> tuple[DataFile, ...]:
    """Files of a split, ``train`` or ``validation``, in the order in which their rows are read.

    Raises:
        UserError: a source names nothing; the message names the field.
        StorageError: a store cannot be reached.
    """
    dataset = plan.spec.dataset
    held_out = (dataset.validation.sources if dataset.validation else None) or ()
    sources = dataset.train if split == "train" else held_out
    path = "spec.dataset.train" if split == "train" else "spec.dataset.validation.sources"
    found: list[DataFile] = []
    for index, source in enumerate(sources):
        field = f"{path}[{index}].source"
        files = list(_files_of(plan, environment, source, f"{split}-{index}"))
        if not files:
            raise UserError(
                f"{source.source} of {field} does not exist: there is no such file, and no *{_SUFFIX} file below it",
                f"correct {field} or upload the data",
            )
        found += files
    return tuple(found)


def _files_of(plan: RunPlan, environment: Mapping[str, str], source: DataSource, use: str) -> Iterator[DataFile]:
    location = parse_source(source.source)
    if isinstance(location, S3Location):
        store, memory = store_of(plan, use, environment), DigestMemory(plan, environment)
        exact = store.stat(location)
        below = [] if exact else [found for found in store.objects(location) if found.location.key.endswith(_SUFFIX)]
        # Stores list in orders of their own: by bytes here, so that the same files give the same run everywhere.
        for stored in [exact] if exact else sorted(below, key=lambda found: found.location.key.encode()):
            yield StoredFile(store, stored, plan.stores[use].endpoint_url, memory)
    elif isinstance(location, ClaimLocation):
        root = Path(plan.claims[location.claim]) / location.path
        if root.is_file():
            yield MountedFile(str(location), root)
            return
        names = (path.relative_to(root).as_posix() for path in root.rglob(f"*{_SUFFIX}") if path.is_file())
        for name in sorted(names, key=str.encode):
            yield MountedFile(f"{location}/{name}", root / name)


@dataclass(frozen=True)
class DigestedFile:
    """A file whose content is known by its hexadecimal SHA-256."""

    file: DataFile
    sha256: str

    def chunks(self) -> Iterator[bytes]:
        """The content, in pieces of bounded size.

        Raises:
            DataError: at its end, when it was another content than the digest says.
        """
        digest = hashlib.sha256()
        for chunk in self.file.chunks():
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != self.sha256:
            raise DataError(f"{self.file.uri} was changed while it was read", "run again when the data is complete")


def digest_files(files: Sequence[DataFile]) -> tuple[DigestedFile, ...]:
    """Reads every file, unless its digest is remembered."""
    return tuple(DigestedFile(file, file.sha256()) for file in files)


def split_digest(files: Sequence[DigestedFile]) -> str:
    """Digest of a split's files: of their contents, in order; their names and places are no part of it."""
    return sha256_digest(canonical_json([file.sha256 for file in files]))
