"""Weights are written tensor by tensor, and read as any other checkpoint."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from finetune_trainer.artifact.shards import plan_shards, shard_names, write_shards
from finetune_trainer.artifact.weights import FolderWeights

WEIGHTS = {"b": torch.arange(12.0).reshape(3, 4), "a": torch.ones(5), "c": torch.full((2, 2), -0.5)}
SHAPES = {name: tuple(value.shape) for name, value in WEIGHTS.items()}


@pytest.mark.parametrize(
    ("sizes", "shards"),
    [
        ({"a": 4, "b": 4, "c": 4}, [["a", "b", "c"]]),
        ({"a": 8, "b": 4, "c": 1}, [["a", "b"], ["c"]]),
        ({"a": 20, "b": 1}, [["a"], ["b"]]),
        ({"a": 1, "b": 20, "c": 1}, [["a"], ["b"], ["c"]]),
        ({}, [[]]),
    ],
)
def test_a_shard_is_as_full_as_it_may_be(sizes: dict[str, int], shards: list[list[str]]) -> None:
    assert plan_shards(sizes, 12) == shards


def test_shards_are_named_as_loaders_expect() -> None:
    assert shard_names(1) == ["model.safetensors"]
    assert shard_names(2) == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_file_holds_a_small_model(tmp_path: Path, dtype: torch.dtype) -> None:
    write_shards(FolderWeights(tmp_path), SHAPES, dtype, WEIGHTS.items())
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == WEIGHTS.keys()
    for name, value in WEIGHTS.items():
        assert torch.equal(found[name], value.to(dtype))


def test_the_index_says_where_each_tensor_is(tmp_path: Path) -> None:
    write_shards(FolderWeights(tmp_path), SHAPES, torch.float32, WEIGHTS.items(), most=50)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    first, second = shard_names(2)
    assert index == {"metadata": {"total_size": 84}, "weight_map": {"a": second, "b": first, "c": second}}
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], WEIGHTS[name])


def test_values_of_any_layout_and_type_are_written_as_they_are(tmp_path: Path) -> None:
    transposed = torch.arange(12.0, dtype=torch.float64).reshape(4, 3).T
    write_shards(FolderWeights(tmp_path), {"t": (3, 4)}, torch.float32, [("t", transposed)])
    assert torch.equal(load_file(tmp_path / "model.safetensors")["t"], transposed.float())


def test_tensors_are_taken_one_at_a_time(tmp_path: Path) -> None:
    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for name, value in WEIGHTS.items():
            made = value.clone()
            known = weakref.ref(made)
            yield name, made
            del made
            assert known() is None, "the one before is still held"

    write_shards(FolderWeights(tmp_path), SHAPES, torch.float32, tensors(), most=50)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"b": WEIGHTS["b"]}, r"nothing came where a of \[5\] was announced"),
        ({"a": WEIGHTS["a"]}, r"a of \[5\] came where b of \[3, 4\] was announced"),
        (WEIGHTS | {"d": torch.ones(1)}, "more tensors came than were announced"),
        (WEIGHTS | {"b": torch.ones(2)}, r"b of \[2\] came where b of \[3, 4\] was announced"),
    ],
)
def test_other_tensors_than_were_announced_are_a_defect(
    tmp_path: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_shards(FolderWeights(tmp_path), SHAPES, torch.float32, tensors.items())
