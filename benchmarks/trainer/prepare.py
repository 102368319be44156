"""Rows of chat data per CPU-second from JSONL to packed tokens, and the memory for it, beside TRL.

The trainer's prepare stage as a whole: it also checks every row, computes the loss mask of the assistant's turns, looks
for duplicates, writes shards and a report. TRL: ``load_dataset`` and what SFTTrainer does with it at its start
(template, tokens, packing), without a loss mask. What either takes for eight rows is subtracted.

Run: ``python -m benchmarks.trainer.prepare``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.trainer.results import publish
from benchmarks.trainer.statistics import ratio_of
from benchmarks.trainer.turns import ONE_THREAD
from benchmarks.trainer.workload import PROJECT

from support.tiny_model import write_chat_rows, write_tiny_model  # isort: skip

FEW = 8


@dataclass(frozen=True)
class Run:
    """CPU-seconds, and the largest RSS in MiB."""

    cpu: float
    rss: float


def run(way: str, rows: int) -> Run:
    """Prepares ``rows`` rows in a process and a folder of its own.

    Raises:
        RuntimeError: the process failed; with the end of its output.
    """
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_tiny_model(root / "store" / "bucket" / "model")
        write_chat_rows(root / "store" / "bucket" / "data" / "train.jsonl", rows)
        reader, writer = os.pipe()
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.trainer.peers.prepare"]
        ended = subprocess.run(
            [*command, way, temporary, str(rows), str(writer)],
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": f"{PROJECT}:{PROJECT / 'tests'}", "HF_HOME": temporary},
            pass_fds=[writer],
            capture_output=True,
            text=True,
            check=False,
        )
        os.close(writer)
        with os.fdopen(reader) as answers:
            answer = answers.read()
    if not answer:
        raise RuntimeError(f"{way} ended with {ended.returncode}:\n{ended.stderr[-4000:]}")
    return Run(**json.loads(answer))


def measure(pairs: int, rows: int) -> dict[str, Any]:
    """Interleaved runs of both, after one each with few rows."""
    few = {way: run(way, FEW) for way in ("ours", "trl")}
    runs = [{way: run(way, rows) for way in few} for _ in range(pairs)]
    cpu = {way: [found[way].cpu - few[way].cpu for found in runs] for way in few}
    more = {way: max(found[way].rss for found in runs) - few[way].rss for way in few}
    return {
        "rows per cpu-second, ours / TRL": ratio_of(cpu["trl"], cpu["ours"]),
        "rows per cpu-second, ours": rows / sorted(cpu["ours"])[pairs // 2],
        "rows": rows,
        "MiB of RSS more than for 8 rows, ours": more["ours"],
        "MiB of RSS more than for 8 rows, TRL": more["trl"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--rows", type=int, default=8_000)
    options = parser.parse_args()
    publish("prepare", measure(options.pairs, options.rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
