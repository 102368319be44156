"""Kinds of data files, told by their names. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Layout(StrEnum):
    """How a file holds rows."""

    JSON_LINES = "JSON lines"
    PARQUET = "Parquet"


class Compression(StrEnum):
    """How the bytes of a file of JSON lines are compressed; the value is the suffix."""

    NONE = ""
    GZIP = ".gz"
    BZIP2 = ".bz2"
    XZ = ".xz"
    ZSTANDARD = ".zst"


class FileKind(NamedTuple):
    """How a file is read."""

    layout: Layout
    compression: Compression = Compression.NONE


_JSON_LINES = (".jsonl", ".ndjson")
# Beside rows, folders hold .json files that are none, such as dataset_info.json.
_JSON_LINES_BY_NAME = (*_JSON_LINES, ".json")
PARQUET_SUFFIX = ".parquet"
SUFFIXES = f"{_JSON_LINES[0]} or {PARQUET_SUFFIX}"


def kind_in_folder(name: str) -> FileKind | None:
    """Kind of a file that was found in a folder, None for one that holds no rows."""
    return _kind(name, _JSON_LINES)


def kind_of_file(name: str) -> FileKind | None:
    """Kind of a file that the spec names, None when its name says that it is of another kind.

    A name without a suffix is taken for JSON lines.
    """
    last = name.rpartition("/")[2]
    return _kind(last, _JSON_LINES_BY_NAME) if "." in last else FileKind(Layout.JSON_LINES)


def _kind(name: str, json_lines: tuple[str, ...]) -> FileKind | None:
    lower = name.lower()
    if lower.endswith(PARQUET_SUFFIX):
        return FileKind(Layout.PARQUET)
    for compression in Compression:
        if lower.endswith(tuple(suffix + compression.value for suffix in json_lines)):
            return FileKind(Layout.JSON_LINES, compression)
    return None
