"""Checksums of blocks of data."""

from __future__ import annotations

import zlib


def block_sum(content: memoryview) -> str:
    """CRC-32 of some bytes, in hexadecimal."""
    return f"{zlib.crc32(content):08x}"


def block_sums(content: memoryview, block_bytes: int) -> tuple[str, ...]:
    """Checksums of each block; the last one may be shorter."""
    return tuple(block_sum(content[start : start + block_bytes]) for start in range(0, len(content), block_bytes))
