"""Files from a store or a hub that were made to do harm are refused in words, and allocate nothing that they say."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import NotSafetensors
from finetune_trainer.models.safetensors_header import read_file_header
from finetune_trainer.training.checkpoints.format import Unsealed, manifest_of

RUN_ID = "r-" + "0" * 20
UNREADABLE = "its header is not readable"


def headed(header: bytes, content: bytes = b"", length: int | None = None) -> bytes:
    """A file with this header."""
    return (len(header) if length is None else length).to_bytes(8, "little") + header + content


def tensor(**fields: Any) -> bytes:
    """A file with a header of one tensor of eight bytes, with other fields."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | fields
    return headed(json.dumps({"weight": entry}).encode(), bytes(8))


def tensors(*offsets: list[int]) -> bytes:
    """A file with tensors a, b, … of eight bytes each at these offsets."""
    header = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": [*place]}
        for name, place in zip("ab", offsets, strict=True)
    }
    return headed(json.dumps(header).encode(), bytes(max(end for _, end in offsets)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it does not begin with the length of a header"),
        (b"\x80\x04\x95\x10\x00\x00\x00\x00", "it does not begin with the length of a header"),
        (headed(b"{}", length=2**63), "it does not begin with the length of a header"),
        (headed(b"{}", length=1_000), "it is shorter than its header"),
        (headed(b"[" * 200_000), UNREADABLE),
        (headed(b'{"a":' * 200_000), UNREADABLE),
        (headed(b"[]"), UNREADABLE),
        (headed(b"\xff\xfe{}"), UNREADABLE),
        (tensor(data_offsets=[0, 2**62]), "its header describes"),
        (tensor(data_offsets=[0]), UNREADABLE),
        (tensor(shape=[2**40]), "the tensor weight has another size than its shape says"),
        (tensor(shape=[3]), "the tensor weight has another size than its shape says"),
        (tensor(shape=[-2, -1]), UNREADABLE),
        (tensor(shape=[2.0]), UNREADABLE),
        (tensor(shape="ab"), UNREADABLE),
        (tensor(shape=[True, 2]), UNREADABLE),
        (tensor(shape=float("nan")), UNREADABLE),
        (tensor(dtype=["F32"]), UNREADABLE),
        (tensor(dtype="X99", data_offsets=[-8, 8]), UNREADABLE),
        (tensor(data_offsets=["9" * 5000, 8]), UNREADABLE),
        (tensors([0, 8], [0, 8]), "the tensor b does not begin where the one before it ends"),
        (tensors([0, 8], [4, 12]), "the tensor b does not begin where the one before it ends"),
        (tensors([0, 8], [16, 24]), "the tensor b does not begin where the one before it ends"),
        (headed(b'{"a": 1, "a": 2}'), UNREADABLE),
    ],
    ids=[
        "empty",
        "pickle",
        "header of exabytes",
        "header longer than the file",
        "nested lists",
        "nested objects",
        "no object",
        "no text",
        "weights beyond the file",
        "half an offset",
        "shape of terabytes",
        "wrong shape",
        "negative shape",
        "broken shape",
        "text for a shape",
        "truth for a shape",
        "no number for a shape",
        "list for a type",
        "offset before the file",
        "number of thousands of digits",
        "two tensors in one place",
        "overlapping tensors",
        "a gap for something else",
        "one name twice",
    ],
)
def test_hostile_weights(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(NotSafetensors) as refused:
        read_file_header(file)
    assert refused.value.reason.startswith(reason)


def manifest(file: dict[str, Any], vector: dict[str, Any], **part: Any) -> bytes:
    """A sealed manifest of one shard with one vector: whoever may write to the store can seal it as well."""
    stored = {"name": "rank-00000.safetensors", "size": 100, "sums": ["00000000"]} | file
    flat = {"key": "master", "dtype": "F32", "shape": [4], "begin": 64, "length": 16} | vector
    whole = {"elements": 4, "slices": [], "vectors": [flat]} | part
    document = {
        "format": 1,
        "runID": RUN_ID,
        "step": 3,
        "worldSize": 1,
        "attempt": 1,
        "created": "2026-01-01T00:00:00Z",
        "shards": [{"rank": 0, "file": stored, "parts": [whole]}],
        "history": {"name": "history.jsonl", "size": 0, "sums": []},
    }
    return seal(json.dumps(document).encode())


def seal(document: bytes) -> bytes:
    return document + b"\n" + hashlib.sha256(document).hexdigest().encode()


def other(key: str, begin: int) -> dict[str, Any]:
    """A second vector beside the usual one."""
    usual = {"key": "master", "dtype": "F32", "shape": [4], "begin": 64, "length": 16}
    return {"vectors": [usual, {"key": key, "dtype": "F32", "shape": [4], "begin": begin, "length": 16}]}


def test_an_honest_manifest_is_read() -> None:
    assert manifest_of(manifest({}, {}, **other("exp_avg", 80))).step == 3


@pytest.mark.parametrize(
    ("file", "vector", "part"),
    [
        ({"name": "../../other/rank-00000.safetensors"}, {}, {}),
        ({"name": "kept/.."}, {}, {}),
        ({"name": "kept/../x"}, {}, {}),
        ({"name": "/etc/passwd"}, {}, {}),
        ({"name": ".hidden"}, {}, {}),
        ({"size": -1}, {}, {}),
        ({"sums": []}, {}, {}),
        ({"sums": ["00000000"] * 10_000}, {}, {}),
        ({"size": 2**60}, {"shape": [2**57], "length": 2**59}, {}),
        ({}, {"shape": [2**50], "length": 2**52}, {}),
        ({}, {"shape": [2**50]}, {}),
        ({}, {"shape": [-2, -2]}, {}),
        ({}, {"begin": 90}, {}),
        ({}, {"dtype": "object"}, {}),
        ({}, {"key": "exp_avg"}, {}),
        ({}, {}, other("exp_avg", 64)),
        ({}, {}, other("exp_avg", 72)),
        ({}, {}, other("master", 80)),
        ({}, {}, {"elements": -1}),
        ({}, {}, {"slices": [{"parameter": "w", "start": 0, "length": 5, "offset": 0}]}),
        ({}, {}, {"slices": [{"parameter": "w", "start": 0, "length": 1, "offset": 4}]}),
        ({}, {}, {"slices": [{"parameter": "w", "start": -1, "length": 1, "offset": 0}]}),
        ({}, {}, {"options": {"lr": {"a": 1}}}),
        ({}, {}, {"numbers": {"count": "__import__('os')"}}),
    ],
)
def test_hostile_checkpoints(file: dict[str, Any], vector: dict[str, Any], part: dict[str, Any]) -> None:
    with pytest.raises(Unsealed):
        manifest_of(manifest(file, vector, **part))


@pytest.mark.parametrize("document", [b"[" * 200_000, b'{"shards":' * 100_000, b"\x80\x04N.", b"\xff" * 100])
def test_sealed_nonsense(document: bytes) -> None:
    with pytest.raises(Unsealed):
        manifest_of(seal(document))
