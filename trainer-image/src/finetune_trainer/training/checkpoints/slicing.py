"""Where each element that a process needs lies in the files of a checkpoint. Pure: layouts in, byte ranges out."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from finetune_trainer.models.safetensors_header import BITS
from finetune_trainer.training.checkpoints.format import BLOCK_BYTES, Part, Shard, Slice, Vector


class Incompatible(Exception):
    """The checkpoint does not hold what this training needs."""


@dataclass(frozen=True)
class Copy:
    """``length`` bytes at ``source`` of the file of rank ``shard`` belong at ``target`` of the own buffer."""

    shard: int
    source: int
    target: int
    length: int


@dataclass(frozen=True)
class _Piece:
    """Elements of one parameter in one stored vector. ``begin`` is where they lie in the file, in bytes."""

    start: int
    length: int
    shard: int
    begin: int
    dtype: str


Index = Mapping[tuple[str, str], Sequence[_Piece]]


def index_of(shards: Iterable[Shard]) -> Index:
    """By vector key and parameter, the stored pieces in order of their first element."""
    pieces: dict[tuple[str, str], list[_Piece]] = defaultdict(list)
    for shard in shards:
        for part in shard.parts:
            for vector in filter(lambda vector: sliceable(part, vector), part.vectors):
                width = BITS[vector.dtype] // 8
                for item in part.slices:
                    begin = vector.begin + item.offset * width
                    piece = _Piece(item.start, item.length, shard.rank, begin, vector.dtype)
                    pieces[vector.key, item.parameter].append(piece)
    return {key: sorted(found, key=lambda piece: piece.start) for key, found in pieces.items()}


def sliceable(part: Part, vector: Vector) -> bool:
    """Whether a vector has one element for each of the partition."""
    return vector.shape == (part.elements,)


def copies_for(part: Part, index: Index) -> list[Copy]:
    """Where the values of one partition come from.

    Raises:
        Incompatible: elements are missing, or stored in another type.
    """
    return [
        copy
        for vector in part.vectors
        if sliceable(part, vector)
        for item in part.slices
        for copy in _cover(vector, item, index.get((vector.key, item.parameter), ()))
    ]


def _cover(vector: Vector, item: Slice, pieces: Sequence[_Piece]) -> Iterable[Copy]:
    width, end = BITS[vector.dtype] // 8, item.start + item.length
    position = item.start
    first = max(0, bisect_right(pieces, position, key=lambda piece: piece.start) - 1)
    for piece in pieces[first:]:
        stop = min(end, piece.start + piece.length)
        if piece.start > position or position >= end:
            break
        if stop <= position:
            continue
        if piece.dtype != vector.dtype:
            raise Incompatible(f"{vector.key} of {item.parameter} is {piece.dtype} instead of {vector.dtype}")
        source = piece.begin + (position - piece.start) * width
        target = vector.begin + (item.offset + position - item.start) * width
        yield Copy(piece.shard, source, target, (stop - position) * width)
        position = stop
    if position < end:
        raise Incompatible(f"{vector.key} of {item.parameter} lacks elements {position} to {end}")


def blocks_of(copies: Iterable[Copy]) -> dict[tuple[int, int], list[Copy]]:
    """By shard and block, the parts of the copies that lie in it, with ``source`` counted from the block's start."""
    blocks: dict[tuple[int, int], list[Copy]] = defaultdict(list)
    for copy in copies:
        done = 0
        while done < copy.length:
            block, inside = divmod(copy.source + done, BLOCK_BYTES)
            length = min(copy.length - done, BLOCK_BYTES - inside)
            blocks[copy.shard, block].append(Copy(copy.shard, inside, copy.target + done, length))
            done += length
    return dict(blocks)


def verified_by(rank: int, world_size: int, shards: Sequence[Shard]) -> set[tuple[int, int]]:
    """Blocks that a process reads though it may need none of their values, so that together all are verified."""
    own = shards[rank::world_size]
    return {(shard.rank, block) for shard in own for block in range(len(shard.file.sums))}
