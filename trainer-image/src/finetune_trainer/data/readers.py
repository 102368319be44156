"""Rows of one file as a stream, whatever its kind: numbered, each an object or the reason why it is none."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from finetune_trainer.data.bounded import BYTES, Bounded, TookTooLong
from finetune_trainer.data.datafiles import DigestedFile
from finetune_trainer.data.filekinds import Compression, FileKind, Layout
from finetune_trainer.data.rows import json_object, lines
from finetune_trainer.errors import BadRow, DataError
from finetune_trainer.storage.interface import CHUNK_BYTES

# Line or row number from 1, and what is there.
NumberedRow = tuple[int, dict[str, Any] | BadRow]
# What the compressed half of a chunk can grow to has to fit into memory.
_ZSTANDARD_BYTES = 1 << 16
_PARQUET_ROWS = 256
# Far more than a batch of rows takes.
_PARQUET_SECONDS = 120.0
# Text of people shrinks to a tenth; rows that are made by a program, to a fiftieth.
_MOST_GROWTH, _HARMLESS_BYTES = 200, 1 << 30


def read_rows(file: DigestedFile, scratch: Path, limit: int | None = None) -> Iterator[NumberedRow]:
    """The first ``limit`` rows of a file in order; blank lines are none.

    Raises:
        DataError: the file is damaged, was changed, or is of another kind than its name says.
        StorageError: its store cannot be reached.
    """
    if file.kind.layout is Layout.PARQUET:
        return islice(_parquet_rows(file, scratch), limit)
    return _json_rows(file, limit)


def _json_rows(file: DigestedFile, limit: int | None) -> Iterator[NumberedRow]:
    content = file.chunks()
    numbered = enumerate(lines(_plain(file.kind, content, file.uri)), start=1)
    for number, line in islice(((number, line) for number, line in numbered if line.strip()), limit):
        try:
            yield number, json_object(line)
        except BadRow as error:
            yield number, error
    if limit is None or not file.known:
        # A decompressor may stop before the end; the digest is that of the whole file.
        for _ in content:
            pass


def _plain(kind: FileKind, content: Iterator[bytes], uri: str) -> Iterator[bytes]:
    """The content without its compression."""
    if kind.compression is Compression.NONE:
        yield from content
        return
    growth = _Growth(uri)
    with _damage(uri, kind.compression):
        if kind.compression is Compression.ZSTANDARD:
            yield from growth.checked(_zstandard(growth.counted(content)))
            return
        with _opened(kind.compression, io.BufferedReader(_Chunks(growth.counted(content)), CHUNK_BYTES)) as file:
            yield from growth.checked(iter(lambda: file.read(CHUNK_BYTES), b""))


class _Growth:
    """How much larger a file becomes: one of a few megabytes can be made to become terabytes."""

    def __init__(self, uri: str) -> None:
        self._uri, self._before, self._after = uri, 0, 0

    def counted(self, content: Iterable[bytes]) -> Iterator[bytes]:
        """The compressed bytes, as they are."""
        for chunk in content:
            self._before += len(chunk)
            yield chunk

    def checked(self, content: Iterable[bytes]) -> Iterator[bytes]:
        """What they become.

        Raises:
            DataError: that is out of all proportion.
        """
        for piece in content:
            self._after += len(piece)
            if self._after > _HARMLESS_BYTES and self._after > _MOST_GROWTH * self._before:
                raise DataError(
                    f"{self._uri} grows to more than {_MOST_GROWTH} times its size when it is decompressed",
                    "upload the rows without compression, if there are really so many that are alike",
                )
            yield piece


def _opened(compression: Compression, raw: io.BufferedReader) -> gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile:
    match compression:
        case Compression.GZIP:
            return gzip.GzipFile(fileobj=raw)
        case Compression.BZIP2:
            return bz2.BZ2File(raw)
        case _:
            return lzma.LZMAFile(raw)


@contextmanager
def _damage(uri: str, compression: Compression) -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise DataError(f"{uri} is damaged: it ends in the middle", "upload the file again, whole") from error
    except (OSError, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            f"{uri} is not a {compression.value} file: {error}",
            "upload the file again, or give it the suffix of what it is",
        ) from error


def _zstandard(content: Iterator[bytes]) -> Iterator[bytes]:
    import zstandard

    decoder, open_frame = zstandard.ZstdDecompressor(), None
    for chunk in content:
        for start in range(0, len(chunk), _ZSTANDARD_BYTES):
            rest = chunk[start : start + _ZSTANDARD_BYTES]
            while rest:
                frame = open_frame or decoder.decompressobj()
                try:
                    piece = frame.decompress(rest)
                except zstandard.ZstdError as error:
                    raise OSError(str(error)) from error
                rest, open_frame = (frame.unused_data, None) if frame.eof else (b"", frame)
                if piece:
                    yield piece
    if open_frame is not None:
        raise EOFError


class _Chunks(io.RawIOBase):
    """A stream of bytes over pieces of any size."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._chunks, None)
            if piece is None:
                return 0
            self._rest = piece
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def _each_row(bounded: Bounded, batches: Iterator[Any]) -> Iterator[dict[str, Any]]:
    """Rows of batches, each of which may ask for any amount of memory."""
    while True:
        with bounded:
            batch = next(batches, None)
            rows = batch.to_pylist() if batch is not None else None
        if rows is None:
            return
        yield from rows


def _parquet_rows(file: DigestedFile, scratch: Path) -> Iterator[NumberedRow]:
    """Rows of a Parquet file, which has to lie on a disk since its index is at its end."""
    import pyarrow
    import pyarrow.parquet

    # Arrow's own allocator keeps what it has freed.
    pool = pyarrow.system_memory_pool()
    path = scratch / "rows.parquet"
    with path.open("wb") as copy:
        for chunk in file.chunks():
            copy.write(chunk)
    try:
        with pyarrow.parquet.ParquetFile(path, memory_map=False, pre_buffer=False, buffer_size=CHUNK_BYTES) as table:
            bounded, batches = Bounded(_PARQUET_SECONDS), table.iter_batches(_PARQUET_ROWS, use_threads=False)
            yield from enumerate(_each_row(bounded, batches), start=1)
        pool.release_unused()
    except (MemoryError, TookTooLong) as error:
        raise DataError(
            f"{file.uri} is no usable Parquet file: {_PARQUET_ROWS} rows of it take more than {BYTES >> 20} MiB or "
            f"{_PARQUET_SECONDS:.0f} s",
            "write the file again, with shorter rows",
        ) from error
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        # Arrow names the copy; its first line has the reason.
        reason = str(error).splitlines()[0].replace(str(path), file.uri)
        raise DataError(f"{file.uri} is no readable Parquet file: {reason}", "write the file again") from error
    finally:
        path.unlink()
