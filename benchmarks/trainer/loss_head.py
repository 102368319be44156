"""The loss head alone: CPU time and peak memory of loss and gradients, beside TRL's head and plain logits.

2,048 positions of width 576 and a vocabulary of 49,152 (SmolLM2), float32, all positions with loss; with a trained
and with a frozen head. TRL's SFTTrainer also asks its head for entropy and accuracy at each step; without these
is told too.

Run: ``python -m benchmarks.trainer.loss_head``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from benchmarks.trainer.results import publish
from benchmarks.trainer.statistics import ratio_of
from benchmarks.trainer.turns import ONE_THREAD

NAMES = ("ours", "trl", "trl_without_metrics", "all_logits")


@dataclass(frozen=True)
class Run:
    """One loss with its gradients: CPU-seconds, MiB above the start, nats, L2 norms of the gradients."""

    cpu: float
    peak: float
    loss: float
    norms: tuple[float | None, ...]


class Head:
    """A process that computes the loss by one of the heads when it is told to."""

    def __init__(self, name: str, frozen: bool) -> None:
        reader, writer = os.pipe()
        module = "benchmarks.trainer.peers.loss_head"
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", module, name, "frozen" if frozen else "trained", str(writer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[writer],
            env={**os.environ, **ONE_THREAD},
            text=True,
        )
        os.close(writer)
        self._answers = os.fdopen(reader)

    def run(self) -> Run:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = json.loads(self._answers.readline())
        return Run(answer["cpu"], answer["peak"], answer["loss"], tuple(answer["norms"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._answers.close()


def measure(pairs: int, frozen: bool) -> dict[str, list[Run]]:
    """Runs of all heads, in turn, without the first of each."""
    with ExitStack() as stack:
        heads = {name: stack.enter_context(Head(name, frozen)) for name in NAMES}
        rounds = [{name: head.run() for name, head in heads.items()} for _ in range(pairs + 1)]
    return {name: [runs[name] for runs in rounds[1:]] for name in NAMES}


def figures(runs: dict[str, list[Run]], kind: str) -> dict[str, Any]:
    """Ratios by name; ``kind`` says which head."""
    cpu = {name: [run.cpu for run in found] for name, found in runs.items()}
    peak = {name: [run.peak for run in found] for name, found in runs.items()}
    mine, theirs = runs["ours"][0], runs["trl"][0]
    differences = [
        abs(a - b) / b for a, b in zip((mine.loss, *mine.norms), (theirs.loss, *theirs.norms), strict=True) if a and b
    ]
    return {
        f"{kind}: times faster than TRL's": ratio_of(cpu["trl"], cpu["ours"]),
        f"{kind}: times faster than TRL's without metrics": ratio_of(cpu["trl_without_metrics"], cpu["ours"]),
        f"{kind}: times faster than all logits": ratio_of(cpu["all_logits"], cpu["ours"]),
        f"{kind}: peak memory, ours / TRL's": ratio_of(peak["ours"], peak["trl"]),
        f"{kind}: peak memory, ours / all logits": ratio_of(peak["ours"], peak["all_logits"]),
        f"{kind}: peak MiB, ours": peak["ours"][0],
        f"{kind}: relative difference of loss and gradient norms to TRL's": max(differences),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    options = parser.parse_args()
    trained = figures(measure(options.pairs, frozen=False), "trained head")
    frozen = figures(measure(options.pairs, frozen=True), "frozen head")
    publish("loss_head", trained | frozen)
    return 0


if __name__ == "__main__":
    sys.exit(main())
