"""Tensors of a safetensors file without a framework: by memory map, or while the file passes by.

numpy has no bfloat16, so tensors are looked at as bit patterns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.errors import NotSafetensors
from finetune_trainer.models.safetensors_header import (
    BITS,
    HEADER_LENGTH_BYTES,
    TensorInfo,
    header_size,
    parse_header,
    read_file_header,
)

# The exponent bits of each floating-point type: all set in infinities and in what is no number.
_EXPONENTS = {"F64": 0x7FF0_0000_0000_0000, "F32": 0x7F80_0000, "F16": 0x7C00, "BF16": 0x7F80}
_UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
_BLOCK_ELEMENTS = 1 << 22


class TensorFile:
    """A safetensors file on disk, mapped into memory.

    Raises:
        NotSafetensors: see :func:`parse_header`.
    """

    def __init__(self, path: Path) -> None:
        self.tensors: Mapping[str, TensorInfo] = read_file_header(path)
        self._bytes = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))

    def bits(self, name: str) -> NDArray[np.unsignedinteger]:
        """The elements of a tensor as unsigned integers of the same width, flat; a view of the file."""
        tensor = self.tensors[name]
        return self._bytes[tensor.begin : tensor.end].view(_UNSIGNED[BITS[tensor.dtype]])

    def is_finite(self, name: str) -> bool:
        """Whether a tensor holds neither NaN nor infinity; integers always do not."""
        dtype = self.tensors[name].dtype
        return all(_finite(block, dtype) for block in self._blocks(name))

    def is_zero(self, name: str) -> bool:
        """Whether every element of a tensor is zero, of either sign."""
        dtype = self.tensors[name].dtype
        return all(_zero(block, dtype) for block in self._blocks(name))

    def _blocks(self, name: str) -> Iterator[NDArray[np.unsignedinteger]]:
        bits = self.bits(name)
        return (bits[start : start + _BLOCK_ELEMENTS] for start in range(0, len(bits), _BLOCK_ELEMENTS))


def _finite(bits: NDArray[np.unsignedinteger], dtype: str) -> bool:
    exponent = _EXPONENTS.get(dtype)
    return exponent is None or not bool(((bits & exponent) == exponent).any())


def _zero(bits: NDArray[np.unsignedinteger], dtype: str) -> bool:
    magnitude = (1 << (BITS[dtype] - 1)) - 1
    return not bool((bits & magnitude).any())


class TensorScan:
    """What the tensors of a safetensors file are like, seen while the file passes by in pieces of any size."""

    def __init__(self, size: int) -> None:
        """``size`` is that of the file in bytes."""
        self._size, self._at = size, 0
        self._start = bytearray()
        self._seen: list[SeenTensor] | None = None
        self._passed = 0
        self._error: NotSafetensors | None = None

    def feed(self, content: bytes) -> None:
        """Takes the next bytes."""
        if self._error:
            return
        if self._seen is None:
            self._start += content
            try:
                self._read_header()
            except NotSafetensors as error:
                self._error = error
        else:
            self._look(memoryview(content))

    def tensors(self) -> dict[str, SeenTensor]:
        """What was seen, by name, when the file has passed.

        Raises:
            NotSafetensors: see :func:`parse_header`; also when the file ended too early.
        """
        if self._error:
            raise self._error
        if self._seen is None or self._at != self._size:
            raise NotSafetensors("it ends too early")
        return {tensor.name: tensor for tensor in self._seen}

    def _read_header(self) -> None:
        if len(self._start) < HEADER_LENGTH_BYTES:
            return
        end = HEADER_LENGTH_BYTES + header_size(bytes(self._start[:HEADER_LENGTH_BYTES]))
        if end > self._size:
            raise NotSafetensors("it is shorter than its header")
        if len(self._start) < end:
            return
        found = parse_header(bytes(self._start[HEADER_LENGTH_BYTES:end]), self._size)
        self._seen = sorted((SeenTensor(name, info) for name, info in found.items()), key=lambda one: one.info.begin)
        self._at, rest = end, memoryview(bytes(self._start[end:]))
        self._look(rest)

    def _look(self, content: memoryview) -> None:
        assert self._seen is not None
        start, self._at = self._at, self._at + len(content)
        while self._passed < len(self._seen) and self._seen[self._passed].info.end <= start:
            self._passed += 1
        for tensor in self._seen[self._passed :]:
            if tensor.info.begin >= self._at:
                return
            tensor.look(content[max(0, tensor.info.begin - start) : max(0, tensor.info.end - start)])


class SeenTensor:
    """One tensor of a :class:`TensorScan`.

    Attributes:
        finite: whether it holds neither NaN nor infinity.
        zero: whether every element is zero, of either sign.
    """

    def __init__(self, name: str, info: TensorInfo) -> None:
        self.name, self.info = name, info
        self.finite = self.zero = True
        self._split = b""

    def look(self, content: memoryview) -> None:
        """Takes the next bytes, which may end within an element."""
        bits = BITS[self.info.dtype]
        joined = self._split + content if self._split else content
        whole = len(joined) - len(joined) % (bits // 8)
        elements = np.frombuffer(joined[:whole], dtype=_UNSIGNED[bits])
        self.finite = self.finite and _finite(elements, self.info.dtype)
        self.zero = self.zero and _zero(elements, self.info.dtype)
        self._split = bytes(joined[whole:])
