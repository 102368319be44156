"""What every place that holds a model can do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from finetune_trainer.models.safetensors_header import TensorInfo


class ModelSource(Protocol):
    """Where a model's files are. Names are of files directly in the model's folder."""

    @property
    def revision(self) -> str | None:
        """Commit of a hub's model, None elsewhere."""

    @property
    def names(self) -> Collection[str]:
        """Every file that is there."""

    def place(self, names: Collection[str], folder: Path) -> None:
        """Puts files, or links to them, into an existing folder."""

    def weight_sha256(self, name: str) -> str | None:
        """Hexadecimal SHA-256 of a large file without placing it; None when that takes its content."""

    def weight_header(self, name: str) -> Mapping[str, TensorInfo] | None:
        """Header of a safetensors file without placing it, or None when that takes its content.

        Raises:
            NotSafetensors: it is no complete safetensors file.
        """
