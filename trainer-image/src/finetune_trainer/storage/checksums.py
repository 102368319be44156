"""Checksums of blocks of data, and of whole objects as S3 keeps them."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable


def block_sum(content: memoryview) -> str:
    """CRC-32 of some bytes, in hexadecimal."""
    return f"{zlib.crc32(content):08x}"


def block_sums(content: memoryview, block_bytes: int) -> tuple[str, ...]:
    """Checksums of each block; the last one may be shorter."""
    return tuple(block_sum(content[start : start + block_bytes]) for start in range(0, len(content), block_bytes))


def crc64(content: bytes | memoryview, before: int = 0) -> int:
    """CRC-64/NVME, which S3 keeps of whole objects; ``before`` is that of what comes before.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
    """
    from awscrt import checksums

    return int(checksums.crc64nvme(content, before))


def joined_crc64(pieces: Iterable[tuple[int, int]]) -> int:
    """CRC-64/NVME of content from those of its pieces, each with its length in bytes."""
    from awscrt import checksums

    whole = 0
    for piece, length in pieces:
        whole = int(checksums.combine_crc64nvme(whole, piece, length))
    return whole


def wire_crc64(value: int) -> str:
    """As headers have it."""
    return base64.b64encode(value.to_bytes(8, "big")).decode()
