"""Useful tokens per CPU-second on rows of chat length: packed and unpacked, beside TRL padded and TRL packed.

Lengths are log-normal (mean 221 tokens, at most 2,048). The trainer packs into rows of 2,048, as TRL does; without
packing both take 8 rows per step. Useful tokens are those of the rows, not the padding. Every block has another mix of
lengths, the same for all contenders as far as their order of rows allows: so the ratio is one of totals.

Run: ``python -m benchmarks.trainer.packing``.
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
from benchmarks.trainer.workload import Workload, chat_lengths, write_model

from support.training_runs import free_port  # isort: skip

PEERS = "benchmarks.trainer.peers"
LONGEST, ROWS = 2048, 8


def contenders_of(pairs: int, steps: int) -> dict[str, tuple[str, Workload]]:
    """Module and workload of each contender; all see rows enough for their steps."""
    rows = ROWS * (steps * (pairs + 2) + 2)
    padded = Workload(lengths=chat_lengths(rows, LONGEST), batch=ROWS, longest=LONGEST)
    # A packed row has some nine rows of the data.
    packed = replace(padded, lengths=chat_lengths(10 * rows // ROWS + 50, LONGEST), batch=1, packing=True)
    return {
        "ours packed": ("ours", packed),
        "trl packed": ("trl_sft", packed),
        "trl padded": ("trl_sft", padded),
        "ours unpacked": ("ours", padded),
    }


def measure(pairs: int, steps: int) -> dict[str, list[Block]]:
    """Blocks of ``steps`` optimizer steps of each contender."""
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        contenders = {}
        for name, (module, workload) in contenders_of(pairs, steps).items():
            folder = Path(temporary) / "model"
            if not folder.exists():
                write_model(workload, folder)
            arguments = [str(folder), workload.to_json()]
            contender = Contender(f"{PEERS}.{module}", steps, arguments, Path(temporary) / f"{name}.log", free_port())
            contenders[name] = stack.enter_context(contender)
        return interleave(contenders, pairs)


def rates(blocks: list[Block]) -> list[float]:
    """Useful tokens per CPU-second of each block but the first."""
    return [block.tokens / block.cpu for block in blocks[1:]]


def figures(blocks: dict[str, list[Block]]) -> dict[str, Any]:
    rate = {name: rates(found) for name, found in blocks.items()}
    return {
        "useful tokens per cpu-second, ours packed / TRL padded": ratio_of(rate["ours packed"], rate["trl padded"]),
        "useful tokens per cpu-second, ours packed / TRL packed": ratio_of(rate["ours packed"], rate["trl packed"]),
        "useful tokens per cpu-second, ours unpacked / TRL padded": ratio_of(rate["ours unpacked"], rate["trl padded"]),
        "useful tokens per cpu-second, ours packed": sorted(rate["ours packed"])[len(rate["ours packed"]) // 2],
        **{f"largest RSS in MiB, {name}": found[-1].rss for name, found in blocks.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of a block")
    options = parser.parse_args()
    publish("packing", figures(measure(options.pairs, options.steps)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
