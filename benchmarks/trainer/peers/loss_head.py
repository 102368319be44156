"""One loss head: hidden states to loss and gradients, again and again, with the peak of the memory that it takes.

Run by benchmarks.trainer.loss_head.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

POSITIONS, WIDTH, VOCABULARY = 2048, 576, 49_152
_RESET_PEAK = "5"
Head = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def ours(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    from finetune_trainer.models.architectures import HeadForm
    from finetune_trainer.training.head import summed_nll

    return summed_nll(hidden, weight, None, labels, HeadForm())[0] / len(labels)


def trl(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As SFTTrainer calls it: with the outputs that its metrics need."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    outputs = ("entropy", "is_top1")
    answers = ChunkedLogProbFunction.apply(
        hidden, weight, None, labels, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, outputs
    )
    return -answers[0].mean()


def trl_without_metrics(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    answers = ChunkedLogProbFunction.apply(
        hidden, weight, None, labels, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ()
    )
    return -answers[0].mean()


def all_logits(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(hidden @ weight.t(), labels)


HEADS: dict[str, Head] = {
    "ours": ours,
    "trl": trl,
    "trl_without_metrics": trl_without_metrics,
    "all_logits": all_logits,
}


def resident(line: str) -> float:
    """A line of this process's status, in MiB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(found.split()[1]) / 1024 for found in status if found.startswith(line))


def main(name: str, frozen: bool, answers: int) -> None:
    """At each line of standard input answers CPU-seconds, peak MiB above the start, loss and norms of the gradients."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = torch.randn(POSITIONS, WIDTH, requires_grad=True)
    weight = (torch.randn(VOCABULARY, WIDTH) * 0.05).requires_grad_(not frozen)
    labels = torch.randint(0, VOCABULARY, (POSITIONS,))
    head, libc = HEADS[name], ctypes.CDLL("libc.so.6")
    head(hidden[:64], weight, labels[:64]).backward()
    for _ in sys.stdin:
        hidden.grad = weight.grad = None
        libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
        before, started = resident("VmRSS:"), time.process_time()
        loss = head(hidden, weight, labels)
        loss.backward()
        cpu, peak = time.process_time() - started, resident("VmHWM:") - before
        norms = [None if tensor.grad is None else tensor.grad.norm().item() for tensor in (hidden, weight)]
        answer = {"cpu": cpu, "peak": peak, "loss": loss.item(), "norms": norms}
        os.write(answers, (json.dumps(answer) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "frozen", int(sys.argv[3]))
