"""CPU time of an optimizer step: the trainer beside a bare PyTorch loop and TRL's SFTTrainer, with equal losses.

Run: ``python -m benchmarks.trainer.step_cost``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.trainer.results import publish
from benchmarks.trainer.statistics import ratio_of
from benchmarks.trainer.turns import Block, Contender, interleave
from benchmarks.trainer.workload import Workload, write_model

from support.training_runs import free_port  # isort: skip

PEERS = "benchmarks.trainer.peers"
BATCH, LENGTH = 4, 128


def measure(pairs: int, steps: int) -> dict[str, list[Block]]:
    """Blocks of ``steps`` optimizer steps of each contender."""
    rows = BATCH * (steps * (pairs + 2) + 2)
    workload = Workload(lengths=(LENGTH,) * rows, batch=BATCH, longest=LENGTH)
    sharded = replace(workload, zero_stage=2)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = write_model(workload, Path(temporary) / "model")
        contenders = {}
        for name, module, work in (
            ("ours", "ours", workload),
            ("bare", "bare", workload),
            ("trl", "trl_sft", workload),
            ("ours with ZeRO-2", "ours", sharded),
        ):
            arguments = [str(folder), work.to_json()]
            log = Path(temporary) / f"{name}.log"
            contender = Contender(f"{PEERS}.{module}", steps, arguments, log, free_port())
            contenders[name] = stack.enter_context(contender)
        return interleave(contenders, pairs)


def figures(blocks: dict[str, list[Block]], steps: int) -> dict[str, Any]:
    """Ratios, and what they are ratios of."""
    cpu = {name: [block.cpu / steps for block in found[1:]] for name, found in blocks.items()}
    losses = {name: [loss for block in found for loss in block.losses] for name, found in blocks.items()}
    # The trainer's first step is no part of its blocks.
    ours = losses["ours"]
    return {
        "cpu of a step, ours / bare": ratio_of(cpu["ours"], cpu["bare"]),
        "cpu of a step, ours with ZeRO-2 / bare": ratio_of(cpu["ours with ZeRO-2"], cpu["bare"]),
        "tokens per cpu-second, ours / TRL": ratio_of(cpu["trl"], cpu["ours"]),
        "largest difference of losses, ours and bare": largest_difference(ours, losses["bare"][1:]),
        "largest difference of losses, ours and TRL": largest_difference(ours, losses["trl"][1:]),
        "cpu-milliseconds of a step, ours": 1000 * sorted(cpu["ours"])[len(cpu["ours"]) // 2],
        "largest RSS in MiB, ours": blocks["ours"][-1].rss,
        "largest RSS in MiB, bare": blocks["bare"][-1].rss,
        "largest RSS in MiB, TRL": blocks["trl"][-1].rss,
    }


def largest_difference(ours: list[float], others: list[float]) -> float:
    """Over the steps that both have made."""
    return max(abs(a - b) for a, b in zip(ours, others, strict=False))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps of a block")
    options = parser.parse_args()
    publish("step_cost", figures(measure(options.pairs, options.steps), options.steps))
    return 0


if __name__ == "__main__":
    sys.exit(main())
