"""Uploads the same bytes to a store in one of two ways each time it is told to, and tells what it took.

Run by benchmarks.storage.upload.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

_SAMPLE_SECONDS = 0.005
_PAGE = resource.getpagesize()


def ours(content: bytearray) -> Callable[[int], object]:
    """The trainer's store, from memory."""
    from finetune_api.plan import StoreAccess
    from finetune_api.uris import S3Location
    from finetune_trainer.storage.interface import StoreFields
    from finetune_trainer.storage.stores import open_store

    store = open_store(StoreAccess(), os.environ, StoreFields("output", "output"))
    return lambda number: store.write(S3Location("bucket", f"ours-{number}"), memoryview(content))


def boto3(content: bytearray) -> Callable[[int], object]:
    """boto3's upload_file as it comes, from a file in memory: no disk slows it down."""
    import boto3

    file = tempfile.NamedTemporaryFile(dir="/dev/shm")  # noqa: SIM115 - as long as the process
    file.write(content)
    file.flush()
    client = boto3.client("s3")
    return lambda number: client.upload_file(file.name, "bucket", f"boto3-{number}")


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _written() -> int:
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["write_bytes"])


class Peak:
    """The largest resident memory while something runs, sampled."""

    def __enter__(self) -> Peak:
        self.bytes, self._ended = _resident(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            self.bytes = max(self.bytes, _resident())

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def measured(run: Callable[[int], object], number: int) -> dict[str, float]:
    """Seconds, CPU-seconds of all threads, bytes of memory more than before, bytes written to disk."""
    resident, written, used = _resident(), _written(), resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    with Peak() as peak:
        run(number)
    seconds, now = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return {"seconds": seconds, "cpu": cpu, "more": peak.bytes - resident, "written": _written() - written}


def main(way: str, size: int, answers: int) -> None:
    content = bytearray(os.urandom(1 << 20) * (size >> 20))
    run = {"ours": ours, "boto3": boto3}[way](content)
    with os.fdopen(answers, "w") as output:
        for number, _ in enumerate(sys.stdin):
            print(json.dumps(measured(run, number)), file=output, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
