"""Where exported weights go: into a folder, or straight into the store without touching a disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from finetune_api.layout import MANIFEST
from finetune_api.uris import S3Location
from finetune_trainer.artifact.manifest import ManifestFile, Role
from finetune_trainer.storage.interface import ObjectStore, Writer


class Weights(Protocol):
    """Takes the files of weights, one after the other."""

    def writing(self, name: str, size: int) -> AbstractContextManager[Writer]:
        """For a file of ``size`` bytes, which is there when the block ends well."""


class FolderWeights:
    """Files of a folder: best weights so far, of which nobody knows yet whether they stay the best."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def writing(self, name: str, size: int) -> Iterator[Writer]:
        with (self._folder / name).open("wb") as file:
            yield file


@dataclass(frozen=True)
class Target:
    """Where an artifact is made: the folder of its small files, and what takes its weights."""

    folder: Path
    weights: Weights


class StreamedWeights:
    """Objects of an artifact that is to be published, sent while they are made.

    Attributes:
        files: what was sent, as the manifest will tell it.
    """

    def __init__(self, store: ObjectStore, prefix: S3Location) -> None:
        self._store, self._prefix = store, prefix
        self.files: tuple[ManifestFile, ...] = ()

    @contextmanager
    def writing(self, name: str, size: int) -> Iterator[Writer]:
        # An older manifest must not vouch for a mixture of old and new files.
        self._store.delete(self._prefix.child(MANIFEST))
        with self._store.writing(self._prefix.child(name), size) as target:
            digested = _Digested(target)
            yield digested
        described = ManifestFile(name=name, size=size, sha256=digested.sha256.hexdigest(), role=Role.CONTENT)
        self.files = (*self.files, described)


class _Digested:
    """Hands on what is written, and its digest."""

    def __init__(self, target: Writer) -> None:
        self._target, self.sha256 = target, hashlib.sha256()

    def write(self, content: bytes | memoryview, /) -> int:
        self.sha256.update(content)
        return self._target.write(content)
