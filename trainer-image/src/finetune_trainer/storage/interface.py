"""What the trainer needs of object storage: one interface, and the fields of the spec that describe a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from finetune_api.plan import OUTPUT, RunPlan, StoreAccess
from finetune_api.uris import S3Location
from finetune_api.weights import ADAPTER, weight_sources, weights_field

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class StoredObject:
    """One object as its store describes it. ``entity_tag`` changes whenever the content does."""

    location: S3Location
    size: int
    entity_tag: str


class Writer(Protocol):
    """Takes the content of an object or a file in order."""

    def write(self, content: bytes | memoryview, /) -> int:
        """Takes the next bytes, which may change as soon as it returns; gives their number."""


class ObjectStore(Protocol):
    """What the trainer needs of a store.

    Every method raises UserError when the bucket does not exist or access is refused, naming the field to change, and
    StorageError when the store cannot be reached or fails.
    """

    def stat(self, location: S3Location) -> StoredObject | None:
        """The object at exactly this key, or None."""

    def objects(self, prefix: S3Location) -> Iterator[StoredObject]:
        """Objects below ``prefix/`` at any depth, in an order that differs between stores."""

    def chunks(self, location: S3Location) -> Iterator[bytes]:
        """Content in pieces of bounded size; StorageError when there is no such object."""

    def read(self, location: S3Location, start: int = 0, length: int | None = None) -> bytes:
        """``length`` bytes from ``start``, or all of the rest; StorageError when there is no such object."""

    def download(self, location: S3Location, path: Path) -> None:
        """Writes the object to a new file; its folder must exist."""

    def upload(self, path: Path, location: S3Location) -> None:
        """Writes a file of any size, in parts when it is large."""

    def put(self, location: S3Location, content: bytes) -> None:
        """Writes a small object."""

    def put_new(self, location: S3Location, content: bytes) -> bool:
        """Writes a small object unless there is one already; False when there is."""

    def write(self, location: S3Location, content: memoryview) -> None:
        """Writes an object of any size straight from memory, in parts when it is large."""

    def writing(self, location: S3Location, size: int) -> AbstractContextManager[Writer]:
        """For an object of exactly ``size`` bytes that is made piece by piece: it appears, whole, when the block ends
        well. Memory does not grow with the size, and what a process that died had sent of the same is not sent again.

        Raises:
            ValueError: other than ``size`` bytes were written.
        """

    def read_into(self, location: S3Location, start: int, target: memoryview) -> None:
        """Fills ``target`` from ``start`` of an object; StorageError when the object does not reach so far."""

    def abort_uploads(self, prefix: S3Location) -> int:
        """Removes what broken uploads below ``prefix/`` left behind; returns how many there were."""

    def delete(self, location: S3Location) -> None:
        """Deletes an object; nothing happens when there is none."""


def check_written(location: S3Location, found: int, announced: int) -> None:
    """Raises ValueError when other than the announced number of bytes was written."""
    if found != announced:
        raise ValueError(f"{found} bytes were written to {location}, {announced} were announced")


@dataclass(frozen=True)
class StoreFields:
    """Fields of the spec that describe a store, for messages: where it is, and how it is reached."""

    location: str
    access: str


def variable(access: StoreAccess, environment: Mapping[str, str], name: str) -> str | None:
    """A variable of one store's Secret, None when it is empty or not there."""
    return environment.get(f"{access.environment_prefix or ''}{name}") or None


def fields_of(plan: RunPlan, use: str) -> StoreFields:
    """Names of the fields behind one use of a store, such as ``output``, ``model`` or ``train-0``."""
    if use == OUTPUT:
        return StoreFields("spec.output.destination", "spec.output.s3")
    if use == ADAPTER and plan.spec.method.initial_adapter is None:
        return StoreFields("spec.model.source", "spec.model.s3")
    weights = weight_sources(plan.spec)
    if use in weights:
        field = weights_field(plan.spec, use)
        return StoreFields(f"{field}.source", f"{field}.s3" if weights[use].s3 else "spec.output.s3")
    split, _, index = use.rpartition("-")
    dataset = plan.spec.dataset
    held_out = (dataset.validation.sources if dataset.validation else None) or ()
    sources, path = (dataset.train, "train") if split == "train" else (held_out, "validation.sources")
    field = f"spec.dataset.{path}[{index}]"
    return StoreFields(f"{field}.source", f"{field}.s3" if sources[int(index)].s3 else "spec.output.s3")
