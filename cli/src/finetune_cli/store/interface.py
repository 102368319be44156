"""What the commands need of a store, and where it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from finetune_api.spec import AddressingStyle
from finetune_api.uris import S3Location
from finetune_cli.errors import StoreError

CHUNK_BYTES = 1 << 20


class NotThere(StoreError):
    """There is no such object."""


class Store(Protocol):
    """Objects by location. All raise ``StoreError`` in words, ``NotThere`` for an object that does not exist."""

    def read(self, location: S3Location) -> bytes:
        """A small object as a whole."""
        ...

    def chunks(self, location: S3Location, start: int = 0) -> Iterator[bytes]:
        """An object from a byte on, in pieces of at most ``CHUNK_BYTES``."""
        ...


@dataclass(frozen=True)
class Access:
    """How a store is reached; credentials are those of the user's environment.

    Attributes:
        endpoint: URL of the S3 endpoint; None for AWS_ENDPOINT_URL, else AWS.
        region: region of the bucket; None for that of the environment.
        style: where the bucket is named in a request.
    """

    endpoint: str | None = None
    region: str | None = None
    style: AddressingStyle = AddressingStyle.AUTO
