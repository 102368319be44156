"""A copy of a process's state in host memory, laid out as the safetensors file that is uploaded from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from finetune_trainer.models.safetensors_header import BITS
from finetune_trainer.storage.checksums import block_sums
from finetune_trainer.training.checkpoints.format import (
    BLOCK_BYTES,
    RANDOM,
    Part,
    Shard,
    StoredFile,
    Vector,
    header,
    shard_name,
)
from finetune_trainer.training.engine_state import LivePart, numbers

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def torch_dtype(name: str) -> torch.dtype:
    """PyTorch's type for that of safetensors."""
    return _DTYPES[name]


class Layout:
    """Places for vectors in a file, behind a header whose length depends on their names and shapes only."""

    def __init__(self) -> None:
        self._wanted: dict[str, Vector] = {}

    def add(self, name: str, key: str, dtype: str, shape: tuple[int, ...]) -> None:
        """Asks for a place."""
        length = int(np.prod(shape, dtype=np.int64)) * BITS[dtype] // 8
        self._wanted[name] = Vector(key=key, dtype=dtype, shape=shape, begin=0, length=length)

    def place(self) -> tuple[dict[str, Vector], int]:
        """The vectors with offsets from the start of the file, and the size of the file.

        safetensors wants no gaps, and each vector must be viewed in place: wider types come first.
        """
        end = self.header_size
        placed = {}
        for name, vector in sorted(self._wanted.items(), key=lambda item: -BITS[item[1].dtype]):
            placed[name] = vector.model_copy(update={"begin": end})
            end += vector.length
        return placed, end

    @property
    def header_size(self) -> int:
        """Bytes before the first vector: room for offsets of 20 digits, whatever the vectors' lengths."""
        names = sum(len(name) + len(str(vector.shape)) + 128 for name, vector in self._wanted.items())
        return 64 + names + -names % 64


class HostBuffer:
    """Memory for one process's file; page-locked where a GPU copies into it."""

    def __init__(self, size: int, pinned: bool) -> None:
        self.bytes = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)

    @property
    def view(self) -> memoryview:
        content: Any = self.bytes.numpy()
        return memoryview(content)

    def vector(self, vector: Vector) -> torch.Tensor:
        """A flat view of the memory of one vector, in its type."""
        return self.bytes[vector.begin : vector.begin + vector.length].view(torch_dtype(vector.dtype))


class Snapshot:
    """The saved state of one process, in memory that is allocated once and used for every checkpoint."""

    def __init__(self, rank: int, pinned: bool) -> None:
        self._rank, self._pinned = rank, pinned
        self._buffer: HostBuffer | None = None

    def take(self, parts: Sequence[LivePart], random: Mapping[str, torch.Tensor]) -> Callable[[], Shard]:
        """Copies everything, which is what training waits for.

        Returns:
            What completes the description: it computes the checksums, in whatever thread.
        """
        layout = Layout()
        sources = [part.vectors() for part in parts]
        for index, vectors in enumerate(sources):
            for key, value in vectors.items():
                layout.add(f"{index}.{key}", key, _NAMES[value.dtype], tuple(value.shape))
        for key, value in random.items():
            layout.add(f"{RANDOM}.{key}", key, _NAMES[value.dtype], tuple(value.shape))
        placed, size = layout.place()
        if self._buffer is None or len(self._buffer.bytes) != size:
            self._buffer = HostBuffer(size, self._pinned)
        buffer = self._buffer
        head = header(placed, layout.header_size)
        buffer.view[: len(head)] = head
        for index, vectors in enumerate(sources):
            for key, value in vectors.items():
                buffer.vector(placed[f"{index}.{key}"]).copy_(value.reshape(-1))
        for key, value in random.items():
            buffer.vector(placed[f"{RANDOM}.{key}"]).copy_(value)
        described = tuple(_part(index, part, sources[index], placed) for index, part in enumerate(parts))
        states = tuple(placed[f"{RANDOM}.{key}"] for key in random)

        def describe() -> Shard:
            sums = block_sums(buffer.view, BLOCK_BYTES)
            file = StoredFile(name=shard_name(self._rank), size=size, sums=sums)
            return Shard(rank=self._rank, file=file, parts=described, random=states)

        return describe

    @property
    def content(self) -> memoryview:
        """The file's bytes."""
        assert self._buffer is not None
        return self._buffer.view


def _part(index: int, part: LivePart, vectors: Mapping[str, torch.Tensor], placed: Mapping[str, Vector]) -> Part:
    return Part(
        elements=part.weights.numel(),
        slices=part.slices,
        vectors=tuple(placed[f"{index}.{key}"] for key in vectors),
        scalars=part.scalars(),
        numbers=numbers(part.state),
        options=numbers(part.options),
    )
