"""Loss and metrics on the held-out split."""

from __future__ import annotations

from collections.abc import Callable

from finetune_trainer.training.batches import held_out_batch
from finetune_trainer.training.objectives.interface import Model, Objective, RowsT
from finetune_trainer.training.totals import Means, Totals


def evaluate(
    model: Model, objective: Objective[RowsT], rows: RowsT, count: int, pause: Callable[[], None] = lambda: None
) -> Means:
    """Measures ``count`` held-out rows, spread over the ranks, as one batch. Collective.

    ``pause`` is called by all ranks before each micro-batch; what it raises ends the evaluation.
    """
    batch = held_out_batch(count, model.micro_batch_size, model.rank, model.world_size)
    totals = Totals()
    with model.evaluating():
        shared = objective.share(model, rows, batch)
        for indices in batch.micro_batches:
            pause()
            # A rank without rows of its own computes the first one for company and leaves it out of the sum.
            totals.add(objective.measure(model, rows, indices or [0], shared), 1.0 if indices else 0.0)
    return totals.means(model, objective.units(rows, range(count)))
