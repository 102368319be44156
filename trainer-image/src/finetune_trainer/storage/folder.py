"""A folder in place of an object store, for runs without a cluster: each bucket is a folder below it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from finetune_api.uris import S3Location
from finetune_trainer.errors import StorageError, TrainerError, UserError
from finetune_trainer.storage.interface import CHUNK_BYTES, StoredObject, StoreFields, Writer, check_written
from finetune_trainer.storage.s3errors import missing_bucket

# Objects that are being written; no key of ours begins so.
_PARTIAL = ".partial-"
# Temporary files are private; an object is as readable as its folder lets it be.
_READABLE = 0o644


class FolderStore:
    """Objects as files; see :class:`finetune_trainer.storage.interface.ObjectStore`."""

    def __init__(self, root: Path, fields: StoreFields) -> None:
        self._root = root
        self._fields = fields

    def stat(self, location: S3Location) -> StoredObject | None:
        path = self._path(location)
        with self._words(location):
            return _described(location, path) if path.is_file() else None

    def objects(self, prefix: S3Location) -> Iterator[StoredObject]:
        folder = self._path(prefix)
        with self._words(prefix):
            for path in [path for path in folder.rglob("*") if path.is_file()]:
                if not path.name.startswith(_PARTIAL):
                    yield _described(prefix.child(path.relative_to(folder).as_posix()), path)

    def chunks(self, location: S3Location) -> Iterator[bytes]:
        with self._words(location), self._path(location).open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def read(self, location: S3Location, start: int = 0, length: int | None = None) -> bytes:
        with self._words(location), self._path(location).open("rb") as file:
            file.seek(start)
            return file.read(-1 if length is None else length)

    def download(self, location: S3Location, path: Path) -> None:
        with self._words(location):
            shutil.copyfile(self._path(location), path)

    def upload(self, path: Path, location: S3Location) -> None:
        with path.open("rb") as source, self._new(location) as target:
            shutil.copyfileobj(source, target, CHUNK_BYTES)

    def put(self, location: S3Location, content: bytes) -> None:
        with self._new(location) as target:
            target.write(content)

    def put_new(self, location: S3Location, content: bytes) -> bool:
        path = self._path(location)
        with self._words(location):
            path.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=path.parent, prefix=_PARTIAL) as target:
                target.write(content)
                target.flush()
                os.fchmod(target.fileno(), _READABLE)
                try:
                    # Unlike a rename, a link does not replace what is there.
                    os.link(target.name, path)
                except FileExistsError:
                    return False
        return True

    def write(self, location: S3Location, content: memoryview) -> None:
        with self._new(location) as target:
            target.write(content)

    @contextmanager
    def writing(self, location: S3Location, size: int) -> Iterator[Writer]:
        with self._new(location) as target:
            yield target
            check_written(location, target.tell(), size)

    def read_into(self, location: S3Location, start: int, target: memoryview) -> None:
        with self._words(location), self._path(location).open("rb", buffering=0) as file:
            file.seek(start)
            if file.readinto(target) != len(target):
                raise StorageError(f"{location} ends before byte {start + len(target)}", "write the object again")

    def abort_uploads(self, prefix: S3Location) -> int:
        folder = self._path(prefix)
        with self._words(prefix):
            partial = [path for path in folder.rglob(f"{_PARTIAL}*") if path.is_file()]
            for path in partial:
                path.unlink(missing_ok=True)
            return len(partial)

    def delete(self, location: S3Location) -> None:
        bucket, path = self._root / location.bucket, self._path(location)
        with self._words(location):
            path.unlink(missing_ok=True)
            # Object stores have no empty folders.
            for folder in path.parents:
                if folder == bucket or not folder.is_dir() or any(folder.iterdir()):
                    break
                folder.rmdir()

    def _path(self, location: S3Location) -> Path:
        bucket = self._root / location.bucket
        if not bucket.is_dir():
            raise missing_bucket(location, self._fields, f"file://{self._root}")
        return bucket / location.key

    @contextmanager
    def _new(self, location: S3Location) -> Iterator[IO[bytes]]:
        """A file that appears under its name only when it is complete."""
        path = self._path(location)
        with self._words(location):
            path.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=path.parent, prefix=_PARTIAL, delete=False) as target:
                try:
                    yield target.file
                    # What is still in the buffer would come after the name.
                    target.flush()
                    os.fchmod(target.fileno(), _READABLE)
                    os.replace(target.name, path)
                except BaseException:
                    os.unlink(target.name)
                    raise

    @contextmanager
    def _words(self, location: S3Location) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._translated(error, location) from error

    def _translated(self, error: OSError, location: S3Location) -> TrainerError:
        if isinstance(error, PermissionError):
            return UserError(
                f"access denied to {location} of {self._fields.location} in {self._root}",
                f"make the folder of {self._fields.access}.endpointURL readable and writable for this user",
            )
        return StorageError(
            f"the folder {self._root} failed on {location} of {self._fields.location}: {error.strerror}",
            "check the disk, then try again",
        )


def _described(location: S3Location, path: Path) -> StoredObject:
    status = path.stat()
    return StoredObject(location, status.st_size, f"{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}")
