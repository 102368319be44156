"""What follows from the measured losses: which weights are best, when to stop, and when to give up. Pure, so that every
rank, given the same losses, comes to the same verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from finetune_api.results import MAX_HISTORY, EvaluationPoint, EvaluationResult
from finetune_api.spec import DivergenceSpec, EarlyStoppingSpec, Objective
from finetune_trainer.training.metrics import EvaluationMetrics, decimal, thinned

PERPLEXITY = "perplexity"
# Beyond it the exponential of a loss is no number of the machine.
_LARGEST_EXPONENT = 700.0


def best(evaluations: Sequence[EvaluationMetrics]) -> EvaluationMetrics | None:
    """The evaluation with the lowest loss, the earliest of equal ones. The model at the start does not compete: a job
    publishes what it trained."""
    trained = [evaluation for evaluation in evaluations if evaluation.step > 0]
    return min(trained, key=lambda evaluation: evaluation.loss, default=None)


def exhausted(evaluations: Iterable[EvaluationMetrics], options: EarlyStoppingSpec | None) -> bool:
    """Whether the last evaluations, as many as the patience, brought no improvement.

    An evaluation improves when its loss is below the lowest before it by at least ``minImprovement``, and below it at
    all. The first evaluation, of the model at the start, sets the mark.
    """
    if options is None:
        return False
    lowest, without = math.inf, 0
    for evaluation in evaluations:
        if evaluation.loss < lowest and evaluation.loss <= lowest - float(options.min_improvement):
            without = 0
        else:
            without += 1
        lowest = min(lowest, evaluation.loss)
    return without >= options.patience


def diverged(losses: Sequence[float], options: DivergenceSpec) -> str | None:
    """Why training is given up, from the last training losses; None while it is not."""
    if len(losses) < options.steps:
        return None
    recent = losses[-options.steps :]
    if min(recent) <= float(options.max_loss):
        return None
    if options.steps == 1:
        return f"the training loss {recent[0]:.6g} is above {options.max_loss}"
    return f"the training loss was above {options.max_loss} for {options.steps} steps and is {recent[-1]:.6g}"


def with_perplexity(objective: Objective, loss: float, metrics: Mapping[str, float]) -> Mapping[str, float]:
    """The metrics of an evaluation, with the perplexity where the loss is one per token."""
    if objective is not Objective.SFT:
        return metrics
    return {PERPLEXITY: math.exp(min(loss, _LARGEST_EXPONENT)), **metrics}


def evaluation_result(
    evaluations: Sequence[EvaluationMetrics], published: EvaluationMetrics, stopped_at: int | None
) -> EvaluationResult:
    """What the status says of the evaluations, of which the first is that of the model at the start."""
    first, lowest = evaluations[0], best(evaluations)
    return EvaluationResult(
        loss_before=decimal(first.loss),
        loss_after=decimal(published.loss),
        before=_measures(first),
        after=_measures(published),
        published_step=published.step,
        best_step=lowest.step if lowest else None,
        stopped_at_step=stopped_at,
        history=tuple(
            EvaluationPoint(step=point.step, loss=decimal(point.loss)) for point in thinned(evaluations, MAX_HISTORY)
        ),
    )


def _measures(evaluation: EvaluationMetrics) -> dict[str, str] | None:
    return {name: decimal(value) for name, value in evaluation.metrics.items()} or None
