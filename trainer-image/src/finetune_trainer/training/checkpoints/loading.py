"""Reads a checkpoint: every byte is verified before a value of it is used, and nothing is ever unpickled."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from finetune_api.uris import S3Location
from finetune_trainer.storage.checksums import block_sum
from finetune_trainer.storage.interface import ObjectStore
from finetune_trainer.training.checkpoints.format import BLOCK_BYTES, RANDOM, Manifest, Part, StoredFile, Vector
from finetune_trainer.training.checkpoints.slicing import (
    Copy,
    Incompatible,
    Index,
    blocks_of,
    copies_for,
    index_of,
    sliceable,
    verified_by,
)
from finetune_trainer.training.checkpoints.snapshot import HostBuffer, Layout, torch_dtype
from finetune_trainer.training.engine_state import LivePart, numbers

logger = logging.getLogger(__name__)

# Blocks in memory at once: 32 MiB.
_READERS = 4


class Damaged(Exception):
    """A file of the checkpoint is missing, or is not what was written."""


@dataclass(frozen=True)
class Loaded:
    """One process's state, verified and waiting in host memory to be put back."""

    buffer: HostBuffer
    parts: tuple[Part, ...]
    templates: tuple[Part, ...]
    random: Mapping[str, torch.Tensor]
    """Empty when another number of processes wrote the checkpoint."""

    def put_back(self, live: Sequence[LivePart]) -> None:
        """Fills the training's own tensors."""
        for target, part, template in zip(live, self.parts, self.templates, strict=True):
            for vector in part.vectors:
                made = target.create(vector.key, vector.shape, torch_dtype(vector.dtype))
                made.view(-1).copy_(self.buffer.vector(vector))
            target.restore(template.scalars, template.numbers, template.options)


class Loader:
    """Reads one committed checkpoint for one process."""

    def __init__(self, store: ObjectStore, folder: S3Location, manifest: Manifest, rank: int, world_size: int) -> None:
        self._store, self._folder, self._manifest = store, folder, manifest
        self._rank, self._world_size = rank, world_size

    @property
    def _same_world(self) -> bool:
        return self._manifest.world_size == self._world_size

    def load(self, live: Sequence[LivePart]) -> Loaded:
        """Reads and verifies what this process needs.

        Raises:
            Damaged: see there.
            Incompatible: it holds other weights than this training has.
            StorageError: the store failed.
        """
        for shard in self._manifest.shards:
            # Before memory is allocated by what it says.
            check_size(self._store, self._folder, shard.file)
        templates = tuple(self._template(position, part) for position, part in enumerate(live))
        _check_options(live, templates)
        stored_random = self._manifest.shards[self._rank].random if self._same_world else ()
        parts, random, size = _own_layout(live, templates, stored_random)
        index = index_of(self._manifest.shards)
        pairs = list(zip(parts, templates, strict=True))
        copies = [copy for part, template in pairs for copy in self._copies(part, template, index)]
        copies += [
            Copy(self._rank, stored.begin, mine.begin, mine.length)
            for stored, mine in zip(stored_random, random, strict=True)
        ]
        buffer = HostBuffer(size, pinned=False)
        self._fill(buffer, copies)
        return Loaded(buffer, parts, templates, {vector.key: buffer.vector(vector) for vector in random})

    def history(self) -> bytes:
        """The metrics so far, as they were saved."""
        return read_verified(self._store, self._folder, self._manifest.history)

    def _template(self, position: int, part: LivePart) -> Part:
        """A stored partition, the same one if there is, else one with the same parameter: its vectors and numbers are
        those that are needed."""
        own = self._manifest.shards[self._rank].parts[position : position + 1] if self._same_world else ()
        if own and part.slices == own[0].slices:
            return own[0]
        stored_parts = [stored for shard in self._manifest.shards for stored in shard.parts]
        same = next((stored for stored in stored_parts if part.slices and stored.slices == part.slices), None)
        if same is not None:
            return same
        name = part.slices[0].parameter if part.slices else None
        for stored in stored_parts:
            if name is None or any(item.parameter == name for item in stored.slices):
                return stored
        raise Incompatible(f"it does not hold {name}")

    def _copies(self, part: Part, template: Part, index: Index) -> list[Copy]:
        whole = [
            (mine, stored)
            for mine, stored in zip(part.vectors, template.vectors, strict=True)
            if not sliceable(template, stored)
        ]
        if whole and template.slices != part.slices:
            raise Incompatible(
                f"the optimizer's {whole[0][0].key} cannot be shared out anew among {self._world_size} processes"
            )
        holder = next(shard.rank for shard in self._manifest.shards if any(one is template for one in shard.parts))
        copies = [Copy(holder, stored.begin, mine.begin, mine.length) for mine, stored in whole]
        return copies + copies_for(part, index)

    def _fill(self, buffer: HostBuffer, copies: Sequence[Copy]) -> None:
        blocks = blocks_of(copies)
        needed = blocks.keys() | verified_by(self._rank, self._world_size, self._manifest.shards)
        files = {shard.rank: shard.file for shard in self._manifest.shards}
        target = buffer.view

        def fetch(place: tuple[int, int]) -> None:
            rank, block = place
            content = read_block(self._store, self._folder, files[rank], block)
            for copy in blocks.get(place, ()):
                target[copy.target : copy.target + copy.length] = content[copy.source : copy.source + copy.length]

        with ThreadPoolExecutor(_READERS, thread_name_prefix="checkpoint") as pool:
            # The first error ends it.
            for _ in pool.map(fetch, sorted(needed)):
                pass


