"""What is seen of tensors while their file passes by is what is seen of them in the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from finetune_trainer.errors import NotSafetensors
from finetune_trainer.models.tensors import TensorFile, TensorScan

TENSORS = {
    "bfloat16": torch.tensor([1.0, float("nan"), 0.0], dtype=torch.bfloat16),
    "empty": torch.zeros(0),
    "infinite": torch.tensor([[0.0, 1.0], [2.0, float("inf")]]),
    "integers": torch.arange(7),
    "minus zero": torch.full((3,), -0.0, dtype=torch.float16),
    "ones": torch.ones(5, dtype=torch.float64),
    "zero": torch.zeros(2, 3),
}


def scanned(content: bytes, step: int, size: int | None = None) -> TensorScan:
    scan = TensorScan(len(content) if size is None else size)
    for start in range(0, len(content), step):
        scan.feed(content[start : start + step])
    return scan


@pytest.mark.parametrize("step", [1, 3, 64, 1 << 20])
def test_pieces_of_any_size_show_the_same_as_the_file(tmp_path: Path, step: int) -> None:
    save_file(TENSORS, tmp_path / "file")
    file = TensorFile(tmp_path / "file")
    found = scanned((tmp_path / "file").read_bytes(), step).tensors()
    assert {name: seen.info for name, seen in found.items()} == file.tensors
    assert {name: (seen.finite, seen.zero) for name, seen in found.items()} == {
        name: (file.is_finite(name), file.is_zero(name)) for name in TENSORS
    }
    assert {name for name, seen in found.items() if not seen.finite} == {"bfloat16", "infinite"}
    assert {name for name, seen in found.items() if seen.zero} == {"empty", "minus zero", "zero"}


@pytest.mark.parametrize(
    ("content", "size", "message"),
    [
        (b"", 0, "ends too early"),
        (b"\x10", 1, "ends too early"),
        (b"\xff" * 100, 100, "does not begin with the length of a header"),
        ((50).to_bytes(8, "little") + b"{}", 10, "shorter than its header"),
        ((2).to_bytes(8, "little") + b"[]", 10, "header is not readable"),
        ((2).to_bytes(8, "little") + b"{}", 11, "its header describes 10 bytes, the file has 11"),
    ],
)
def test_what_is_no_safetensors_file_is_told_in_the_end(content: bytes, size: int, message: str) -> None:
    with pytest.raises(NotSafetensors, match=message):
        scanned(content, 4, size).tensors()


def test_a_file_that_ends_too_early_is_damaged(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    with pytest.raises(NotSafetensors, match="ends too early"):
        scanned(content[:-1], 64, len(content)).tensors()
