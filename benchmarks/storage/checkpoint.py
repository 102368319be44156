"""How long training waits for a checkpoint, beside ``torch.save`` and boto3's ``upload_file`` of the same state.

Both save float32 weights and the two moments of Adam to a compiled sink on this machine, over TLS. The usual way writes
to a file in memory (tmpfs) and uploads it while training waits; ours copies the state, and uploads it while training
goes on. The overhead is told at the interval that the default comes to with the measured cost.

Run: ``python -m benchmarks.storage.checkpoint``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.storage.processes import Told
from benchmarks.storage.sinks import Sink, sink
from benchmarks.trainer.results import publish
from benchmarks.trainer.statistics import ratio_of

from finetune_api.spec import CheckpointSpec
from finetune_trainer.training.checkpoints.interval import Cost, automatic_seconds

WAYS = ("ours", "usual")


@dataclass(frozen=True)
class Run:
    """One checkpoint: seconds that training waited, seconds until it was uploaded, CPU-seconds of all of it."""

    waited: float
    whole: float
    cpu: float


def measure(pairs: int, mebibytes: int, sink: Sink) -> dict[str, list[Run]]:
    """Checkpoints of both, in turn, without the first of each."""
    module = "benchmarks.storage.peers.checkpoint"
    with ExitStack() as stack:
        savers = {way: stack.enter_context(Told(module, [way, str(mebibytes)], sink.environment)) for way in WAYS}
        rounds = [{way: Run(**saver.tell()) for way, saver in savers.items()} for _ in range(pairs + 1)]
    return {way: [runs[way] for runs in rounds[1:]] for way in WAYS}


def figures(runs: dict[str, list[Run]], mebibytes: int) -> dict[str, Any]:
    """Ratios and medians by name."""
    waited = {way: [run.waited for run in found] for way, found in runs.items()}
    cost = Cost(statistics.median(waited["ours"]), statistics.median(run.whole for run in runs["ours"]))
    interval = automatic_seconds(CheckpointSpec().mean_seconds_to_failure, cost)
    return {
        "times shorter that training waits": ratio_of(waited["usual"], waited["ours"]),
        **{f"seconds that training waits, {way}": statistics.median(waited[way]) for way in WAYS},
        **{f"cpu-seconds of a checkpoint, {way}": statistics.median(run.cpu for run in runs[way]) for way in WAYS},
        "seconds between checkpoints at the default": interval,
        "percent of a core taken at that interval": 100 * statistics.median(run.cpu for run in runs["ours"]) / interval,
        "percent of the time waited at that interval": 100 * cost.blocked / interval,
        "MiB of state": mebibytes,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--mebibytes", type=int, default=512)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sink(Path(folder)) as running:
        runs = measure(options.pairs, options.mebibytes, running)
    publish("checkpoint", figures(runs, options.mebibytes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
