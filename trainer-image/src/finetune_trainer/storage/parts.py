"""Objects that are sent as they are made: cut into parts of one size, and gone on with where another process died.

The same content gives the same parts. So what a process that was killed has sent of an object is found again by
ListParts, part by part, and only the rest is sent.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from finetune_trainer.storage.checksums import crc64, wire_crc64
from finetune_trainer.storage.ranges import AT_ONCE, part_bytes, ranges
from finetune_trainer.storage.s3client import refusals
from finetune_trainer.storage.s3errors import StreamFailed

logger = logging.getLogger(__name__)


class Sender(Protocol):
    """Sends the parts of one object, several at a time."""

    def send(self, part: memoryview) -> None:
        """Takes the next part, which must not change any more."""

    def finish(self) -> None:
        """Makes the object of the parts; StreamFailed when the store refuses one of them, or all."""

    def leave(self) -> None:
        """Ends without an object. What was sent stays at the store, for another process to go on with."""


class Parted:
    """Cuts what is written into parts, and sums it up.

    Attributes:
        written: bytes so far.
        crc: CRC-64/NVME of all parts that were sent.
    """

    def __init__(self, sender: Sender, size: int) -> None:
        self.written = self.crc = 0
        self._sender, self._bytes = sender, part_bytes(size)
        self._part, self._filled = bytearray(self._bytes), 0

    def write(self, content: bytes | memoryview, /) -> int:
        view = memoryview(content).cast("B")
        for start in range(0, len(view), self._bytes):
            self._fill(view[start : start + self._bytes])
        return len(view)

    def _fill(self, content: memoryview) -> None:
        """Takes at most as much as one part holds."""
        now = min(len(content), self._bytes - self._filled)
        for piece in (content[:now], content[now:]):
            self._part[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            self.written += len(piece)
            if self._filled == self._bytes:
                self.flush()

    def flush(self) -> None:
        """Sends what is there as a part."""
        if not self._filled:
            return
        part = memoryview(self._part)[: self._filled]
        self._part, self._filled = bytearray(self._bytes), 0
        self.crc = crc64(part, self.crc)
        self._sender.send(part)


@dataclass(frozen=True)
class StoredPart:
    """A part as ListParts tells it; not all stores tell its checksum."""

    size: int
    entity_tag: str
    checksum: str | None


@dataclass(frozen=True)
class Unfinished:
    """An upload that was begun and not ended, with its parts by number."""

    upload: str
    parts: Mapping[int, StoredPart]


def is_part(stored: StoredPart, content: memoryview) -> bool:
    """Whether a part at the store is this content: by its CRC-64/NVME, and where the store tells none by its entity
    tag, which is the MD5 of a part unless the store encrypts with keys of its own; then nothing is known of it."""
    if stored.size != len(content):
        return False
    if stored.checksum:
        return stored.checksum == wire_crc64(crc64(content))
    return stored.entity_tag == hashlib.md5(content, usedforsecurity=False).hexdigest()


def most_advanced(found: Iterable[Unfinished], size: int) -> Unfinished | None:
    """The upload with the most parts, among those that were cut as an object of ``size`` bytes is."""
    lengths = dict(enumerate((length for _, length in ranges(size, part_bytes(size))), start=1))
    fitting = [one for one in found if all(part.size == lengths.get(number) for number, part in one.parts.items())]
    return max((one for one in fitting if one.parts), key=lambda one: len(one.parts), default=None)


def unfinished(client: Any, bucket: str, key: str, upload: str) -> Unfinished:
    """What the store has of an upload; nothing where it does not tell, as without the right to list parts."""
    pages = client.get_paginator("list_parts").paginate(Bucket=bucket, Key=key, UploadId=upload)
    try:
        with refusals():
            parts = {
                entry["PartNumber"]: StoredPart(entry["Size"], entry["ETag"].strip('"'), entry.get("ChecksumCRC64NVME"))
                for page in pages
                for entry in page.get("Parts", ())
            }
    except StreamFailed as refused:
        logger.warning("the parts of an upload of s3://%s/%s are not told: %s", bucket, key, refused)
        return Unfinished(upload, {})
    return Unfinished(upload, parts)


class GoingOn:
    """Goes on with an upload that another process began: sends the parts that the store has not, or has otherwise."""

    def __init__(self, client: Any, place: Mapping[str, str], begun: Unfinished, checksums: bool) -> None:
        """``place`` is bucket and key, as botocore names them."""
        self._client, self._begun, self._checksums = client, begun, checksums
        self._place = {**place, "UploadId": begun.upload}
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="upload")
        self._parts: list[Future[dict[str, Any]]] = []

    def send(self, part: memoryview) -> None:
        if len(self._parts) >= AT_ONCE:
            with refusals():
                self._parts[-AT_ONCE].result()
        self._parts.append(self._pool.submit(self._sent, len(self._parts) + 1, part))

    def _sent(self, number: int, part: memoryview) -> dict[str, Any]:
        """The part as the completion of the upload names it."""
        there = self._begun.parts.get(number)
        if there and is_part(there, part):
            return {"PartNumber": number, "ETag": f'"{there.entity_tag}"'}
        checksum = {"ChecksumCRC64NVME": wire_crc64(crc64(part))} if self._checksums else {}
        answer = self._client.upload_part(**self._place, PartNumber=number, Body=bytes(part), **checksum)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def finish(self) -> None:
        with self._pool, refusals():
            parts = [part.result() for part in self._parts]
            self._client.complete_multipart_upload(**self._place, MultipartUpload={"Parts": parts})

    def leave(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
