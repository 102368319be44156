"""Tokenized splits and safetensors files."""

from __future__ import annotations

import json
from array import array
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from finetune_api.results import Prepared, SplitSummary
from finetune_api.runid import sha256_digest
from finetune_api.uris import S3Location
from finetune_trainer.data.splitfiles import SUMMARY_FILE, TRAIN_FILE, SplitsSummary, write_split_file
from finetune_trainer.data.splits import SplitArrays, TokenizedSplit, fetch_splits, write_split
from finetune_trainer.errors import NotSafetensors, StorageError
from finetune_trainer.models.safetensors_header import parse_header, read_file_header, write_vectors
from finetune_trainer.models.tensors import TensorFile
from support.run_plans import Place

DIGEST = "sha256:" + "a" * 64
COUNTS = SplitSummary(digest=DIGEST, rows=2, tokens=5, loss_tokens=3, truncated=0)


def split_arrays() -> SplitArrays:
    """Two rows, of two and three tokens."""
    return SplitArrays(
        np.array([1, 2, 3, 4, 5], dtype=np.int32),
        np.array([0, 1, 0, 1, 1], dtype=np.uint8),
        np.array([0, 2, 5], dtype=np.int64),
    )


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_split(tmp_path / "split", split_arrays())
    split = TokenizedSplit(tmp_path / "split")
    assert len(split) == 2
    assert [(ids.tolist(), mask.tolist()) for ids, mask in map(split.row, range(2))] == [
        ([1, 2], [0, 1]),
        ([3, 4, 5], [0, 1, 1]),
    ]
    assert split.lengths.tolist() == [2, 3]
    ids, mask = split.row(1)
    assert [part.dtype.name for part in (ids, mask)] == ["int32", "uint8"]


def test_preference_rows_are_pairs(tmp_path: Path) -> None:
    write_split(tmp_path / "split", replace(split_arrays(), paired=True))
    split = TokenizedSplit(tmp_path / "split")
    assert len(split) == 1
    chosen, rejected = split.pair(0)
    assert [part.tolist() for part in (*chosen, *rejected)] == [[1, 2], [0, 1], [3, 4, 5], [0, 1, 1]]


def test_unpaired_preference_rows_have_labels(tmp_path: Path) -> None:
    write_split(tmp_path / "split", replace(split_arrays(), desirable=np.array([0, 1], dtype=np.uint8)))
    split = TokenizedSplit(tmp_path / "split")
    assert [split.label(row) for row in range(len(split))] == [False, True]
    assert split.row(1)[0].tolist() == [3, 4, 5]


def test_the_same_split_gives_the_same_bytes_with_and_without_numpy(tmp_path: Path) -> None:
    write_split(tmp_path / "numpy", split_arrays())
    buffers = array("i", [1, 2, 3, 4, 5]), bytearray([0, 1, 0, 1, 1]), array("q", [0, 2, 5])
    write_split_file(tmp_path / "plain", *(memoryview(buffer) for buffer in buffers))
    assert (tmp_path / "numpy").read_bytes() == (tmp_path / "plain").read_bytes()


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    write_split(tmp_path / "split", split_arrays())
    tensors = load_file(tmp_path / "split")
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "input_ids": [1, 2, 3, 4, 5],
        "loss_mask": [0, 1, 0, 1, 1],
        "offsets": [0, 2, 5],
    }


def prepared_in(place: Place) -> Prepared:
    """Tokenized data without held-out rows in the output store."""
    folder = S3Location(place.bucket, "data")
    write_split(place.workspace / TRAIN_FILE, split_arrays())
    content = (place.workspace / TRAIN_FILE).read_bytes()
    place.put(f"data/{TRAIN_FILE}", content)
    summary = SplitsSummary(train=COUNTS, files={TRAIN_FILE: sha256_digest(content)})
    place.put(f"data/{SUMMARY_FILE}", summary.to_json().encode())
    return Prepared(run_id="r-" + "0" * 20, model_digest=DIGEST, data_uri=str(folder), train=COUNTS, steps=1)


def test_splits_are_fetched_from_the_output_store(place: Place, tmp_path: Path) -> None:
    plan = place.plan(prepared=prepared_in(place))
    splits = fetch_splits(plan, place.environment, tmp_path / "fetched")
    assert len(splits.train) == 2
    assert splits.validation is None


def test_damaged_splits_are_not_trained_on(folder_place: Place, tmp_path: Path) -> None:
    plan = folder_place.plan(prepared=prepared_in(folder_place))
    content = folder_place.store.read(S3Location("bucket", f"data/{TRAIN_FILE}"))
    folder_place.put(f"data/{TRAIN_FILE}", content[:-1] + b"\x00")
    with pytest.raises(StorageError) as failed:
        fetch_splits(plan, folder_place.environment, tmp_path / "fetched")
    assert failed.value.message == f"s3://bucket/data/{TRAIN_FILE} is damaged: it is not what prepare wrote"


def header_of(entries: object) -> bytes:
    return json.dumps(entries).encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it does not begin with the length of a header"),
        (b"not a safetensors file", "it does not begin with the length of a header"),
        ((2).to_bytes(8, "little") + b"[]", "its header is not readable"),
        ((4).to_bytes(8, "little") + b"oops", "its header is not readable"),
        ((2).to_bytes(8, "little") + b"{}" + b"rest", "its header describes 10 bytes, the file has 14"),
    ],
    ids=["empty", "text", "list", "no JSON", "too long"],
)
def test_other_files_are_no_safetensors(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(NotSafetensors) as failed:
        read_file_header(tmp_path / "file")
    assert failed.value.reason == reason


def test_a_file_cut_short_is_noticed(tmp_path: Path) -> None:
    save_file({"a": np.zeros(8, dtype=np.float32)}, tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(content[:-4])
    with pytest.raises(NotSafetensors, match="describes"):
        read_file_header(tmp_path / "file")


def test_a_shape_that_does_not_fit_its_bytes_is_noticed() -> None:
    header = header_of({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}})
    with pytest.raises(NotSafetensors, match="the tensor a has another size than its shape says"):
        parse_header(header, 8 + len(header) + 8)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize(
    ("values", "finite", "zero"),
    [([0.0, -0.0], True, True), ([0.0, 1.0], True, False), ([np.nan, 0.0], False, False), ([-np.inf], False, False)],
)
def test_bit_patterns_tell_finite_and_zero(
    tmp_path: Path, dtype: type[np.floating], values: list[float], finite: bool, zero: bool
) -> None:
    save_file({"a": np.array(values, dtype=dtype)}, tmp_path / "file")
    file = TensorFile(tmp_path / "file")
    assert (file.is_finite("a"), file.is_zero("a")) == (finite, zero)


@pytest.mark.parametrize(
    ("bits", "finite", "zero"),
    [(0x0000, True, True), (0x8000, True, True), (0x3F80, True, False), (0x7F80, False, False), (0x7FC0, False, False)],
    ids=["0", "-0", "1", "infinity", "NaN"],
)
def test_bfloat16_which_numpy_does_not_know(tmp_path: Path, bits: int, finite: bool, zero: bool) -> None:
    write_vectors(tmp_path / "file", {"a": ("BF16", bits.to_bytes(2, "little"))})
    file = TensorFile(tmp_path / "file")
    assert (file.is_finite("a"), file.is_zero("a")) == (finite, zero)


def test_integers_are_always_finite(tmp_path: Path) -> None:
    write_split(tmp_path / "split", split_arrays())
    assert TensorFile(tmp_path / "split").is_finite("input_ids")