def _check_options(live: Sequence[LivePart], templates: Sequence[Part]) -> None:
    for part, template in zip(live, templates, strict=True):
        if foreign := sorted(template.options.keys() - numbers(part.options).keys()):
            raise Incompatible(f"it has the option {foreign[0]}, which this optimizer has not")


def _own_layout(
    live: Sequence[LivePart], templates: Sequence[Part], stored_random: Sequence[Vector]
) -> tuple[tuple[Part, ...], tuple[Vector, ...], int]:
    """Places in the own buffer: of each partition, of the random state, and the buffer's size in bytes."""
    layout = Layout()
    for position, (part, template) in enumerate(zip(live, templates, strict=True)):
        for vector in template.vectors:
            own = (part.weights.numel(),) if sliceable(template, vector) else vector.shape
            layout.add(f"{position}.{vector.key}", vector.key, vector.dtype, own)
    for vector in stored_random:
        layout.add(f"{RANDOM}.{vector.key}", vector.key, vector.dtype, vector.shape)
    placed, size = layout.place()
    parts = tuple(
        Part(
            elements=part.weights.numel(),
            slices=part.slices,
            vectors=tuple(placed[f"{position}.{vector.key}"] for vector in template.vectors),
        )
        for position, (part, template) in enumerate(zip(live, templates, strict=True))
    )
    return parts, tuple(placed[f"{RANDOM}.{vector.key}"] for vector in stored_random), size


def check_size(store: ObjectStore, folder: S3Location, file: StoredFile) -> None:
    """Raises Damaged unless a file is there with the size that was committed."""
    found = store.stat(folder.child(file.name))
    if found is None:
        raise Damaged(f"{file.name} is missing")
    if found.size != file.size:
        raise Damaged(f"{file.name} has {found.size} bytes instead of {file.size}")


def read_block(store: ObjectStore, folder: S3Location, file: StoredFile, block: int) -> memoryview:
    """Reads one block and verifies it."""
    start = block * BLOCK_BYTES
    content = memoryview(bytearray(min(BLOCK_BYTES, file.size - start)))
    store.read_into(folder.child(file.name), start, content)
    if block_sum(content) != file.sums[block]:
        raise Damaged(f"{file.name} has another checksum at byte {start}")
    return content


def read_verified(store: ObjectStore, folder: S3Location, file: StoredFile) -> bytes:
    """Reads a small file whole and verifies it."""
    check_size(store, folder, file)
    return b"".join(read_block(store, folder, file, block) for block in range(len(file.sums)))
