"""The header of a safetensors file: names, types, shapes and places of its tensors. Pure, and free of numpy.

Format: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.errors import NotSafetensors

HEADER_LENGTH_BYTES = 8
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class TensorInfo:
    """One entry of a header. ``begin`` and ``end`` are offsets in bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def header_size(start: bytes) -> int:
    """Length of the JSON header in bytes, from the first eight bytes of a file.

    Raises:
        NotSafetensors: the number is impossible.
    """
    size = int.from_bytes(start[:HEADER_LENGTH_BYTES], "little")
    if len(start) < HEADER_LENGTH_BYTES or not 2 <= size <= _MAX_HEADER_BYTES:
        raise NotSafetensors("it does not begin with the length of a header")
    return size


def parse_header(header: bytes, file_size: int) -> dict[str, TensorInfo]:
    """Tensors by name, from the JSON header.

    Raises:
        NotSafetensors: no valid header, or the file is shorter or longer than it says.
    """
    data_start = HEADER_LENGTH_BYTES + len(header)
    try:
        entries = json.loads(header, object_pairs_hook=_each_once)
        tensors = {name: _tensor(entry, data_start) for name, entry in entries.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NotSafetensors("its header is not readable") from error
    end = max((tensor.end for tensor in tensors.values()), default=data_start)
    if end != file_size:
        raise NotSafetensors(f"its header describes {end} bytes, the file has {file_size}")
    for name, tensor in tensors.items():
        if tensor.dtype in BITS and math.prod(tensor.shape) * BITS[tensor.dtype] != 8 * (tensor.end - tensor.begin):
            raise NotSafetensors(f"the tensor {name[:200]} has another size than its shape says")
    _check_order(tensors, data_start)
    return tensors


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _tensor(entry: Any, data_start: int) -> TensorInfo:
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    # bool is a kind of int.
    if any(type(number) is not int or number < 0 for number in (*shape, begin, end)) or not isinstance(dtype, str):
        raise ValueError("not what a header has there")
    return TensorInfo(dtype, tuple(shape), data_start + begin, data_start + end)


def _check_order(tensors: Mapping[str, TensorInfo], position: int) -> None:
    """safetensors itself reads only files whose tensors lie one behind the other."""
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != position or tensor.end < position:
            raise NotSafetensors(f"the tensor {name[:200]} does not begin where the one before it ends")
        position = tensor.end


def read_header(read: Callable[[int, int], bytes], file_size: int) -> dict[str, TensorInfo]:
    """Tensors by name, by two reads of ``read(start, length)``: weights stay where they are.

    Raises:
        NotSafetensors: see :func:`parse_header`.
    """
    size = header_size(read(0, HEADER_LENGTH_BYTES))
    if HEADER_LENGTH_BYTES + size > file_size:
        raise NotSafetensors("it is shorter than its header")
    return parse_header(read(HEADER_LENGTH_BYTES, size), file_size)


def read_file_header(path: Path) -> dict[str, TensorInfo]:
    """Tensors by name, of a file on disk.

    Raises:
        NotSafetensors: see :func:`parse_header`.
    """
    with path.open("rb") as file:

        def read(start: int, length: int) -> bytes:
            file.seek(start)
            return file.read(length)

        return read_header(read, path.stat().st_size)


def write_vectors(path: Path, vectors: Mapping[str, tuple[str, bytes | memoryview]]) -> None:
    """Writes one-dimensional tensors, each given as type and bytes. Wider types must come first, to be aligned."""
    entries, end = {}, 0
    for name, (dtype, content) in vectors.items():
        begin, end = end, end + len(content)
        entries[name] = {"dtype": dtype, "shape": [8 * len(content) // BITS[dtype]], "data_offsets": [begin, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % HEADER_LENGTH_BYTES)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(HEADER_LENGTH_BYTES, "little") + header)
        for _, content in vectors.values():
            file.write(content)
