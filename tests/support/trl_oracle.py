"""TRL's trainers over rows of ours: the independent implementation that objectives must equal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from finetune_api.spec import FineTuneJobSpec, Objective
from finetune_trainer.training.batches import TokenSequence
from support.tiny_model import tiny_tokenizer

Columns = dict[str, list[Any]]


class _Recording:
    """Trains on rows that are tokens already, and keeps every loss unrounded."""

    losses: list[float]

    def _prepare_dataset(self, dataset: Dataset, *arguments: Any) -> Dataset:
        return dataset

    def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
        return {}

    def compute_loss(self, *arguments: Any, **options: Any) -> Any:
        loss = super().compute_loss(*arguments, **options)  # type: ignore[misc]
        self.losses.append(float(loss[0] if isinstance(loss, tuple) else loss))
        return loss


def _split(sequence: TokenSequence) -> tuple[list[int], list[int]]:
    ids, mask = sequence
    end = mask.tolist().index(1)
    return ids[:end].tolist(), ids[end:].tolist()


def _labels(sequence: TokenSequence) -> list[int]:
    return [token if counted else -100 for token, counted in zip(*(part.tolist() for part in sequence), strict=True)]


def _sft(rows: Any, indices: Sequence[int]) -> Columns:
    found = [rows.row(index) for index in indices]
    return {"input_ids": [ids.tolist() for ids, _ in found], "labels": [_labels(part) for part in found]}


def _dpo(rows: Any, indices: Sequence[int]) -> Columns:
    pairs = [[_split(part) for part in rows.pair(index)] for index in indices]
    return {
        "prompt_ids": [chosen[0] for chosen, _ in pairs],
        "chosen_ids": [chosen[1] for chosen, _ in pairs],
        "rejected_ids": [rejected[1] for _, rejected in pairs],
    }


def _orpo(rows: Any, indices: Sequence[int]) -> Columns:
    columns: Columns = {}
    for position, name in enumerate(("chosen", "rejected")):
        found = [rows.pair(index)[position] for index in indices]
        columns[f"{name}_input_ids"] = [ids.tolist() for ids, _ in found]
        columns[f"{name}_attention_mask"] = [[1] * len(ids) for ids, _ in found]
        columns[f"{name}_labels"] = [_labels(part) for part in found]
    columns["prompt_input_ids"] = [_split(rows.pair(index)[0])[0] for index in indices]
    columns["prompt_attention_mask"] = [[1] * len(ids) for ids in columns["prompt_input_ids"]]
    return columns


def _kto(rows: Any, indices: Sequence[int], batch: int) -> Columns:
    parts = [_split(rows.row(index)) for index in indices]
    # As TRL's own preparation does per batch: each prompt with the completion of the row before it.
    starts = [position - position % batch for position in range(len(parts))]
    before = [start + (position - start - 1) % batch for position, start in enumerate(starts)]
    return {
        "prompt_ids": [prompt for prompt, _ in parts],
        "completion_ids": [completion for _, completion in parts],
        "KL_completion_ids": [parts[position][1] for position in before],
        "label": [rows.label(index) for index in indices],
    }


def _reward(rows: Any, indices: Sequence[int]) -> Columns:
    pairs = [rows.pair(index) for index in indices]
    return {"chosen_ids": [c[0].tolist() for c, _ in pairs], "rejected_ids": [r[0].tolist() for _, r in pairs]}


def _settings(options: Any, steps: int, folder: Path) -> dict[str, Any]:
    """What every trainer of TRL is told."""
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "per_device_train_batch_size": options.global_batch_size,
        "max_steps": steps,
        "logging_steps": 1000,
        "save_strategy": "no",
        "disable_tqdm": True,
        "activation_checkpointing": False,
        "train_sampling_strategy": "sequential",
        "learning_rate": float(options.learning_rate),
        "max_grad_norm": float(options.max_grad_norm),
        "lr_scheduler_type": options.schedule.value,
        "warmup_steps": options.warmup_steps,
        "weight_decay": float(options.weight_decay),
        "max_length": options.max_sequence_length,
        "remove_unused_columns": False,
    }


def _own_settings(method: Any) -> dict[str, Any]:
    """What the trainer of an objective is told beside; TRL's defaults are ours where the manifest says nothing."""
    if method.objective is Objective.ORPO:
        return {"beta": float(method.orpo.beta) if method.orpo else 0.1}
    if method.objective is Objective.REWARD:
        return {"center_rewards_coefficient": float(method.reward.centering) if method.reward else None}
    if method.objective is Objective.KTO and method.kto:
        names = ("beta", "desirable_weight", "undesirable_weight")
        return {name: float(getattr(method.kto, name)) for name in names}
    if method.objective is Objective.DPO and method.dpo:
        given = method.dpo
        smoothing = float(given.label_smoothing)
        return {"beta": float(given.beta), "loss_type": given.loss.value, "label_smoothing": smoothing}
    return {}


def _columns(objective: Objective, rows: Any, indices: Sequence[int], batch: int) -> Columns:
    if objective is Objective.KTO:
        return _kto(rows, indices, batch)
    makers = {Objective.SFT: _sft, Objective.DPO: _dpo, Objective.ORPO: _orpo, Objective.REWARD: _reward}
    return makers[objective](rows, indices)


_TRAINERS: dict[Objective, tuple[Any, Any]] = {
    Objective.SFT: (SFTTrainer, SFTConfig),
    Objective.DPO: (DPOTrainer, DPOConfig),
    Objective.ORPO: (ORPOTrainer, ORPOConfig),
    Objective.KTO: (KTOTrainer, KTOConfig),
    Objective.REWARD: (RewardTrainer, RewardConfig),
}


def oracle(
    spec: FineTuneJobSpec, model: Any, reference: Any, rows: Any, indices: Sequence[int], steps: int, folder: Path
) -> Any:
    """TRL's trainer of a spec's objective over some rows in this order, a global batch per step on one process."""
    objective, options = spec.method.objective, spec.hyperparameters
    trainer, config = _TRAINERS[objective]
    arguments = config(**_settings(options, steps, folder), **_own_settings(spec.method))
    dataset = Dataset.from_dict(_columns(objective, rows, indices, options.global_batch_size))
    extra: dict[str, Any] = {} if reference is None else {"ref_model": reference}
    recording = type("Recording", (_Recording, trainer), {"losses": []})
    return recording(model, args=arguments, train_dataset=dataset, processing_class=tiny_tokenizer(), **extra)


def first_batch(trainer: Any) -> Any:
    """The tensors of the trainer's first batch."""
    return next(iter(trainer.get_train_dataloader()))


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """By parameter name."""
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
