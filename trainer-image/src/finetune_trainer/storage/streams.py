"""Large objects between memory and an S3-compatible store, by obstore: in parts, several at a time, nothing on disk.

obstore (Rust) sends a part straight from the caller's memory for a fifth of the CPU time that boto3 takes; see
docs/benchmarks.md. Endpoint, region and credentials are botocore's. A part whose connection breaks, or that the store
refuses for now, is sent again alone.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import obstore
from obstore.exceptions import BaseError, GenericError
from obstore.store import S3Store as Bucket

from finetune_trainer.storage import retries
from finetune_trainer.storage.ranges import AT_ONCE, part_bytes, ranges
from finetune_trainer.storage.retries import MOST_ATTEMPTS, Trouble, delay
from finetune_trainer.storage.s3client import CONNECT_SECONDS, READ_SECONDS, Client
from finetune_trainer.storage.s3errors import Refusal, StreamFailed

_Result = TypeVar("_Result")
# For one part, from its first byte to the answer: a connection that stalls is given up.
_REQUEST = timedelta(seconds=60)
# For one part and everything it is sent again.
_ALL_REQUESTS = timedelta(minutes=5)
# In the text of obstore's errors: it has no fields for what the store answered.
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")


@dataclass(frozen=True)
class _Place:
    client: Client
    bucket: str

    def open(self) -> Bucket:
        address, certificates = self.client.address(self.bucket), self.client.certificates
        secure = address.url.startswith("https://")
        return Bucket(
            self.bucket,
            endpoint=address.url,
            region=address.region,
            virtual_hosted_style_request=address.virtual,
            credential_provider=self.client.credentials,  # type: ignore[arg-type]
            config={
                # As botocore does: TLS and a checksum are enough.
                "unsigned_payload": secure and self.client.checksums,
                **({"checksum_algorithm": "crc64nvme"} if self.client.checksums else {}),
            },
            client_options={
                "allow_http": not secure,
                "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                "read_timeout": timedelta(seconds=READ_SECONDS),
                "timeout": _REQUEST,
                **({"root_certificate": certificates} if certificates else {}),
            },
            retry_config={
                "max_retries": MOST_ATTEMPTS - 1,
                "retry_timeout": _ALL_REQUESTS,
                "backoff": {
                    "init_backoff": timedelta(seconds=retries.FIRST_SECONDS),
                    "max_backoff": timedelta(seconds=retries.LONGEST_SECONDS),
                    "base": 2,
                },
            },
        )


_opened: Callable[[_Place], Bucket] = lru_cache(_Place.open)


class Streams:
    """Transfers of one bucket."""

    def __init__(self, client: Client, bucket: str) -> None:
        self._bucket = _opened(_Place(client, bucket))

    def upload(self, key: str, content: memoryview) -> None:
        """Writes an object from memory; it appears when it is whole.

        Raises:
            StreamFailed: nothing appears, and no part is left behind, unless the process or the store died.
        """
        part = part_bytes(len(content))
        # Piece by piece, since of memory as a whole obstore makes two copies.
        pieces = (content[start : start + length] for start, length in ranges(len(content), part))
        with _failures():
            obstore.put(self._bucket, key, pieces, use_multipart=True, chunk_size=part, max_concurrency=AT_ONCE)

    def sender(self, key: str, size: int) -> Sending:
        """For an object of ``size`` bytes whose parts are still to be made."""
        part = part_bytes(size)
        return Sending(obstore.open_writer(self._bucket, key, buffer_size=part, max_concurrency=AT_ONCE))

    def range(self, key: str, start: int, length: int, entity_tag: str | None = None) -> Any:
        """Bytes ``start`` to ``start + length`` of an object as a buffer; fewer where it ends before.

        Raises:
            StreamFailed: also when the object is another than that of ``entity_tag``.
        """
        options: dict[str, Any] = {"range": (start, start + length)}
        if entity_tag:
            options["if_match"] = f'"{entity_tag}"'
        return _repeated(lambda: obstore.get(self._bucket, key, options=options).bytes())  # type: ignore[arg-type]

    def pieces(self, key: str, size: int, entity_tag: str) -> Iterator[tuple[int, Any]]:
        """The content of an object in order, each piece with its start; some are read ahead."""
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="download") as pool:
            waiting: list[tuple[int, Future[Any]]] = []
            for start, length in ranges(size):
                waiting.append((start, pool.submit(self.range, key, start, length, entity_tag)))
                if len(waiting) == AT_ONCE:
                    begun, piece = waiting.pop(0)
                    yield begun, piece.result()
            for begun, piece in waiting:
                yield begun, piece.result()


class Sending:
    """Sends the parts of a new object; see :class:`finetune_trainer.storage.parts.Sender`."""

    def __init__(self, writer: obstore.WritableFile) -> None:
        self._writer: obstore.WritableFile | None = writer

    def send(self, part: memoryview) -> None:
        assert self._writer
        with _failures():
            self._writer.write(part)

    def finish(self) -> None:
        assert self._writer
        with _failures():
            self._writer.close()

    def leave(self) -> None:
        # Closing would make an object of what is there, and aborting would remove it.
        self._writer = None


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    # What fails while an upload is ended leaves obstore as an OSError.
    except (BaseError, OSError) as error:
        raise _described(error) from error


def _described(error: BaseException) -> StreamFailed:
    # What follows is a dump of the library's own structures.
    text = str(error).partition("\n\nDebug source:")[0]
    status, code, message = (pattern.search(text) for pattern in (_STATUS, _CODE, _MESSAGE))
    if status is None:
        return StreamFailed(text, None)
    number = status.group(1)
    answer = Refusal(code.group(1) if code else number, message.group(1) if message else "", int(number))
    return StreamFailed(text, answer)


def _repeated(call: Callable[[], _Result]) -> _Result:
    """Repeats what broke while its answer was read, which obstore does not do by itself."""
    attempts = 0
    while True:
        attempts += 1
        try:
            return call()
        except (BaseError, FileNotFoundError) as error:
            failed = _described(error)
            passing = isinstance(error, GenericError) and failed.refusal is None
            wait = delay(Trouble.BROKEN, attempts, random.random()) if passing else None
            if wait is None:
                raise failed from error
            time.sleep(wait)
