"""How content is cut into parts, and which parts of a broken upload count."""

from __future__ import annotations

import hashlib
import os

import pytest

from finetune_trainer.storage.checksums import crc64, wire_crc64
from finetune_trainer.storage.parts import Parted, StoredPart, Unfinished, is_part, most_advanced
from finetune_trainer.storage.ranges import PIECE_BYTES

SIZE = 2 * PIECE_BYTES + 5
CONTENT = memoryview(b"what a process that died had sent")


class Kept:
    """Keeps the parts that it is given, as they were and as they are."""

    def __init__(self) -> None:
        self.parts: list[memoryview] = []
        self.digests: list[bytes] = []

    def send(self, part: memoryview) -> None:
        self.parts.append(part)
        self.digests.append(hashlib.sha256(part).digest())

    def finish(self) -> None:
        raise AssertionError("cutting does not finish")

    leave = finish


@pytest.mark.parametrize("step", [1 << 20, PIECE_BYTES, PIECE_BYTES + 1, SIZE])
def test_parts_do_not_depend_on_how_content_is_written(step: int) -> None:
    content, kept = os.urandom(SIZE), Kept()
    parted = Parted(kept, SIZE)
    for start in range(0, SIZE, step):
        assert parted.write(content[start : start + step]) == len(content[start : start + step])
    parted.flush()
    assert b"".join(kept.parts) == content
    assert [len(part) for part in kept.parts] == [PIECE_BYTES, PIECE_BYTES, 5]
    assert (parted.written, parted.crc) == (SIZE, crc64(content))
    # Parts that are still under way are not written over.
    assert [hashlib.sha256(part).digest() for part in kept.parts] == kept.digests


def stored(size: int = len(CONTENT), tag: str = "", checksum: str | None = None) -> StoredPart:
    return StoredPart(size, tag, checksum)


MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
SUM = wire_crc64(crc64(CONTENT))


@pytest.mark.parametrize(
    ("part", "same"),
    [
        (stored(checksum=SUM), True),
        (stored(tag=MD5), True),
        (stored(tag="of a store that encrypts", checksum=SUM), True),
        (stored(tag=MD5, checksum=wire_crc64(1)), False),
        (stored(tag="of a store that encrypts"), False),
        (stored(tag=hashlib.md5(b"other", usedforsecurity=False).hexdigest()), False),
        (stored(size=1, tag=MD5, checksum=SUM), False),
    ],
)
def test_a_part_counts_only_when_its_sum_is_that_of_the_content(part: StoredPart, same: bool) -> None:
    assert is_part(part, CONTENT) is same


def begun(upload: str, **sizes: int) -> Unfinished:
    return Unfinished(upload, {int(number[1:]): stored(size) for number, size in sizes.items()})


WHOLE, LAST = PIECE_BYTES, 5


@pytest.mark.parametrize(
    ("found", "best"),
    [
        ([], None),
        ([begun("empty")], None),
        ([begun("one", p1=WHOLE), begun("two", p2=WHOLE, p3=LAST)], "two"),
        ([begun("cut otherwise", p1=WHOLE // 2, p2=WHOLE)], None),
        ([begun("ends otherwise", p3=LAST + 1), begun("empty")], None),
        ([begun("too many", p4=WHOLE)], None),
    ],
)
def test_the_upload_with_the_most_parts_is_gone_on_with(found: list[Unfinished], best: str | None) -> None:
    chosen = most_advanced(found, SIZE)
    assert (chosen.upload if chosen else None) == best
