"""Trains a matrix and saves its state in one of two ways each time it is told to; tells how long training waited.

Run by benchmarks.storage.checkpoint.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from finetune_trainer.training.checkpoints.format import Slice, folder_name
from finetune_trainer.training.engine_state import LivePart

RUN_ID = "r-" + "0" * 20


def state(elements: int) -> dict[str, torch.Tensor]:
    """Master weights and the two moments of Adam, of three times ``elements`` float32 values."""
    return {name: torch.randn(elements) for name in ("master", "exp_avg", "exp_avg_sq")}


def ours(values: dict[str, torch.Tensor]) -> Callable[[int], tuple[float, Callable[[], object]]]:
    """The trainer's snapshot and saver."""
    from finetune_api.plan import StoreAccess
    from finetune_api.uris import S3Location
    from finetune_trainer.storage.interface import StoreFields
    from finetune_trainer.storage.stores import open_store
    from finetune_trainer.training.checkpoints.folders import Folders
    from finetune_trainer.training.checkpoints.saving import Pending, Run, Saver
    from finetune_trainer.training.checkpoints.snapshot import Snapshot

    store = open_store(StoreAccess(), os.environ, StoreFields("output", "output"))
    folders = Folders(store, S3Location("bucket", "checkpoints"))
    weights = values["master"]
    moments = {name: value for name, value in values.items() if name != "master"}
    own = Slice(parameter="weight", start=0, length=len(weights), offset=0)
    part = LivePart(weights=weights, slices=(own,), stated=weights, state=moments, options={})
    snapshot, saver = Snapshot(0, pinned=False), Saver(folders, Run(RUN_ID, 1, 1, 0, 2), lambda _: None)

    def save(number: int) -> tuple[float, Callable[[], object]]:
        started = time.perf_counter()
        describe = snapshot.take([part], {})
        name = folder_name(number, f"{number:08x}")
        saver.begin(Pending(number, name, snapshot.content, describe, lambda: b""))
        return time.perf_counter() - started, saver.wait_for_upload

    return save


def usual(values: dict[str, torch.Tensor]) -> Callable[[int], tuple[float, Callable[[], object]]]:
    """torch.save to a file in memory, then boto3's upload_file, both while training waits."""
    import boto3

    client, folder = boto3.client("s3"), Path(tempfile.mkdtemp(dir="/dev/shm"))

    def save(number: int) -> tuple[float, Callable[[], object]]:
        started = time.perf_counter()
        torch.save(values, folder / "state.pt")
        client.upload_file(str(folder / "state.pt"), "bucket", f"usual-{number}")
        (folder / "state.pt").unlink()
        return time.perf_counter() - started, lambda: None

    return save


def main(way: str, mebibytes: int, answers: int) -> None:
    torch.set_num_threads(1)
    save = {"ours": ours, "usual": usual}[way](state((mebibytes << 20) // 12))
    with os.fdopen(answers, "w") as output:
        for number, _ in enumerate(sys.stdin):
            used, started = time.process_time(), time.perf_counter()
            waited, finish = save(number)
            failure = finish()
            assert failure is None, failure
            record = {
                "waited": waited,
                "whole": time.perf_counter() - started,
                "cpu": time.process_time() - used,
            }
            print(json.dumps(record), file=output, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
