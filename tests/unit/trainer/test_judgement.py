"""What follows from the measured losses."""

from __future__ import annotations

import math

import pytest

from finetune_api.results import MAX_HISTORY
from finetune_api.spec import DivergenceSpec, EarlyStoppingSpec, Objective
from finetune_trainer.training.judgement import best, diverged, evaluation_result, exhausted, with_perplexity
from finetune_trainer.training.metrics import EvaluationMetrics, thinned


def evaluations(*losses: float) -> list[EvaluationMetrics]:
    """Evaluations every ten steps; the first is of the model at the start."""
    return [EvaluationMetrics(10 * number, loss) for number, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ((), None),
        ((3.0,), None),
        ((3.0, 2.0, 1.0), 20),
        ((3.0, 1.0, 2.0), 10),
        ((3.0, 2.0, 1.0, 1.0), 20),
        ((1.0, 3.0, 2.0), 20),
    ],
)
def test_the_lowest_loss_after_the_start_is_best(losses: tuple[float, ...], step: int | None) -> None:
    found = best(evaluations(*losses))
    assert (found.step if found else None) == step


STOPS = [
    pytest.param((3.0,), 1, "0", False, id="the start alone is the mark"),
    pytest.param((3.0, 2.0, 1.0), 1, "0", False, id="falls"),
    pytest.param((3.0, 3.5), 1, "0", True, id="worse than the start"),
    pytest.param((3.0, 3.0), 1, "0", True, id="equal is no improvement"),
    pytest.param((3.0, 2.0, 2.5), 2, "0", False, id="patience left"),
    pytest.param((3.0, 2.0, 2.5, 2.4), 2, "0", True, id="patience at its end"),
    pytest.param((3.0, 2.0, 2.5, 1.9, 2.0), 2, "0", False, id="an improvement fills patience up"),
    pytest.param((3.0, 2.95, 2.9), 2, "0.2", True, id="too small to count"),
    pytest.param((3.0, 2.75, 2.5), 2, "0.25", False, id="just enough"),
    pytest.param((3.0, 2.9, 2.7), 1, "0.2", True, id="measured against the lowest, counted or not"),
]


@pytest.mark.parametrize(("losses", "patience", "min_improvement", "stops"), STOPS)
def test_training_stops_when_patience_is_at_its_end(
    losses: tuple[float, ...], patience: int, min_improvement: str, stops: bool
) -> None:
    options = EarlyStoppingSpec(patience=patience, min_improvement=min_improvement)
    assert exhausted(evaluations(*losses), options) is stops


def test_training_goes_on_to_its_end_where_nobody_asks_to_stop() -> None:
    assert not exhausted(evaluations(1.0, 2.0, 3.0, 4.0, 5.0), None)


BOUNDS = [
    pytest.param((1.0, 2.0), 1, None, id="below"),
    pytest.param((1.0, 10.0), 1, None, id="at the bound"),
    pytest.param((1.0, 10.5), 1, "the training loss 10.5 is above 10", id="above"),
    pytest.param((11.0,), 2, None, id="not often enough yet"),
    pytest.param((11.0, 9.0, 12.0), 2, None, id="not in a row"),
    pytest.param((9.0, 11.0, 12.0), 2, "the training loss was above 10 for 2 steps and is 12", id="in a row"),
]


@pytest.mark.parametrize(("losses", "steps", "why"), BOUNDS)
def test_a_loss_that_stays_above_the_bound_is_a_divergence(
    losses: tuple[float, ...], steps: int, why: str | None
) -> None:
    assert diverged(losses, DivergenceSpec(max_loss="10", steps=steps)) == why


def test_perplexity_is_told_where_the_loss_is_one_per_token() -> None:
    assert with_perplexity(Objective.SFT, 0.0, {"tokenAccuracy": 1.0}) == {"perplexity": 1.0, "tokenAccuracy": 1.0}
    assert math.isfinite(with_perplexity(Objective.SFT, 1e9, {})["perplexity"])


def test_the_result_says_what_was_published_and_why() -> None:
    measured = [
        EvaluationMetrics(0, 2.5, {"rewardMargin": -0.25}),
        EvaluationMetrics(10, 1.25, {"rewardMargin": 0.5}),
        EvaluationMetrics(20, 1.5, {"rewardMargin": 0.4}),
    ]
    assert evaluation_result(measured, measured[1], 20).to_wire() == {
        "lossBefore": "2.5",
        "lossAfter": "1.25",
        "before": {"rewardMargin": "-0.25"},
        "after": {"rewardMargin": "0.5"},
        "publishedStep": 10,
        "bestStep": 10,
        "stoppedAtStep": 20,
        "history": [{"step": 0, "loss": "2.5"}, {"step": 10, "loss": "1.25"}, {"step": 20, "loss": "1.5"}],
    }


def test_the_result_stays_small_however_often_was_evaluated() -> None:
    measured = evaluations(*(5.0 / (number + 1) for number in range(5000)))
    result = evaluation_result(measured, measured[-1], None)
    assert result.history
    assert len(result.history) == MAX_HISTORY
    assert (result.history[0].step, result.history[-1].step) == (0, 49990)
    assert len(result.to_json()) < 1500


@pytest.mark.parametrize("count", [0, 1, 5, 99, 100, 101, 1001])
def test_long_runs_are_thinned_and_keep_both_ends(count: int) -> None:
    kept = thinned(range(count), 100)
    assert len(kept) == min(count, 100)
    assert kept == sorted(set(kept))
    assert kept[:1] == list(range(count))[:1]
    assert kept[-1:] == list(range(count))[-1:]
