"""Loss on the held-out split."""

from __future__ import annotations

from finetune_trainer.training.batches import Rows, collate, count_tokens, held_out_batches
from finetune_trainer.training.engine import Engine


def held_out_loss(engine: Engine, rows: Rows, micro_batch_size: int, rank: int, world_size: int) -> float:
    """Mean negative log-likelihood per token with loss, over all rows and ranks, in nats. Collective."""
    nll, tokens = 0.0, 0
    with engine.evaluating():
        for indices in held_out_batches(len(rows), micro_batch_size, rank, world_size):
            value = float(engine.nll(collate(rows, indices or range(1))))
            # A rank without rows of its own computes the first one for company and leaves it out of the sum.
            if indices:
                nll += value
                tokens += count_tokens(rows, indices)[1]
    total_nll, total_tokens = engine.sum_over_ranks(nll, tokens)
    return total_nll / max(1.0, total_tokens)
