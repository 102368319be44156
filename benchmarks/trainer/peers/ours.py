"""This project's training process, with everything that it does at each step."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from benchmarks.trainer.turns import Turns
from benchmarks.trainer.workload import LEARNING_RATE, MAX_GRAD_NORM, SEED, Workload

from finetune_api.outcomes import Stage
from finetune_api.plan import RunPlan
from finetune_api.progress import Progress
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.splits import SplitArrays, Splits, TokenizedSplit, write_split
from finetune_trainer.progress import SilentReporter
from finetune_trainer.training.train import Training
from finetune_trainer.training.worker import join_world
from finetune_trainer.workspace import Workspace
from support.training_runs import make_plan, make_spec, write_prepared_data


class _TakeTurns(SilentReporter):
    """Hears of each step as the operator would."""

    def __init__(self, turns: Turns, metrics: Path) -> None:
        self._turns, self._metrics = turns, metrics

    def report(self, stage: Stage, message: str | None = None, progress: Progress | None = None) -> None:
        if progress is None:
            return
        if progress.step == 1:
            # The first step also pays for what is loaded on first use.
            self._turns.start()
            return
        step = json.loads(self._metrics.read_bytes().splitlines()[-1])
        self._turns.step(step["loss"], step["tokens"])


def spec_of(workload: Workload) -> FineTuneJobSpec:
    """The manifest's spec that asks for a workload."""
    return make_spec(
        tuning="full",
        precision="fp32",
        stage=workload.zero_stage,
        held_out=False,
        micro_batch_size=workload.batch,
        globalBatchSize=workload.batch,
        maxSequenceLength=workload.longest,
        packing=workload.packing,
        learningRate=str(LEARNING_RATE),
        schedule="constant",
        warmupSteps=0,
        weightDecay="0",
        maxGradNorm=str(MAX_GRAD_NORM),
        maxSteps=1_000_000,
        seed=SEED,
    )


def write_rows(workload: Workload, file: Path) -> TokenizedSplit:
    """The workload's rows as the prepare stage leaves them, all tokens with loss."""
    ids = np.concatenate(workload.rows())
    offsets = np.concatenate([[0], np.cumsum(workload.lengths)]).astype(np.int64)
    write_split(file, SplitArrays(ids, np.ones(len(ids), dtype=np.uint8), offsets))
    return TokenizedSplit(file)


def plan_of(workload: Workload, store: Path) -> RunPlan:
    """A plan over a store that is a folder with the model in it."""
    summary = write_prepared_data(store / "bucket" / "prepared")
    return make_plan(store, spec_of(workload), summary)


def main(answers: int, block: int, folder: Path, workload: Workload) -> None:
    """Trains as rank 0 of a world of one."""
    store = folder / f"ours-{os.getpid()}"
    (store / "bucket").mkdir(parents=True)
    (store / "bucket" / "model").symlink_to(folder)
    plan = plan_of(workload, store)
    workspace = Workspace(store / "workspace")
    workspace.root.mkdir()
    workspace.model.symlink_to(folder)
    place = join_world(plan, os.environ)
    splits = Splits(write_rows(workload, store / "rows"), None)
    assert plan.prepared is not None
    reporter = _TakeTurns(Turns(answers, block), workspace.metrics)
    Training(plan, plan.prepared, workspace, place, reporter).run(splits)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Workload.from_json(sys.argv[4]))
