"""Tensors of a safetensors file by memory map, without a framework.

numpy has no bfloat16, so tensors are looked at as bit patterns.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.models.safetensors_header import BITS, TensorInfo, read_file_header

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
        exponent = _EXPONENTS.get(self.tensors[name].dtype)
        if exponent is None:
            return True
        bits = self.bits(name)
        blocks = (bits[start : start + _BLOCK_ELEMENTS] for start in range(0, len(bits), _BLOCK_ELEMENTS))
        return not any(bool(((block & exponent) == exponent).any()) for block in blocks)

    def is_zero(self, name: str) -> bool:
        """Whether every element of a tensor is zero, of either sign."""
        bits = self.bits(name)
        magnitude = (1 << (BITS[self.tensors[name].dtype] - 1)) - 1
        blocks = (bits[start : start + _BLOCK_ELEMENTS] for start in range(0, len(bits), _BLOCK_ELEMENTS))
        return not any(bool((block & magnitude).any()) for block in blocks)
