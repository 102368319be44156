"""Any layout of flat partitions is filled from any other one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.training.checkpoints.format import BLOCK_BYTES, Part, Shard, Slice, StoredFile, Vector
from finetune_trainer.training.checkpoints.slicing import (
    Copy,
    Incompatible,
    blocks_of,
    copies_for,
    index_of,
    verified_by,
)

WIDTH = 4


def partition(sizes: list[int], ranks: int, padding: int = 0) -> list[Part]:
    """Parameters p0, p1, ... laid end to end and cut into equal parts, as ZeRO stages 1 and 2 do."""
    total = sum(sizes) + padding
    width = -(-total // ranks)
    return [_part(sizes, rank * width, width) for rank in range(ranks)]


def _part(sizes: list[int], first: int, width: int) -> Part:
    slices, begin = [], 0
    for number, size in enumerate(sizes):
        start, end = max(begin, first), min(begin + size, first + width)
        if start < end:
            slices.append(Slice(parameter=f"p{number}", start=start - begin, length=end - start, offset=start - first))
        begin += size
    vector = Vector(key="master", dtype="F32", shape=(width,), begin=64, length=width * WIDTH)
    return Part(elements=width, slices=tuple(slices), vectors=(vector,))


def stored_file(rank: int, size: int) -> StoredFile:
    """A file with a sum for each block."""
    return StoredFile(name=f"rank-{rank}", size=size, sums=("",) * -(-size // BLOCK_BYTES))


def shard(rank: int, part: Part) -> Shard:
    return Shard(rank=rank, file=stored_file(rank, 64 + part.elements * WIDTH), parts=(part,))


def content(sizes: list[int], part: Part) -> bytearray:
    """A file whose elements tell which of all the weights they are."""
    firsts = np.concatenate([[0], np.cumsum(sizes)])
    values = np.full(part.elements, -1, dtype=np.int32)
    for item in part.slices:
        first = firsts[int(item.parameter[1:])] + item.start
        values[item.offset : item.offset + item.length] = np.arange(first, first + item.length)
    return bytearray(64) + values.tobytes()


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    before=st.integers(1, 5),
    after=st.integers(1, 5),
    padding=st.integers(0, 7),
)
def test_every_element_arrives(sizes: list[int], before: int, after: int, padding: int) -> None:
    stored = partition(sizes, before, padding)
    files = [content(sizes, part) for part in stored]
    index = index_of(shard(rank, part) for rank, part in enumerate(stored))
    for part in partition(sizes, after):
        buffer = bytearray(64 + part.elements * WIDTH)
        for copy in copies_for(part, index):
            buffer[copy.target : copy.target + copy.length] = files[copy.shard][copy.source : copy.source + copy.length]
        expected = content(sizes, part)
        for item in part.slices:
            begin, end = 64 + item.offset * WIDTH, 64 + (item.offset + item.length) * WIDTH
            assert buffer[begin:end] == expected[begin:end]


def test_missing_elements_are_named() -> None:
    index = index_of([shard(0, _part([10], 0, 6))])
    with pytest.raises(Incompatible, match="master of p0 lacks elements 6 to 10"):
        copies_for(_part([10], 0, 10), index)


def test_another_type_is_refused() -> None:
    part = _part([4], 0, 4)
    other = part.model_copy(update={"vectors": (part.vectors[0].model_copy(update={"dtype": "BF16"}),)})
    with pytest.raises(Incompatible, match="master of p0 is F32 instead of BF16"):
        copies_for(other, index_of([shard(0, part)]))


@given(source=st.integers(0, 3 * BLOCK_BYTES), length=st.integers(0, 3 * BLOCK_BYTES))
def test_blocks_cover_a_copy_exactly(source: int, length: int) -> None:
    blocks = blocks_of([Copy(0, source, 1000, length)])
    pieces = sorted((block * BLOCK_BYTES + piece.source, piece) for (_, block), (piece,) in blocks.items())
    assert sum(piece.length for _, piece in pieces) == length
    for begin, piece in pieces:
        assert begin - source == piece.target - 1000
        assert piece.source + piece.length <= BLOCK_BYTES


@pytest.mark.parametrize(("stored", "ranks"), [(1, 1), (2, 1), (1, 3), (4, 2), (2, 5)])
def test_all_blocks_are_verified_by_somebody(stored: int, ranks: int) -> None:
    shards = [Shard(rank=rank, file=stored_file(rank, rank * BLOCK_BYTES + 1), parts=()) for rank in range(stored)]
    seen = set().union(*(verified_by(rank, ranks, shards) for rank in range(ranks)))
    assert seen == {(rank, block) for rank in range(stored) for block in range(rank + 1)}
