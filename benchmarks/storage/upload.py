"""Uploading a large object over TLS from memory, beside boto3's ``upload_file`` with its defaults.

Both send to a compiled sink on this machine that verifies the checksum of every byte and keeps nothing. Ours sends
CRC64NVME, boto3 its default CRC32. boto3 reads a file in memory (tmpfs); ours needs none. Both have the congestion
control that Linux has by default; see :mod:`benchmarks.storage.network`.

Run: ``python -m benchmarks.storage.upload``.
"""

from __future__ import annotations

import argparse
import ssl
import statistics
import sys
import tempfile
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.storage import network
from benchmarks.storage.processes import Told
from benchmarks.storage.sinks import Sink, program, sink
from benchmarks.trainer.results import publish
from benchmarks.trainer.statistics import ratio_of

WAYS = ("ours", "boto3")
_MIB, _MB, _GB = 1 << 20, 1e6, 1e9


@dataclass(frozen=True)
class Run:
    """One upload: seconds, CPU-seconds, bytes of memory more than before it, bytes written to disk."""

    seconds: float
    cpu: float
    more: float
    written: float


def measure(pairs: int, size: int, sink: Sink) -> dict[str, list[Run]]:
    """Uploads of both, in turn."""
    with ExitStack() as stack:
        module = "benchmarks.storage.peers.upload"
        uploaders = {way: stack.enter_context(Told(module, [way, str(size)], sink.environment)) for way in WAYS}
        rounds = [{way: Run(**uploader.tell()) for way, uploader in uploaders.items()} for _ in range(pairs + 1)]
    return {way: [runs[way] for runs in rounds] for way in WAYS}


def figures(runs: dict[str, list[Run]], size: int) -> dict[str, Any]:
    """Ratios and medians by name; the first run of each counts for memory only."""
    seconds = {way: [run.seconds for run in found[1:]] for way, found in runs.items()}
    cpu = {way: [run.cpu for run in found[1:]] for way, found in runs.items()}
    return {
        "MB/s, ours / boto3": ratio_of(seconds["boto3"], seconds["ours"]),
        "cpu-seconds per GB, ours / boto3": ratio_of(cpu["ours"], cpu["boto3"]),
        **{f"MB/s, {way}": size / _MB / statistics.median(seconds[way]) for way in WAYS},
        **{f"cpu-seconds per GB, {way}": statistics.median(cpu[way]) / (size / _GB) for way in WAYS},
        **{f"MiB of RSS more while uploading, {way}": max(run.more for run in runs[way]) / _MIB for way in WAYS},
        "bytes written to disk, ours": int(max(run.written for run in runs["ours"])),
    }


def verified_bytes(sink: Sink) -> int:
    """How many bytes came to the sink with the right checksum."""
    trusted = ssl.create_default_context(cafile=sink.authority)
    with urllib.request.urlopen(sink.endpoint, context=trusted) as answer:
        return int(answer.read())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--mebibytes", type=int, default=256)
    options = parser.parse_args()
    size = options.mebibytes * _MIB
    # The network that is entered leads nowhere: what it takes to compile the sink is fetched before.
    program()
    network.enter("benchmarks.storage.upload", sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder, sink(Path(folder)) as running:
        runs = measure(options.pairs, size, running)
        expected = (options.pairs + 1) * len(WAYS) * size
        assert verified_bytes(running) == expected, "some bytes came without a checksum"
    publish("upload", figures(runs, size))
    return 0


if __name__ == "__main__":
    sys.exit(main())
