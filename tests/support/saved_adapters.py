"""An adapter's folder as an export leaves it."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel

from finetune_trainer.models.adapter import adapter_file, write_adapter_config
from finetune_trainer.models.modelfiles import ADAPTER_WEIGHTS


def save_adapter(model: PeftModel, weights: dict[str, torch.Tensor], base_name: str, folder: Path) -> None:
    """Writes weights and configuration into an existing folder."""
    (folder / ADAPTER_WEIGHTS).write_bytes(adapter_file(model, weights))
    write_adapter_config(model, base_name, folder)
