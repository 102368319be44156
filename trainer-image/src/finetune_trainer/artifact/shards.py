"""Safetensors written tensor by tensor, in shards with an index: no more than one tensor is in memory at a time.

Layout: https://huggingface.co/docs/safetensors; names and index of shards: those of ``save_pretrained``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from finetune_trainer.artifact.weights import Weights
from finetune_trainer.models.modelfiles import WEIGHTS, WEIGHTS_INDEX
from finetune_trainer.storage.interface import Writer

MAX_SHARD_BYTES = 4_000_000_000
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_ALIGNMENT = 8

Shapes = Mapping[str, tuple[int, ...]]


def plan_shards(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """Names of the tensors of each shard, in order: a shard is full when the next tensor would take it beyond ``most``
    bytes. A larger tensor has a shard of its own."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > most:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def shard_names(count: int) -> list[str]:
    """File names of a model's shards."""
    if count == 1:
        return [WEIGHTS]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def write_shards(
    weights: Weights,
    shapes: Shapes,
    dtype: torch.dtype,
    tensors: Iterable[tuple[str, torch.Tensor]],
    most: int = MAX_SHARD_BYTES,
) -> None:
    """Writes a model's weights, and the index if they take several files.

    Args:
        weights: where the files go.
        shapes: of all tensors, in the order in which they come.
        dtype: in which all of them are stored.
        tensors: name and whole value, on any device and of any floating-point type; taken one at a time.
        most: bytes of a shard.

    Raises:
        ValueError: the tensors are not those of ``shapes``, in their order.
    """
    sizes = {name: math.prod(shape) * dtype.itemsize for name, shape in shapes.items()}
    shards = plan_shards(sizes, most)
    files = shard_names(len(shards))
    coming = iter(tensors)
    for file, names in zip(files, shards, strict=True):
        header = _header({name: shapes[name] for name in names}, sizes, dtype)
        with weights.writing(file, len(header) + sum(sizes[name] for name in names)) as output:
            output.write(header)
            for name in names:
                _write_tensor(output, name, shapes[name], dtype, next(coming, None))
    if next(coming, None) is not None:
        raise ValueError("more tensors came than were announced")
    if len(files) > 1:
        places = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(sorted(places.items()))}
        content = (json.dumps(index, indent=2) + "\n").encode()
        with weights.writing(WEIGHTS_INDEX, len(content)) as output:
            output.write(content)


def _header(shapes: Shapes, sizes: Mapping[str, int], dtype: torch.dtype) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + sizes[name]
        entries[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    return len(header).to_bytes(_ALIGNMENT, "little") + header


def _write_tensor(
    output: Writer,
    name: str,
    shape: Sequence[int],
    dtype: torch.dtype,
    found: tuple[str, torch.Tensor] | None,
) -> None:
    if found is None or found[0] != name or tuple(found[1].shape) != tuple(shape):
        what = "nothing" if found is None else f"{found[0]} of {list(found[1].shape)}"
        raise ValueError(f"{what} came where {name} of {list(shape)} was announced")
    value = found[1].detach().to("cpu", dtype).contiguous()
    output.write(value.reshape(-1).view(torch.uint8).numpy().data)
