"""Reading safetensors files without a framework: header, shapes and raw bytes by memory map.

Format: https://huggingface.co/docs/safetensors. numpy has no bfloat16, so tensors are looked at as bit patterns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.errors import NotSafetensors

HEADER_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}
# The exponent bits of each floating-point type: all set in infinities and in what is no number.
_EXPONENTS = {"F64": 0x7FF0_0000_0000_0000, "F32": 0x7F80_0000, "F16": 0x7C00, "BF16": 0x7F80}
_UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
_BLOCK_ELEMENTS = 1 << 22


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
        entries = json.loads(header)
        tensors = {
            name: TensorInfo(
                entry["dtype"], tuple(entry["shape"]), *(data_start + offset for offset in entry["data_offsets"])
            )
            for name, entry in entries.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotSafetensors("its header is not readable") from error
    end = max((tensor.end for tensor in tensors.values()), default=data_start)
    if end != file_size:
        raise NotSafetensors(f"its header describes {end} bytes, the file has {file_size}")
    for name, tensor in tensors.items():
        if tensor.dtype in _BITS and math.prod(tensor.shape) * _BITS[tensor.dtype] != 8 * (tensor.end - tensor.begin):
            raise NotSafetensors(f"the tensor {name} has another size than its shape says")
    return tensors


def read_header(read: Callable[[int, int], bytes], file_size: int) -> dict[str, TensorInfo]:
    """Tensors by name, by two reads of ``read(start, length)``: weights stay where they are.

    Raises:
        NotSafetensors: see :func:`parse_header`.
    """
    size = header_size(read(0, HEADER_LENGTH_BYTES))
    return parse_header(read(HEADER_LENGTH_BYTES, size), file_size)


class TensorFile:
    """A safetensors file on disk, mapped into memory.

    Raises:
        NotSafetensors: see :func:`parse_header`.
    """

    def __init__(self, path: Path) -> None:
        size = path.stat().st_size
        if size <= HEADER_LENGTH_BYTES:
            raise NotSafetensors("it is too short")
        self._bytes = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        self.tensors: Mapping[str, TensorInfo] = read_header(self._read, size)

    def _read(self, start: int, length: int) -> bytes:
        return self._bytes[start : start + length].tobytes()

    def bits(self, name: str) -> NDArray[np.unsignedinteger]:
        """The elements of a tensor as unsigned integers of the same width, flat; a view of the file."""
        tensor = self.tensors[name]
        return self._bytes[tensor.begin : tensor.end].view(_UNSIGNED[_BITS[tensor.dtype]])

    def is_finite(self, name: str) -> bool:
        """Whether a tensor holds neither NaN nor infinity; integers always do not."""
        exponent = _EXPONENTS.get(self.tensors[name].dtype)
        if exponent is None:
            return True
        bits = self.bits(name)
        blocks = (bits[start : start + _BLOCK_ELEMENTS] for start in range(0, len(bits), _BLOCK_ELEMENTS))
        return not any(bool(((block & exponent) == exponent).any()) for block in blocks)

    def is_zero(self, name: str) -> bool:
        """Whether every element of a tensor is zero, of either sign."""
        bits = self.bits(name)
        magnitude = (1 << (_BITS[self.tensors[name].dtype] - 1)) - 1
        blocks = (bits[start : start + _BLOCK_ELEMENTS] for start in range(0, len(bits), _BLOCK_ELEMENTS))
        return not any(bool((block & magnitude).any()) for block in blocks)
