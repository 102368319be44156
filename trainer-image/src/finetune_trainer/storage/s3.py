"""S3-compatible storage.

Small objects and everything but content go through botocore, large ones through obstore. Every error of theirs leaves
as a :class:`TrainerError` in words.
"""

from __future__ import annotations

import functools
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.parsers import ResponseParserError

from finetune_api.plan import StoreAccess
from finetune_api.uris import S3Location
from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.storage.checksums import crc64, joined_crc64, wire_crc64
from finetune_trainer.storage.interface import CHUNK_BYTES, StoredObject, StoreFields, Writer, check_written, variable
from finetune_trainer.storage.parts import GoingOn, Parted, Sender, most_advanced, unfinished
from finetune_trainer.storage.ranges import PIECE_BYTES
from finetune_trainer.storage.s3client import Client, Connection, answer_of, client_of, in_words
from finetune_trainer.storage.s3errors import EXISTS, NOT_FOUND, StreamFailed, missing_credentials, refusal, unreachable

if TYPE_CHECKING:
    from finetune_trainer.storage.streams import Streams

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")
_KEY_PAIR = ("aws_access_key_id", "aws_secret_access_key")
# How often something is read that arrives damaged, cut short or not at all.
_READS = 5
# How often a large object is read whose sum is wrong in the end.
_DOWNLOADS = 3
_BROKEN_ANSWERS = (
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseParserError,
    ResponseStreamingError,
)
_DAMAGED = "read it again; if that does not help, write the object again"


