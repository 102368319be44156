"""Files that a checkpoint carries along: the best weights so far, where these are what will be published."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from finetune_api.uris import S3Location
from finetune_trainer.storage.checksums import block_sum
from finetune_trainer.storage.interface import ObjectStore
from finetune_trainer.training.checkpoints.format import BLOCK_BYTES, KEPT, Manifest, StoredFile
from finetune_trainer.training.checkpoints.loading import check_size, read_block


class Kept:
    """A folder of files that may be replaced by others at any time, but whose files are never changed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._aside = folder, folder.with_name(f"{folder.name}-kept")

    def freeze(self) -> None:
        """Holds on to the files as they are now."""
        shutil.rmtree(self._aside, ignore_errors=True)
        self._aside.mkdir(parents=True)
        for path in sorted(self._folder.iterdir()) if self._folder.is_dir() else ():
            os.link(path, self._aside / path.name)

    def upload(self, store: ObjectStore, place: S3Location) -> tuple[StoredFile, ...]:
        """Uploads what was frozen into the folder of a checkpoint."""
        files = tuple(map(_described, sorted(self._aside.iterdir())))
        for file in files:
            store.upload(self._aside / Path(file.name).name, place.child(file.name))
        return files

    def restore(self, store: ObjectStore, place: S3Location, manifest: Manifest) -> None:
        """Writes the files of a checkpoint into the folder, verified.

        Raises:
            Damaged: one of them is missing or is not what was written.
        """
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        for file in manifest.kept:
            check_size(store, place, file)
            with (self._folder / Path(file.name).name).open("wb") as target:
                for block in range(len(file.sums)):
                    target.write(read_block(store, place, file, block))


def _described(path: Path) -> StoredFile:
    sums = []
    with path.open("rb") as file:
        while content := file.read(BLOCK_BYTES):
            sums.append(block_sum(memoryview(content)))
    return StoredFile(name=f"{KEPT}/{path.name}", size=path.stat().st_size, sums=tuple(sums))
