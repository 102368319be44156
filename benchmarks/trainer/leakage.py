"""How much documents in one row change each other: every token's log-probability, in a packed row and alone.

Thirty documents of chat length in one row of the trainer's attention, in training mode, and beside it a row as TRL
packs it (position_ids that start again, PyTorch's attention), each against the documents one by one; float32.

Run: ``python -m benchmarks.trainer.leakage``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from benchmarks.trainer.results import publish
from benchmarks.trainer.workload import Workload, chat_lengths, write_model
from transformers import AutoModelForCausalLM

from finetune_trainer.training.batches import MicroBatch, pad
from finetune_trainer.training.scoring import Scorer, Wanted

DOCUMENTS, LONGEST = 30, 512


def alone(model: torch.nn.Module, batch: MicroBatch) -> torch.Tensor:
    """Log-probabilities of the labels, [documents, positions], each document by itself."""
    lines = torch.zeros(batch.labels.shape)
    for line, (ids, mask, labels) in enumerate(zip(batch.input_ids, batch.attention_mask, batch.labels, strict=True)):
        length = int(mask.sum())
        logits = model(input_ids=ids[None, :length], use_cache=False).logits[0]
        lines[line, : length - 1] = logits[:-1].log_softmax(-1).gather(1, labels[: length - 1, None])[:, 0]
    return lines


def packed_by_trl(model: torch.nn.Module, batch: MicroBatch) -> torch.Tensor:
    """The same of one row, with the inputs of TRL's padding-free collator."""
    present = batch.attention_mask != 0
    positions = torch.arange(present.shape[1]).expand_as(present)[present][None]
    logits = model(input_ids=batch.input_ids[present][None], position_ids=positions, use_cache=False).logits[0]
    labels = batch.labels[present]
    lines = torch.zeros(batch.labels.shape)
    picked = logits.log_softmax(-1).gather(1, labels.clamp(min=0)[:, None])[:, 0]
    lines[present] = picked.masked_fill(labels < 0, 0.0)
    return lines


def main() -> int:
    torch.set_num_threads(1)
    workload = Workload(lengths=chat_lengths(DOCUMENTS, LONGEST), batch=1, longest=LONGEST)
    batch = pad([(ids, np.ones(len(ids), dtype=np.uint8)) for ids in workload.rows()])
    with tempfile.TemporaryDirectory() as temporary, torch.no_grad():
        folder = write_model(workload, Path(temporary))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
        expected = alone(model, batch)
        by_trl = packed_by_trl(model, batch)
        ours = Scorer(model, LONGEST)(batch, Wanted.LOG_PROBABILITIES, torch.device("cpu"))
    name = "largest difference of a token's log-probability, packed and alone"
    publish(
        "leakage",
        {f"{name}, ours": (ours - expected).abs().max().item(), f"{name}, TRL": (by_trl - expected).abs().max().item()},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
