"""The script that people write: TRL, PEFT and DeepSpeed, started by torchrun."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer


class _Mark(TrainerCallback):
    def __init__(self, file: Path) -> None:
        self._file = file

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._file.touch()


def main(folder: Path, marker: Path) -> None:
    """Trains a LoRA adapter under ZeRO-2; touches ``marker`` after each optimizer step."""
    # Its shared-memory collectives would be compiled, in the trainer neither.
    deepspeed.ops.__compatible_ops__ = {}
    zero = {"stage": 2, "reduce_bucket_size": 50_000_000, "allgather_bucket_size": 50_000_000}
    config = {
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
    }
    options = SFTConfig(
        output_dir=str(marker.parent / "output"),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        max_length=64,
        max_steps=20,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        deepspeed=config,
        model_init_kwargs={"dtype": torch.float32},
    )
    trainer = SFTTrainer(
        model=str(folder),
        args=options,
        train_dataset=Dataset.from_dict({"input_ids": [list(range(10, 40))] * 21}),
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[_Mark(marker)],
    )
    trainer.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
