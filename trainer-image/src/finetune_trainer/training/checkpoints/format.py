"""What a checkpoint consists of, in JSON beside the raw values: no code, no pickles, no world size in the layout.

A checkpoint is a folder: ``rank-N.safetensors`` of each process, ``rank-N.json`` that describes it, ``history.jsonl``
with the metrics so far, files to carry along below ``kept/``, and ``COMMITTED``, which repeats all descriptions and is
written last. Without it the rest is the remains of a broken upload. Values are named by parameter and flat range, so
that any world size finds its own part.
"""

from __future__ import annotations

import hashlib
import json
import math
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from finetune_api.base import Document
from finetune_api.results import RunId
from finetune_trainer.models.safetensors_header import BITS

FORMAT = 1
COMMITTED = "COMMITTED"
HISTORY = "history.jsonl"
KEPT = "kept"
# Unit of checksums and of reading: each is verified before any value in it is used.
BLOCK_BYTES = 8 << 20
MASTER = "master"
RANDOM = "random"

Bytes = Annotated[int, Field(ge=0)]
Scalar = int | float | bool
# Whole numbers that fit into a tensor; larger ones are read as fractions.
Number = Annotated[int, Field(ge=-(2**63), lt=2**63)] | float | bool


class Slice(Document):
    """Elements ``start`` to ``start + length`` of a flattened parameter, at ``offset`` of a flat vector."""

    parameter: str
    start: Bytes
    length: Bytes
    offset: Bytes


class Vector(Document):
    """One flat vector in the file: ``begin`` in bytes, ``dtype`` and ``shape`` as safetensors has them."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    begin: Bytes
    length: Annotated[Bytes, Field(description="Bytes.")]


class Part(Document):
    """One flat partition of the master weights with the optimizer's state for it.

    Vectors with as many elements as the partition are sliced like it; others belong to this very partition.
    """

    elements: Bytes
    slices: tuple[Slice, ...]
    vectors: tuple[Vector, ...]
    scalars: dict[str, Number] = Field(default_factory=dict)
    numbers: dict[str, Number] = Field(default_factory=dict)
    options: dict[str, Number] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _slices_lie_in_the_partition(self) -> Self:
        if any(item.offset + item.length > self.elements for item in self.slices):
            raise ValueError("a slice lies outside of its partition")
        keys = [vector.key for vector in self.vectors]
        if len(set(keys)) < len(keys) or MASTER not in keys:
            raise ValueError("not one vector for each key, the master weights among them")
        return self


class StoredFile(Document):
    """An object of the checkpoint. ``sums`` are checksums of its blocks of BLOCK_BYTES, in hexadecimal."""

    # Nothing that leads out of the checkpoint's folder.
    name: Annotated[str, Field(pattern=rf"^({KEPT}/)?[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    size: Bytes
    sums: tuple[str, ...]

    @model_validator(mode="after")
    def _each_block_has_its_sum(self) -> Self:
        if len(self.sums) != -(-self.size // BLOCK_BYTES):
            raise ValueError(f"{self.name} has {len(self.sums)} checksums for {self.size} bytes")
        return self


class Shard(Document):
    """What one process saved."""

    rank: Annotated[int, Field(ge=0)]
    file: StoredFile
    parts: tuple[Part, ...]
    random: tuple[Vector, ...] = ()

    @model_validator(mode="after")
    def _vectors_lie_in_the_file(self) -> Self:
        """Memory is allocated by what is said here."""
        vectors = [*(vector for part in self.parts for vector in part.vectors), *self.random]
        for vector in vectors:
            size = math.prod(vector.shape) * BITS.get(vector.dtype, 0)
            if min(vector.shape, default=0) < 0 or size != 8 * vector.length:
                raise ValueError(f"{vector.key} has another size than its shape says")
            if vector.begin + vector.length > self.file.size:
                raise ValueError(f"{vector.key} lies outside of {self.file.name}")
        placed = sorted(vectors, key=lambda vector: (vector.begin, vector.length))
        if any(one.begin + one.length > other.begin for one, other in pairwise(placed)):
            raise ValueError(f"vectors of {self.file.name} overlap")
        return self


class Manifest(Document):
    """``COMMITTED``: everything that makes the checkpoint whole."""

    format: int = FORMAT
    run_id: Annotated[RunId, Field(alias="runID")]
    step: Annotated[int, Field(ge=0, description="Optimizer steps done; also the position in the data.")]
    world_size: Annotated[int, Field(ge=1)]
    attempt: int
    created: datetime
    shards: tuple[Shard, ...]
    history: StoredFile
    kept: tuple[StoredFile, ...] = ()

    @property
    def files(self) -> tuple[StoredFile, ...]:
        return (*(shard.file for shard in self.shards), self.history, *self.kept)


_Sealed = TypeVar("_Sealed", Shard, Manifest)


class Unsealed(ValueError):
    """A document is not what was written."""


def sealed(document: Document) -> bytes:
    """A document as it is stored: JSON, and in a second line the SHA-256 of it."""
    content = document.to_json().encode()
    return content + b"\n" + hashlib.sha256(content).hexdigest().encode()


def shard_of(content: bytes) -> Shard:
    """The description of a shard. Raises Unsealed."""
    return _unsealed(Shard, content)


def manifest_of(content: bytes) -> Manifest:
    """A manifest. Raises Unsealed."""
    return _unsealed(Manifest, content)


def _unsealed(kind: type[_Sealed], content: bytes) -> _Sealed:
    document, _, seal = content.rpartition(b"\n")
    if hashlib.sha256(document).hexdigest().encode() != seal:
        raise Unsealed("it has another SHA-256 than it says")
    try:
        return kind.model_validate_json(document)
    except ValidationError as error:
        raise Unsealed("it is of another version of the trainer") from error


def shard_name(rank: int) -> str:
    """Name of the file of one process."""
    return f"rank-{rank:05d}.safetensors"


def description_name(rank: int) -> str:
    """Name of the JSON document beside it."""
    return f"rank-{rank:05d}.json"


def folder_name(step: int, writer: str) -> str:
    """Name of a checkpoint's folder: it sorts by step. ``writer`` differs between the gangs that may write one step."""
    return f"step-{step:09d}-{writer}"


def step_of(folder: str) -> int | None:
    """The step in a folder's name, or None when it is no checkpoint's."""
    kind, _, rest = folder.partition("-")
    step = rest.partition("-")[0]
    return int(step) if kind == "step" and step.isdecimal() else None


def header(vectors: dict[str, Vector], size: int) -> bytes:
    """The safetensors header of vectors that begin behind it; padded to ``size`` bytes with its own length."""
    entries: dict[str, Any] = {
        name: {
            "dtype": vector.dtype,
            "shape": list(vector.shape),
            "data_offsets": [vector.begin - size, vector.begin - size + vector.length],
        }
        for name, vector in vectors.items()
    }
    text = json.dumps(entries, separators=(",", ":")).encode()
    return (size - 8).to_bytes(8, "little") + text.ljust(size - 8)
