"""One process's part in saving a checkpoint, in threads of its own while training goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime

from finetune_api.results import Checkpoint, RunId
from finetune_trainer.errors import StorageError
from finetune_trainer.storage.checksums import block_sums
from finetune_trainer.training.checkpoints.folders import Folders
from finetune_trainer.training.checkpoints.format import (
    BLOCK_BYTES,
    HISTORY,
    Manifest,
    Shard,
    StoredFile,
    description_name,
    sealed,
    shard_of,
)
from finetune_trainer.training.checkpoints.kept import Kept

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.05, 1.0


@dataclass(frozen=True)
class Run:
    """What the manifests of one gang have in common."""

    run_id: RunId
    attempt: int
    world_size: int
    rank: int
    keep: int


@dataclass(frozen=True)
class Pending:
    """What was copied and is to be uploaded. ``describe`` and ``history`` do the work that can be done aside."""

    step: int
    folder: str
    content: memoryview
    describe: Callable[[], Shard]
    history: Callable[[], bytes]
    kept: Kept | None = None


class Saver:
    """Uploads one checkpoint at a time. Rank 0 commits it when the descriptions of all shards are there."""

    def __init__(self, folders: Folders, run: Run, committed: Callable[[Checkpoint], None]) -> None:
        self._folders, self._run, self._tell = folders, run, committed
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="checkpoint")
        self._upload: Future[None] | None = None
        self._commit: Future[None] | None = None
        self._given_up = threading.Event()
        self.seconds = 0.0

    @property
    def busy(self) -> bool:
        return any(work is not None and not work.done() for work in (self._upload, self._commit))

    def begin(self, pending: Pending) -> None:
        """Starts; the content must not change until :attr:`busy` is false."""
        self._given_up.clear()
        self._upload = self._pool.submit(self._send, pending)
        if self._run.rank == 0:
            self._commit = self._pool.submit(self._finish, pending, time.monotonic())

    def failure(self) -> BaseException | None:
        """Why the upload failed, told once."""
        for work in (self._upload, self._commit):
            if work is not None and work.done() and (error := work.exception()):
                self._upload = self._commit = None
                return error
        return None

    def give_up(self) -> None:
        """Another process could not upload its part: do not wait for it."""
        self._given_up.set()

    def uploaded(self, seconds: float) -> bool:
        """Whether :meth:`wait_for_upload` would return at once, after so many seconds at most."""
        return _ends_within(self._upload, seconds)

    def ended(self, seconds: float) -> bool:
        """Whether :meth:`wait_for_commit` would return at once, after so many seconds at most."""
        return _ends_within(self._commit, seconds)

    def wait_for_upload(self) -> BaseException | None:
        """Waits until the own part is in the store, or could not be put there."""
        return self._upload.exception() if self._upload else None

    def wait_for_commit(self) -> BaseException | None:
        """Waits until the checkpoint counts, or cannot."""
        return self._commit.exception() if self._commit else None

    def _send(self, pending: Pending) -> None:
        shard, folder = pending.describe(), self._folders.place(pending.folder)
        self._folders.store.write(folder.child(shard.file.name), pending.content)
        self._folders.store.put(folder.child(description_name(shard.rank)), sealed(shard))

    def _finish(self, pending: Pending, started: float) -> None:
        folder = self._folders.place(pending.folder)
        content = pending.history()
        self._folders.store.put(folder.child(HISTORY), content)
        history = StoredFile(name=HISTORY, size=len(content), sums=block_sums(memoryview(content), BLOCK_BYTES))
        kept = pending.kept.upload(self._folders.store, folder) if pending.kept else ()
        shards = tuple(self._described(pending.folder, rank) for rank in range(self._run.world_size))
        now = datetime.now(UTC)
        manifest = Manifest(
            run_id=self._run.run_id,
            step=pending.step,
            world_size=self._run.world_size,
            attempt=self._run.attempt,
            created=now,
            shards=shards,
            history=history,
            kept=kept,
        )
        self._folders.commit(pending.folder, manifest)
        self.seconds = time.monotonic() - started
        self._tell(Checkpoint(step=pending.step, time=now, uri=str(folder), world_size=self._run.world_size))
        self._folders.prune(self._run.keep)

    def _described(self, folder: str, rank: int) -> Shard:
        """Waits for the description of one process's shard."""
        place = self._folders.place(folder).child(description_name(rank))
        pause = _FIRST_WAIT_SECONDS
        while self._folders.store.stat(place) is None:
            own = self._upload
            failed = own is not None and own.done() and own.exception() is not None
            if failed or self._given_up.wait(pause):
                raise StorageError(f"{place} did not come", "see the log of that process")
            pause = min(2 * pause, _LONGEST_WAIT_SECONDS)
        return shard_of(self._folders.store.read(place))


def _ends_within(work: Future[None] | None, seconds: float) -> bool:
    return work is None or not wait([work], seconds).not_done
