"""Prepares chat rows for training in one of two ways, once, and tells CPU-seconds and the largest RSS.

Run by benchmarks.trainer.prepare.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from benchmarks.trainer.turns import largest_rss


def ours(root: Path, rows: int) -> float:
    """The prepare stage over a store that is a folder; CPU-seconds."""
    from finetune_api.plan import Device, JobReference, RunPlan, StoreAccess, World, store_uses
    from finetune_trainer.prepare import prepare
    from support.training_runs import make_spec

    spec = make_spec(held_out=False, packing=True, maxSequenceLength=512)
    access = StoreAccess(endpoint_url=f"file://{root / 'store'}")
    world = World(
        nodes=1, processes_per_node=1, threads_per_process=1, device=Device.CPU, master_address="", master_port=1
    )
    plan = RunPlan(
        job=JobReference(namespace="team", name=f"rows-{rows}", uid="1"),
        attempt=0,
        spec=spec,
        world=world,
        stores=dict.fromkeys(store_uses(spec), access),
    )
    started = time.process_time()
    prepared = prepare(plan, {**os.environ, "FINETUNE_WORKSPACE": str(root / "workspace")})
    assert prepared.train.rows == rows
    return time.process_time() - started


def trl(root: Path, rows: int) -> float:
    """Loading the file and SFTTrainer's preparation of the dataset; CPU-seconds."""
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    options = SFTConfig(
        output_dir=str(root / "trl"),
        max_length=512,
        packing=True,
        bf16=False,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    model = str(root / "store" / "bucket" / "model")
    started = time.process_time()
    data = load_dataset("json", data_files=str(root / "store" / "bucket" / "data" / "train.jsonl"), split="train")
    assert len(data) == rows
    SFTTrainer(model=model, args=options, train_dataset=data)
    return time.process_time() - started


def main(way: str, root: Path, rows: int, answers: int) -> None:
    cpu = (ours if way == "ours" else trl)(root, rows)
    os.write(answers, json.dumps({"cpu": cpu, "rss": largest_rss()}).encode())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
