"""TRL's SFTTrainer with its defaults, where they do not change what is computed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from benchmarks.trainer.turns import Turns
from benchmarks.trainer.workload import LEARNING_RATE, MAX_GRAD_NORM, SEED, Workload
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer


class _TakeTurns(TrainerCallback):
    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._seen = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._turns.start()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "loss" in logs:
            self._turns.step(logs["loss"], int(logs["num_tokens"]) - self._seen)
            self._seen = int(logs["num_tokens"])


def main(answers: int, block: int, folder: Path, workload: Workload) -> None:
    """Trains on the rows in the trainer's order, padded, or packed as TRL packs by default."""
    torch.set_num_threads(1)
    rows = workload.rows()
    options = SFTConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=workload.batch,
        max_length=workload.longest,
        packing=workload.packing,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=MAX_GRAD_NORM,
        # The trainer too logs each step, computes in float32 and keeps activations.
        logging_steps=1,
        bf16=False,
        gradient_checkpointing=False,
        train_sampling_strategy="sequential",
        shuffle_dataset=False,
        num_train_epochs=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=SEED,
        use_cpu=True,
        model_init_kwargs={"dtype": torch.float32},
    )
    trainer = SFTTrainer(
        model=str(folder),
        args=options,
        train_dataset=Dataset.from_dict({"input_ids": [rows[row].tolist() for row in workload.order()]}),
        callbacks=[_TakeTurns(Turns(answers, block))],
    )
    trainer.train()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Workload.from_json(sys.argv[4]))
