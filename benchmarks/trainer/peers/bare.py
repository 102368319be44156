"""The least that training takes: transformers' model and PyTorch, nothing else."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

import torch
from benchmarks.trainer.turns import Turns
from benchmarks.trainer.workload import LEARNING_RATE, MAX_GRAD_NORM, Workload
from torch.nn import functional
from transformers import AutoModelForCausalLM


def main(answers: int, block: int, folder: Path, workload: Workload) -> None:
    """Trains on the rows in order, all of a batch padded to the longest."""
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    rows, order, turns = workload.rows(), workload.order(), Turns(answers, block)
    turns.start()
    for step in count():
        chosen = [
            torch.from_numpy(rows[row]).long() for row in order[step * workload.batch : (step + 1) * workload.batch]
        ]
        ids = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in chosen], batch_first=True)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        labels = ids.masked_fill(mask == 0, -100)[:, 1:]
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        turns.step(loss.item(), int(mask.sum()))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Workload.from_json(sys.argv[4]))
