"""``trainer_state.json``: the course of a training in the layout of transformers' ``TrainerState``, which other tools
read. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.training.judgement import best
from finetune_trainer.training.metrics import EvaluationMetrics, StepMetrics

TRAINER_STATE = "trainer_state.json"
_EVALUATED = "eval_"


def trainer_state(
    spec: FineTuneJobSpec, steps: Sequence[StepMetrics], evaluations: Sequence[EvaluationMetrics]
) -> dict[str, Any]:
    """The document. Steps are those of the optimizer, ``eval_`` stands before what the held-out split gave."""
    last, lowest = (steps[-1] if steps else None), best(evaluations)
    epochs = {step.step: step.epoch for step in steps}
    entries = [*map(_step_entry, steps), *(_evaluation_entry(point, epochs) for point in evaluations)]
    return {
        "best_global_step": lowest.step if lowest else None,
        "best_metric": lowest.loss if lowest else None,
        "best_model_checkpoint": None,
        "epoch": last.epoch if last else 0.0,
        "eval_steps": spec.evaluation.every_steps,
        "global_step": last.step if last else 0,
        "is_hyper_param_search": False,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": sorted(entries, key=lambda entry: (entry["step"], "loss" not in entry)),
        "logging_steps": 1,
        "max_steps": last.total_steps if last else 0,
        "num_input_tokens_seen": sum(step.tokens for step in steps),
        "num_train_epochs": spec.hyperparameters.epochs or 0,
        "train_batch_size": spec.deepspeed.micro_batch_size,
    }


def _step_entry(step: StepMetrics) -> dict[str, Any]:
    return {
        "epoch": step.epoch,
        "grad_norm": step.grad_norm,
        "learning_rate": step.learning_rate,
        "loss": step.loss,
        **step.metrics,
        "step": step.step,
    }


def _evaluation_entry(point: EvaluationMetrics, epochs: dict[int, float]) -> dict[str, Any]:
    measured = {"loss": point.loss, **point.metrics}
    return {
        "epoch": epochs.get(point.step, 0.0),
        **{f"{_EVALUATED}{name}": value for name, value in measured.items()},
        "step": point.step,
    }