class S3Store:
    """An S3-compatible store; see :class:`finetune_trainer.storage.interface.ObjectStore`."""

    def __init__(self, access: StoreAccess, environment: Mapping[str, str], fields: StoreFields) -> None:
        self._fields = fields
        region = variable(access, environment, "AWS_REGION") or variable(access, environment, "AWS_DEFAULT_REGION")
        known = {name: variable(access, environment, name.upper()) for name in (*_KEY_PAIR, "aws_session_token")}
        absent = [name.upper() for name in _KEY_PAIR if not known[name]]
        if absent and access.environment_prefix:
            raise missing_credentials(fields, f"the Secret has no {' and no '.join(absent)}")
        self._connection = Connection(
            endpoint=access.endpoint_url or variable(access, environment, "AWS_ENDPOINT_URL"),
            region=access.region or region,
            style=access.addressing_style,
            checksum=access.checksum,
            credentials=() if absent else tuple((name, value) for name, value in known.items() if value),
        )

    @property
    def _shared(self) -> Client:
        return client_of(self._connection)

    @property
    def _client(self) -> Any:
        try:
            return self._shared.s3
        except ValueError as error:
            raise UserError(str(error), f"correct {self._fields.access}.endpointURL") from error

    def _streams(self, location: S3Location) -> Streams:
        # Imported here: small objects need none of it, and prepare often has to do with small objects only.
        from finetune_trainer.storage.streams import Streams

        self._client  # noqa: B018 - an endpoint that is no URL is told here
        return Streams(self._shared, location.bucket)

    def stat(self, location: S3Location) -> StoredObject | None:
        with self._words(location):
            head = self._head(location)
            return StoredObject(location, head["ContentLength"], head["ETag"].strip('"')) if head else None

    def _head(self, location: S3Location) -> Mapping[str, Any] | None:
        place = {"Bucket": location.bucket, "Key": location.key}
        mode = {"ChecksumMode": "ENABLED"} if self._shared.checksums else {}
        try:
            head: Mapping[str, Any] = self._client.head_object(**place, **mode)
            return head
        except ClientError as error:
            if answer_of(error).code in NOT_FOUND:
                return None
            # An answer to HEAD has no body and so no reason; the same as GET says what is wrong.
            self._client.get_object(**place)["Body"].close()
            raise

    def objects(self, prefix: S3Location) -> Iterator[StoredObject]:
        folder = f"{prefix.key}/" if prefix.key else ""
        with self._words(prefix):
            for entry in self._listed("list_objects_v2", "Contents", Bucket=prefix.bucket, Prefix=folder):
                # A key that ends in a slash is how consoles draw a folder.
                if not entry["Key"].endswith("/"):
                    found = S3Location(prefix.bucket, entry["Key"])
                    yield StoredObject(found, entry["Size"], entry["ETag"].strip('"'))

    def _listed(self, operation: str, entries: str, **request: str) -> Iterator[Mapping[str, Any]]:
        pages = iter(self._client.get_paginator(operation).paginate(**request))
        while page := next(pages, None):
            yield from page.get(entries, ())

    def chunks(self, location: S3Location) -> Iterator[bytes]:
        for _, piece in self._pieces(location):
            view = memoryview(piece)
            for start in range(0, len(view), CHUNK_BYTES):
                yield bytes(view[start : start + CHUNK_BYTES])

    def _pieces(self, location: S3Location) -> Iterator[tuple[int, Any]]:
        """The content in order, each piece with its start; after the last one StorageError if the sum is another."""
        with self._words(location):
            head = self._head(location)
            if head is None or head["ContentLength"] < PIECE_BYTES:
                yield 0, self.read(location)
                return
            sums = []
            for start, piece in self._streams(location).pieces(
                location.key, head["ContentLength"], head["ETag"].strip('"')
            ):
                if "ChecksumCRC64NVME" in head:
                    sums.append((crc64(memoryview(piece)), len(piece)))
                yield start, piece
            if sums and wire_crc64(joined_crc64(sums)) != head["ChecksumCRC64NVME"]:
                raise StorageError(f"{location} was read with another checksum than the store has", _DAMAGED)

    def read(self, location: S3Location, start: int = 0, length: int | None = None) -> bytes:
        end = "" if length is None else start + length - 1
        span = {} if start == 0 and length is None else {"Range": f"bytes={start}-{end}"}

        def get() -> bytes:
            answer = self._client.get_object(Bucket=location.bucket, Key=location.key, **span)
            content: bytes = answer["Body"].read()
            return content

        with self._words(location):
            return _repeated(get)

    def download(self, location: S3Location, path: Path) -> None:
        for left in reversed(range(_DOWNLOADS)):
            try:
                with path.open("wb") as file:
                    for _, piece in self._pieces(location):
                        file.write(piece)
                return
            except StorageError as error:
                # What was read wrong may be right the next time; everything else was tried often enough.
                if not left or error.remedy != _DAMAGED:
                    raise

    def upload(self, path: Path, location: S3Location) -> None:
        with path.open("rb") as source, self.writing(location, path.stat().st_size) as target:
            while content := source.read(CHUNK_BYTES):
                target.write(content)

    def put(self, location: S3Location, content: bytes) -> None:
        with self._words(location):
            self._client.put_object(**self._small(location, content))

    def put_new(self, location: S3Location, content: bytes) -> bool:
        with self._words(location):
            try:
                self._client.put_object(**self._small(location, content), IfNoneMatch="*")
            except ClientError as error:
                if answer_of(error).code in EXISTS:
                    # An answer that was lost: what is there is what was sent a moment ago.
                    return self.read(location) == content
                raise
        return True

    def _small(self, location: S3Location, content: bytes) -> dict[str, Any]:
        checksum = {"ChecksumCRC64NVME": wire_crc64(crc64(content))} if self._shared.checksums else {}
        return {"Bucket": location.bucket, "Key": location.key, "Body": content, **checksum}

    def write(self, location: S3Location, content: memoryview) -> None:
        if len(content) < PIECE_BYTES:
            self.put(location, bytes(content))
            return
        # Summed up beside the upload, which leaves Python alone.
        with self._words(location), ThreadPoolExecutor(1, thread_name_prefix="sum") as pool:
            summed = pool.submit(crc64, content)
            try:
                self._settle(
                    location, len(content), lambda: self._streams(location).upload(location.key, content), summed.result
                )
            finally:
                # Where the answer to the first request was lost, a second upload was begun.
                self._abort_all(location.bucket, location.key)

    @contextmanager
    def writing(self, location: S3Location, size: int) -> Iterator[Writer]:
        if size < PIECE_BYTES:
            small = io.BytesIO()
            yield small
            check_written(location, small.tell(), size)
            self.put(location, small.getvalue())
            return
        with self._words(location):
            sender = self._sender(location, size)
            content = Parted(sender, size)
            try:
                yield content
                content.flush()
                check_written(location, content.written, size)
            except BaseException:
                sender.leave()
                raise
            self._settle(location, size, sender.finish, lambda: content.crc)
            self._abort_all(location.bucket, location.key)

    def _sender(self, location: S3Location, size: int) -> Sender:
        """Goes on with what a process that died has sent of this object, if that was cut in the same way."""
        bucket, key = location.bucket, location.key
        begun = [unfinished(self._client, bucket, key, upload) for upload in self._uploads(bucket, key)]
        best = most_advanced(begun, size)
        for other in begun:
            if other is not best:
                self._abort(bucket, key, other.upload)
        if best is None:
            return self._streams(location).sender(key, size)
        logger.info("going on with an upload of %s that was cut off: %d parts are there", location, len(best.parts))
        return GoingOn(self._client, {"Bucket": bucket, "Key": key}, best, self._shared.checksums)

    def _settle(self, location: S3Location, size: int, end: Callable[[], None], crc: Callable[[], int]) -> None:
        """Ends an upload, and compares what the store says of the whole object."""
        try:
            end()
        except StreamFailed as failed:
            # The upload is no more and the object is there: only the last answer was lost.
            lost = failed.refusal is not None and failed.refusal.code == "NoSuchUpload"
            if not (lost and self._arrived(location, size, crc(), lost=True)):
                raise
            return
        if not self._arrived(location, size, crc(), lost=False):
            raise StorageError(f"{location} arrived with another size or checksum than it has here", _DAMAGED)

    def _arrived(self, location: S3Location, size: int, crc: int, *, lost: bool) -> bool:
        """Whether an object is at the store; ``lost`` where the store has not said that it was written just now."""
        head = self._head(location)
        if head is None or head["ContentLength"] != size:
            return False
        if "ChecksumCRC64NVME" in head:
            return bool(head["ChecksumCRC64NVME"] == wire_crc64(crc))
        # An older object of the same size can be told by its content only.
        return not lost or crc == functools.reduce(lambda before, part: crc64(part, before), self.chunks(location), 0)

    def read_into(self, location: S3Location, start: int, target: memoryview) -> None:
        with self._words(location):
            content = memoryview(self._streams(location).range(location.key, start, len(target)))
        if len(content) != len(target):
            raise StorageError(f"{location} ends before byte {start + len(target)}", "write the object again")
        target[:] = content

    def abort_uploads(self, prefix: S3Location) -> int:
        with self._words(prefix):
            found = list(self._listed_uploads(prefix.bucket, f"{prefix.key}/"))
            for entry in found:
                self._abort(prefix.bucket, entry["Key"], entry["UploadId"])
            return len(found)

    def _listed_uploads(self, bucket: str, beginning: str) -> Iterator[Mapping[str, Any]]:
        return self._listed("list_multipart_uploads", "Uploads", Bucket=bucket, Prefix=beginning)

    def _uploads(self, bucket: str, key: str) -> list[str]:
        """Uploads of one object that were begun and not ended."""
        return [entry["UploadId"] for entry in self._listed_uploads(bucket, key) if entry["Key"] == key]

    def _abort_all(self, bucket: str, key: str) -> None:
        for upload in self._uploads(bucket, key):
            self._abort(bucket, key, upload)

    def _abort(self, bucket: str, key: str, upload: str) -> None:
        try:
            self._client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
        except ClientError as error:
            # Somebody else was faster, or the answer to the first attempt was lost.
            if answer_of(error).code != "NoSuchUpload":
                raise

    def delete(self, location: S3Location) -> None:
        with self._words(location):
            self._client.delete_object(Bucket=location.bucket, Key=location.key)

    @contextmanager
    def _words(self, location: S3Location) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError, ResponseParserError) as error:
            raise in_words(error, location, self._fields, self._connection.endpoint) from error
        except StreamFailed as error:
            endpoint = self._connection.endpoint
            if error.refusal:
                raise refusal(error.refusal, location, self._fields, endpoint) from error
            raise unreachable(str(error), location, self._fields, endpoint) from error


def _repeated(call: Callable[[], _Result]) -> _Result:
    """Repeats a read whose answer began well and ended badly: botocore repeats requests, not answers."""
    for _ in range(_READS - 1):
        try:
            return call()
        except _BROKEN_ANSWERS:
            continue
    return call()
