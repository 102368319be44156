"""trainer_state.json is read by transformers."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import TrainerState

from finetune_trainer.artifact.trainerstate import trainer_state
from finetune_trainer.training.metrics import EvaluationMetrics, StepMetrics
from support.training_runs import make_spec

STEPS = [
    StepMetrics(number, 4, number / 2, 5.0 - number, 1e-3, 0.5, 100, 0.1, {"rewardMargin": 0.25} if number == 2 else {})
    for number in (1, 2)
]
EVALUATIONS = [EvaluationMetrics(0, 4.5, {"perplexity": 90.0}), EvaluationMetrics(2, 3.5, {"perplexity": 33.1})]


def read(state: dict[str, object], folder: Path) -> TrainerState:
    file = folder / "trainer_state.json"
    file.write_text(json.dumps(state))
    found: TrainerState = TrainerState.load_from_json(str(file))
    return found


def test_transformers_reads_the_course_of_a_training(tmp_path: Path) -> None:
    state = read(trainer_state(make_spec(), STEPS, EVALUATIONS), tmp_path)
    assert (state.global_step, state.max_steps, state.epoch) == (2, 4, 1.0)
    assert (state.best_metric, state.best_global_step) == (3.5, 2)
    assert state.num_input_tokens_seen == 200
    assert state.log_history == [
        {"epoch": 0.0, "eval_loss": 4.5, "eval_perplexity": 90.0, "step": 0},
        {"epoch": 0.5, "grad_norm": 0.5, "learning_rate": 1e-3, "loss": 4.0, "step": 1},
        {"epoch": 1.0, "grad_norm": 0.5, "learning_rate": 1e-3, "loss": 3.0, "rewardMargin": 0.25, "step": 2},
        {"epoch": 1.0, "eval_loss": 3.5, "eval_perplexity": 33.1, "step": 2},
    ]


def test_a_training_without_steps_and_evaluations_is_one_too(tmp_path: Path) -> None:
    state = read(trainer_state(make_spec(), [], []), tmp_path)
    assert (state.global_step, state.best_metric, state.log_history) == (0, None, [])
