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

UNREADABLE = "its header is not readable"


def headed(header: bytes, content: bytes = b"", length: int | None = None) -> bytes:
    """A file with this header."""
    return (len(header) if length is None else length).to_bytes(8, "little") + header + content


def tensor(**fields: Any) -> bytes:
    """A file with a header of one tensor of eight bytes, with other fields."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | fields
    return headed(json.dumps({"weight": entry}).encode(), bytes(8))


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
    ],
)
def test_hostile_weights(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(NotSafetensors) as refused:
        read_file_header(file)
    assert refused.value.reason.startswith(reason)


def manifest(file: dict[str, Any], vector: dict[str, Any]) -> bytes:
    """A sealed manifest of one shard with one vector: whoever may write to the store can seal it as well."""
    stored = {"name": "rank-00000.safetensors", "size": 100, "sums": ["00000000"]} | file
    flat = {"key": "master", "dtype": "F32", "shape": [4], "begin": 64, "length": 16} | vector
    document = {
        "format": 1,
        "runID": "r-" + "0" * 20,
        "step": 3,
        "worldSize": 1,
        "attempt": 1,
        "created": "2026-01-01T00:00:00Z",
        "shards": [{"rank": 0, "file": stored, "parts": [{"elements": 4, "slices": [], "vectors": [flat]}]}],
        "history": {"name": "history.jsonl", "size": 0, "sums": []},
    }
    content = json.dumps(document).encode()
    return content + b"\n" + hashlib.sha256(content).hexdigest().encode()


def test_an_honest_manifest_is_read() -> None:
    assert manifest_of(manifest({}, {})).step == 3


@pytest.mark.parametrize(
    ("file", "vector"),
    [
        ({"name": "../../other/rank-00000.safetensors"}, {}),
        ({"name": "kept/.."}, {}),
        ({"name": "kept/../x"}, {}),
        ({"name": "/etc/passwd"}, {}),
        ({"name": ".hidden"}, {}),
        ({"size": -1}, {}),
        ({}, {"shape": [2**50], "length": 2**52}),
        ({}, {"shape": [2**50]}),
        ({}, {"shape": [-2, -2]}),
        ({}, {"begin": 90}),
        ({}, {"dtype": "object"}),
    ],
)
def test_hostile_checkpoints(file: dict[str, Any], vector: dict[str, Any]) -> None:
    with pytest.raises(Unsealed):
        manifest_of(manifest(file, vector))


@pytest.mark.parametrize("document", [b"[" * 200_000, b'{"shards":' * 100_000, b"\x80\x04N.", b"\xff" * 100])
def test_sealed_nonsense(document: bytes) -> None:
    with pytest.raises(Unsealed):
        manifest_of(document + b"\n" + hashlib.sha256(document).hexdigest().encode())
