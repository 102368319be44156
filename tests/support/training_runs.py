"""Plans and prepared data for real training runs on a tiny model, without an object store or the prepare stage."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune_api.plan import Device, JobReference, RunPlan, StoreAccess, World, store_uses, total_steps
from finetune_api.results import Prepared, SplitSummary
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.splits import (
    TRAIN_FILE,
    VALIDATION_FILE,
    SplitArrays,
    SplitsSummary,
    TokenizedSplit,
    write_split,
)
from finetune_trainer.models.sources import open_model
from support.warm import Program

VOCABULARY = 256
BUCKET = "bucket"


_FORMATS = {"sft": "chat", "kto": "unpaired", "dpo": "preference", "orpo": "preference", "reward": "preference"}
_TUNINGS: dict[str, dict[str, Any]] = {
    "full": {},
    "partial": {"partial": {"lastBlocks": 1, "parameters": ["model.norm.*"]}},
    "lora": {"lora": {"rank": 4, "alpha": 8}},
    "qlora": {"lora": {"rank": 4, "alpha": 8}},
}


def make_spec(
    *,
    objective: str = "sft",
    tuning: str = "lora",
    method: Mapping[str, Any] | None = None,
    precision: str = "fp32",
    stage: int = 2,
    nodes: int = 1,
    processes: int = 1,
    micro_batch_size: int = 2,
    gpus: int = 0,
    held_out: bool = True,
    samples: int = 0,
    **hyperparameters: Any,
) -> FineTuneJobSpec:
    """A spec whose training uses every option that changes the numbers."""
    options = {
        "maxSteps": 20,
        "learningRate": "1e-3",
        "schedule": "cosine",
        "warmupSteps": 3,
        "weightDecay": "0.1",
        "maxGradNorm": "0.5",
        "globalBatchSize": 8,
        "maxSequenceLength": 64,
        "precision": precision,
        "seed": 7,
    }
    kind = {"format": _FORMATS[objective]}
    held_out_source = {"source": f"s3://{BUCKET}/data/validation.jsonl"} | kind
    own_split = {"validation": {"sources": [held_out_source]}} if held_out else {}
    return FineTuneJobSpec.model_validate(
        {
            "model": {"source": "s3://bucket/model", "name": "example/tiny-llama"},
            "dataset": {"train": [{"source": f"s3://{BUCKET}/data/train.jsonl"} | kind], **own_split},
            "method": {"objective": objective, "tuning": tuning} | _TUNINGS[tuning] | dict(method or {}),
            "hyperparameters": options | hyperparameters,
            "resources": {"nodes": nodes, "gpusPerNode": gpus} | ({} if gpus else {"processesPerNode": processes}),
            "deepspeed": {"zeroStage": stage, "microBatchSize": micro_batch_size},
            "evaluation": {"samples": samples},
            "output": {"destination": f"s3://{BUCKET}/runs"},
        }
    )


def random_split(rows: int, seed: int) -> SplitArrays:
    """Rows of 4 to 30 random tokens, of which some six in ten carry loss; the last of several has no loss at all."""
    random = np.random.default_rng(seed)
    lengths = random.integers(4, 30, rows)
    tokens = int(lengths.sum())
    mask = (random.random(tokens) < 0.6).astype(np.uint8)
    if rows > 1:
        mask[tokens - int(lengths[-1]) :] = 0
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return SplitArrays(random.integers(0, VOCABULARY, tokens).astype(np.int32), mask, offsets)


def random_completions(rows: int, seed: int, each: int = 1) -> SplitArrays:
    """Prompts of 2 to 12 random tokens with ``each`` completions of as many, one sequence per completion."""
    random = np.random.default_rng(seed)
    ids: list[int] = []
    mask: list[int] = []
    offsets = [0]
    for _ in range(rows):
        prompt = random.integers(0, VOCABULARY, random.integers(2, 13)).tolist()
        for _ in range(each):
            completion = random.integers(0, VOCABULARY, random.integers(2, 13)).tolist()
            ids += prompt + completion
            mask += [0] * len(prompt) + [1] * len(completion)
            offsets.append(len(ids))
    return SplitArrays(np.array(ids, np.int32), np.array(mask, np.uint8), np.array(offsets, np.int64))


def split_for(objective: str, rows: int, seed: int) -> SplitArrays:
    """Random rows of the kind that an objective learns from."""
    if objective == "sft":
        return random_split(rows, seed)
    if objective == "kto":
        desirable = np.random.default_rng(seed).integers(0, 2, rows).astype(np.uint8)
        return replace(random_completions(rows, seed), desirable=desirable)
    return replace(random_completions(rows, seed, each=2), paired=True)


def write_prepared_data(
    folder: Path, train_rows: int = 21, validation_rows: int = 3, objective: str = "sft"
) -> SplitsSummary:
    """What the prepare stage leaves: two splits and their summary."""
    folder.mkdir(parents=True)
    splits = {
        TRAIN_FILE: split_for(objective, train_rows, 0),
        VALIDATION_FILE: split_for(objective, validation_rows, 1),
    }
    for name, split in splits.items():
        write_split(folder / name, split)
    digests = {name: f"sha256:{hashlib.sha256((folder / name).read_bytes()).hexdigest()}" for name in splits}
    summary = SplitsSummary(
        train=_summary(digests[TRAIN_FILE], splits[TRAIN_FILE]),
        validation=_summary(digests[VALIDATION_FILE], splits[VALIDATION_FILE]),
        files=digests,
    )
    (folder / "summary.json").write_text(summary.to_json())
    return summary


def _summary(digest: str, split: SplitArrays) -> SplitSummary:
    return SplitSummary(
        digest=digest,
        rows=(len(split.offsets) - 1) // (2 if split.paired else 1),
        tokens=len(split.input_ids),
        loss_tokens=int(split.loss_mask.sum()),
        truncated=0,
    )


def open_splits(folder: Path) -> tuple[TokenizedSplit, TokenizedSplit]:
    """Training and held-out rows of :func:`write_prepared_data`."""
    return TokenizedSplit(folder / TRAIN_FILE), TokenizedSplit(folder / VALIDATION_FILE)


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_plan(store: Path, spec: FineTuneJobSpec, summary: SplitsSummary, **changes: Any) -> RunPlan:
    """A plan over a store that is a folder, with ``bucket/model`` and ``bucket/prepared`` in it."""
    resources = spec.resources
    world = World(
        nodes=resources.nodes,
        processes_per_node=resources.processes,
        threads_per_process=1,
        device=Device.CUDA if resources.gpus_per_node else Device.CPU,
        master_address="127.0.0.1",
        master_port=free_port(),
    )
    access = StoreAccess(endpoint_url=f"file://{store}")
    plan = RunPlan(
        job=JobReference(namespace="team", name="tiny", uid="7d1c"),
        attempt=1,
        spec=spec,
        world=world,
        stores=dict.fromkeys(store_uses(spec), access),
    )
    prepared = Prepared(
        # One per spec: runs of one ID would go on from each other's checkpoints.
        run_id="r-" + hashlib.sha256(spec.to_json().encode()).hexdigest()[:20],
        model_digest=open_model(plan, os.environ, store / "probe").digest(),
        data_uri=f"s3://{BUCKET}/prepared",
        train=summary.train,
        validation=summary.validation if spec.dataset.validation else None,
        steps=total_steps(spec, summary.train.rows),
    )
    return plan.model_copy(update={"prepared": prepared} | changes)


def start_pod(
    plan: RunPlan, folder: Path, node: int = 0, stage: str = "train", **environment: str
) -> subprocess.Popen[str]:
    """Starts the main process of one training pod; its log goes to ``log`` in its folder."""
    arguments, variables = _pod(plan, folder, node, stage, environment)
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "finetune_trainer", *arguments],
            env=variables,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )


def fork_pod(plan: RunPlan, folder: Path, node: int = 0, stage: str = "train", **environment: str) -> Program:
    """Like :func:`start_pod`, of a process that has imported already what trains."""
    arguments, variables = _pod(plan, folder, node, stage, environment)
    return Program("finetune_trainer", arguments, folder / "log", variables)


def _pod(
    plan: RunPlan, folder: Path, node: int, stage: str, environment: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of a pod's main process."""
    folder.mkdir(parents=True, exist_ok=True)
    plan_file = folder / "given-plan.json"
    plan_file.write_text(plan.to_json())
    settings = {
        "JOB_COMPLETION_INDEX": str(node),
        "FINETUNE_WORKSPACE": str(folder / "workspace"),
        "FINETUNE_TERMINATION_LOG": str(folder / "termination-log"),
        "FINETUNE_RENDEZVOUS_TIMEOUT": "60",
        "FINETUNE_COLLECTIVE_TIMEOUT": "60",
    }
    return [stage, "--plan", str(plan_file)], {**os.environ, **settings, **environment}
