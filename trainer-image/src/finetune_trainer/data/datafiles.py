"""Files of the dataset: found in stores, claims, hubs and on the web, read as streams, digested."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from finetune_api.plan import RunPlan
from finetune_api.runid import canonical_json, sha256_digest
from finetune_api.spec import DataSource, source_settings
from finetune_api.uris import ClaimLocation, HubFiles, S3Location, WebFile, parse_data_source
from finetune_trainer.data.filekinds import SUFFIXES, FileKind, kind_in_folder, kind_of_file
from finetune_trainer.data.webfiles import WebDataFile
from finetune_trainer.errors import DataError, UserError
from finetune_trainer.storage.claims import inside
from finetune_trainer.storage.digests import DigestMemory, file_sha256
from finetune_trainer.storage.interface import CHUNK_BYTES, ObjectStore, StoredObject
from finetune_trainer.storage.stores import store_of

TRAIN_FIELD, VALIDATION_FIELD = "spec.dataset.train", "spec.dataset.validation.sources"


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
    claim: Path

    def sha256(self) -> str:
        return file_sha256(self._file())

    def chunks(self) -> Iterator[bytes]:
        with self._file().open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def _file(self) -> Path:
        return inside(self.claim, self.path, self.uri)


@dataclass(frozen=True)
class DigestedFile:
    """A file whose content is known by its hexadecimal SHA-256."""

    file: DataFile
    kind: FileKind
    sha256: str

    @property
    def uri(self) -> str:
        return self.file.uri

    @property
    def known(self) -> bool:
        """Whether the digest was computed here, and not only asked for."""
        return not isinstance(self.file, WebDataFile)

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
            raise DataError(f"{self.uri} was changed while it was read", "run again when the data is complete")


@dataclass(frozen=True)
class SourceFiles:
    """The files of one source, in the order in which their rows are read; ``field`` is where the spec has it."""

    source: DataSource
    field: str
    files: tuple[DigestedFile, ...]
    revision: str | None = None


class Finder:
    """Finds the files of sources: in one place all that a plan says of where they may be."""

    def __init__(self, plan: RunPlan, environment: Mapping[str, str], scratch: Path) -> None:
        self._plan, self._environment, self._scratch = plan, environment, scratch

    def find(self, source: DataSource, field: str, use: str) -> SourceFiles:
        """The files of one source; ``use`` is that of its store.

        Raises:
            UserError: it names nothing, or files that cannot be read together; the message names the field.
            StorageError: a store cannot be reached.
        """
        location, revision = parse_data_source(source.source), None
        if isinstance(location, S3Location):
            exact, below = self._stored(location, use)
        elif isinstance(location, ClaimLocation):
            exact, below = self._mounted(location)
        elif isinstance(location, HubFiles):
            exact, below, revision = self._on_hub(location, source, field)
        else:
            exact, below = self._on_web(location, source, field), {}
        kinds = _kinds(source, field, exact, below)
        files = {name: exact or below[name] for name in kinds}
        digested = (DigestedFile(files[name], kind, files[name].sha256()) for name, kind in kinds.items())
        return SourceFiles(source, field, tuple(digested), revision)

    def _stored(self, location: S3Location, use: str) -> tuple[DataFile | None, dict[str, DataFile]]:
        store, memory = store_of(self._plan, use, self._environment), DigestMemory(self._plan, self._environment)
        endpoint = self._plan.stores[use].endpoint_url
        exact = store.stat(location)
        if exact:
            return StoredFile(store, exact, endpoint, memory), {}
        return None, {
            found.location.key.removeprefix(location.key).lstrip("/"): StoredFile(store, found, endpoint, memory)
            for found in store.objects(location)
        }

    def _mounted(self, location: ClaimLocation) -> tuple[DataFile | None, dict[str, DataFile]]:
        claim = Path(self._plan.claims[location.claim])
        root = claim / location.path
        if root.is_file():
            return MountedFile(str(location), root, claim), {}
        names = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        return None, {name: MountedFile(f"{location}/{name}", root / name, claim) for name in names}

    def _on_hub(
        self, location: HubFiles, source: DataSource, field: str
    ) -> tuple[DataFile | None, dict[str, DataFile], str]:
        # Imported here: the hub's client takes longer to load than prepare may take for data of a store.
        from finetune_trainer.data.hubfiles import hub_files

        found = hub_files(self._plan, self._environment, location, source.revision, field, self._scratch)
        return found.exact, dict(found.below), found.revision

    def _on_web(self, location: WebFile, source: DataSource, field: str) -> DataFile:
        return WebDataFile(location.url, source.sha256 or "", f"{field}.source")


def _kinds(
    source: DataSource, field: str, exact: DataFile | None, below: Mapping[str, DataFile]
) -> dict[str, FileKind]:
    """The files that hold rows by name, in name order, and their kinds."""
    if exact:
        kind = kind_of_file(source.source)
        if kind is None:
            raise UserError(
                f"{source.source} of {field}.source is no file of rows: its name must end in {SUFFIXES}",
                "write the rows as JSON lines or as Parquet",
            )
        return {source.source: kind}
    wanted = (name for name in below if source.files is None or fnmatchcase(name, source.files))
    # Stores list in orders of their own: by bytes here, so that the same files give the same run everywhere.
    found = {name: kind for name in sorted(wanted, key=str.encode) if (kind := kind_in_folder(name))}
    if not found:
        pattern = f" that fits {source.files!r}" if source.files else ""
        raise UserError(
            f"{source.source} of {field}.source does not exist: there is no such file, and no {SUFFIXES} file below "
            f"it{pattern}",
            f"correct {field}.source or upload the data",
        )
    _refuse_mixture(source, field, found)
    return found


def _refuse_mixture(source: DataSource, field: str, kinds: Mapping[str, FileKind]) -> None:
    first_of = {kind.layout: name for name, kind in reversed(list(kinds.items()))}
    if len(first_of) > 1:
        names = " and ".join(sorted(first_of.values()))
        raise UserError(
            f"{source.source} of {field}.source has files of more than one kind: {names}",
            f"set {field}.files to a pattern that fits one kind, such as '*.parquet'",
        )


def find_split(finder: Finder, sources: Iterable[DataSource], split: str) -> tuple[SourceFiles, ...]:
    """The files of all sources of a split, ``train`` or ``validation``.

    Raises:
        UserError, StorageError: see :meth:`Finder.find`.
    """
    path = TRAIN_FIELD if split == "train" else VALIDATION_FIELD
    return tuple(finder.find(source, f"{path}[{index}]", f"{split}-{index}") for index, source in enumerate(sources))


def split_digest(sources: Sequence[SourceFiles]) -> str:
    """Digest of a split's files: of their contents, in order; their names and places are no part of it.

    How rows are read is part of it as soon as it is not the same for all files.
    """
    settings = [source_settings(source.source) for source in sources]
    contents = [[file.sha256 for file in source.files] for source in sources]
    if not any(settings):
        return sha256_digest(canonical_json([digest for digests in contents for digest in digests]))
    return sha256_digest(canonical_json([list(pair) for pair in zip(settings, contents, strict=True)]))
