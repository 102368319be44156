"""The checkpoints of one run in the store: which are committed, committing one, and removing what nobody needs."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

from finetune_api.uris import S3Location
from finetune_trainer.errors import StorageError
from finetune_trainer.storage.interface import ObjectStore
from finetune_trainer.training.checkpoints.format import (
    COMMITTED,
    FORMAT,
    Manifest,
    Unsealed,
    manifest_of,
    sealed,
    step_of,
)

logger = logging.getLogger(__name__)


class Folders:
    """The folders of checkpoints below one prefix."""

    def __init__(self, store: ObjectStore, prefix: S3Location) -> None:
        self.store, self._prefix = store, prefix

    def place(self, name: str) -> S3Location:
        """A checkpoint's folder."""
        return self._prefix.child(name)

    def listed(self) -> dict[str, list[str]]:
        """Files by folder. Anything else below the prefix is nobody's checkpoint, and left alone."""
        found: dict[str, list[str]] = defaultdict(list)
        for stored in self.store.objects(self._prefix):
            folder, _, file = stored.location.key.removeprefix(f"{self._prefix.key}/").partition("/")
            if step_of(folder) is not None and file:
                found[folder].append(file)
        return dict(found)

    def committed(self) -> list[str]:
        """Folders of committed checkpoints, newest first."""
        return sorted((name for name, files in self.listed().items() if COMMITTED in files), reverse=True)

    def manifest(self, name: str, run_id: str) -> Manifest | None:
        """The manifest of a committed checkpoint; None when it cannot be read, or is another run's."""
        try:
            manifest = manifest_of(self.store.read(self.place(name).child(COMMITTED)))
        except Unsealed:
            return None
        whole = [shard.rank for shard in manifest.shards] == list(range(len(manifest.shards)))
        whole = whole and len(manifest.shards) == manifest.world_size
        right = manifest.run_id == run_id and manifest.format == FORMAT and manifest.step == step_of(name)
        return manifest if whole and right else None

    def commit(self, name: str, manifest: Manifest) -> None:
        """Makes a checkpoint count.

        Raises:
            StorageError: somebody else has committed this very folder.
        """
        place = self.place(name).child(COMMITTED)
        if not self.store.put_new(place, sealed(manifest)):
            raise StorageError(f"{place} exists already", "see whether two trainings of this job run at once")

    def prune(self, keep: int) -> None:
        """Removes all but the newest committed checkpoints."""
        listed = self.listed()
        newest = sorted((name for name, files in listed.items() if COMMITTED in files), reverse=True)
        for name in newest[keep:]:
            self._remove(name, listed[name])

    def remove_leftovers(self, but: Sequence[str] = ()) -> None:
        """Removes what broken uploads left behind, and folders that were never committed."""
        self.store.abort_uploads(self._prefix)
        for name, files in self.listed().items():
            if COMMITTED not in files and name not in but:
                logger.info("removing %s, which was never committed", self.place(name))
                self._remove(name, files)

    def remove_all(self) -> None:
        """Removes every checkpoint of the run."""
        self.store.abort_uploads(self._prefix)
        for name, files in self.listed().items():
            self._remove(name, files)

    def _remove(self, name: str, files: Sequence[str]) -> None:
        # Without its manifest first: a checkpoint that is half removed must not count.
        for file in sorted(files, key=lambda file: file != COMMITTED):
            self.store.delete(self.place(name).child(file))
