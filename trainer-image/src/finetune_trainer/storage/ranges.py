"""How large objects are cut into pieces. Pure."""

from __future__ import annotations

from collections.abc import Iterator

# Objects of this size and more are moved in pieces, several at a time.
PIECE_BYTES = 8 << 20
# Pieces under way at once, of one object.
AT_ONCE = 4
# S3 takes 10,000 parts; a few are left for rounding.
_MOST_PARTS = 9_900
_UNIT = 1 << 20


def part_bytes(size: int) -> int:
    """Bytes of one part of an upload: PIECE_BYTES, more only for objects that would take too many of them."""
    least = -(-size // _MOST_PARTS)
    return max(PIECE_BYTES, -(-least // _UNIT) * _UNIT)


def ranges(size: int, piece: int = PIECE_BYTES) -> Iterator[tuple[int, int]]:
    """Start and length of each piece of an object, in order."""
    for start in range(0, size, piece):
        yield start, min(piece, size - start)
