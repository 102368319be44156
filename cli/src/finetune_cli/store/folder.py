"""A folder in place of an object store, as ``run --local --store file:///folder`` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from finetune_api.uris import S3Location
from finetune_cli.errors import StoreError
from finetune_cli.store.interface import CHUNK_BYTES, NotThere


class FolderStore:
    """Each bucket is a folder below the root; see :class:`finetune_cli.store.interface.Store`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, location: S3Location) -> bytes:
        return b"".join(self.chunks(location))

    def chunks(self, location: S3Location, start: int = 0) -> Iterator[bytes]:
        path = self._root / location.bucket / location.key
        try:
            with path.open("rb") as file:
                file.seek(start)
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise NotThere(f"{path} does not exist") from error
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from error
