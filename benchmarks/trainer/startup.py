"""CPU time from the start of the processes to the end of the first optimizer step, launcher included.

A LoRA adapter of a tiny model under ZeRO-2 in one process: the trainer's pod command beside the usual script with TRL,
PEFT and DeepSpeed, started by torchrun. The trainer's pod also fetches model and data and checks their digests;
the script gets them as they are, tokenized.

Run: ``python -m benchmarks.trainer.startup``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.trainer.results import publish
from benchmarks.trainer.statistics import ratio_of
from benchmarks.trainer.turns import ONE_THREAD
from benchmarks.trainer.workload import PROJECT

from support.tiny_model import write_tiny_model  # isort: skip
from support.training_runs import free_port, make_plan, make_spec, write_prepared_data  # isort: skip

_TICKS = os.sysconf("SC_CLK_TCK")
_OF_ONE_PROCESS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")
_LAUNCH = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node=1"]


def cpu_of_tree(pid: int) -> float:
    """CPU-seconds of a process, its ended children and those that live."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(int(fields[index]) for index in (11, 12, 13, 14)) / _TICKS
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(cpu_of_tree(int(child)) for child in children)


def until_first_step(command: list[str], marker: Path, environment: dict[str, str], log: Path) -> float:
    """Runs a command until ``marker`` has content or exists, and returns the CPU-seconds of all its processes.

    Raises:
        RuntimeError: it ended before.
    """
    settings = {name: value for name, value in ONE_THREAD.items() if name not in _OF_ONE_PROCESS}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **settings, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        while not marker.exists() or (marker.suffix == ".jsonl" and '"step"' not in marker.read_text()):
            if process.poll() is not None:
                raise RuntimeError(f"{command} ended:\n{log.read_text()[-4000:]}")
            time.sleep(0.01)
        return cpu_of_tree(process.pid)
    finally:
        process.terminate()
        process.wait()


def ours(root: Path, index: int) -> float:
    """One start of a training pod, each with a store of its own: there is no checkpoint to go on from."""
    workspace, store = root / f"workspace-{index}", root / f"store-{index}"
    (store / "bucket").mkdir(parents=True)
    (store / "bucket" / "model").symlink_to(root / "store" / "bucket" / "model")
    spec = make_spec(tuning="lora", stage=2, held_out=False)
    plan_file = root / f"plan-{index}.json"
    plan_file.write_text(make_plan(store, spec, write_prepared_data(store / "bucket" / "prepared")).to_json())
    environment = {
        "JOB_COMPLETION_INDEX": "0",
        "FINETUNE_WORKSPACE": str(workspace),
        "FINETUNE_TERMINATION_LOG": str(root / f"termination-{index}"),
    }
    command = [sys.executable, "-W", "ignore", "-m", "finetune_trainer", "train", "--plan", str(plan_file)]
    return until_first_step(command, workspace / "metrics.jsonl", environment, root / "ours.log")


def theirs(root: Path, index: int) -> float:
    """One start of the usual script."""
    script = PROJECT / "benchmarks" / "trainer" / "peers" / "usual_script.py"
    marker = root / f"marker-{index}"
    command = [
        *_LAUNCH,
        f"--master-port={free_port()}",
        str(script),
        str(root / "store" / "bucket" / "model"),
        str(marker),
    ]
    return until_first_step(command, marker, {}, root / "theirs.log")


def measure(pairs: int) -> dict[str, Any]:
    """Interleaved starts, the first of each left out: it fills the caches of the disk."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_tiny_model(root / "store" / "bucket" / "model")
        found = [(ours(root, index), theirs(root, index)) for index in range(pairs + 1)][1:]
    mine, others = [pair[0] for pair in found], [pair[1] for pair in found]
    return {
        "cpu to the first step, ours / usual script": ratio_of(mine, others),
        "cpu-seconds to the first step, ours": sorted(mine)[len(mine) // 2],
        "cpu-seconds to the first step, usual script": sorted(others)[len(others) // 2],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    options = parser.parse_args()
    publish("startup", measure(options.pairs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
