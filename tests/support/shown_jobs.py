"""FineTuneJobs as the API server gives them back in each state, for what the command line shows of them."""

from __future__ import annotations

import copy
import math
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_cli.render.watching import Seen

Object = dict[str, Any]

NOW = datetime(2026, 3, 1, 12, 30, 0, tzinfo=UTC)
RUN_ID = "r-0123456789abcdef0123"


def stamp(seconds_ago: float) -> str:
    return (NOW - timedelta(seconds=seconds_ago)).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, status: str, reason: str, message: str = "", ago: float = 900) -> Object:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": stamp(ago),
        "observedGeneration": 1,
    }


def job(name: str, namespace: str = "team-a", status: Object | None = None, **resources: Any) -> Object:
    """A job with the defaults that the API server fills in."""
    document: Object = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-of-{name}",
            "creationTimestamp": stamp(1800),
            "generation": 1,
        },
        "spec": {
            "model": {"source": "hf://HuggingFaceTB/SmolLM2-135M-Instruct", "revision": "v1"},
            "dataset": {"train": [{"source": "s3://team-data/support/train.jsonl", "format": "chat"}]},
            "method": {
                "objective": "sft",
                "tuning": "lora",
                "lora": {"rank": 16, "alpha": 32, "dropout": "0", "targetModules": ["all-linear"]},
            },
            "hyperparameters": {"epochs": 2, "learningRate": "2e-4", "globalBatchSize": 64},
            "resources": {"nodes": 2, "gpusPerNode": 8, "cpu": "32", "memory": "256Gi"} | resources,
            "deepspeed": {"zeroStage": 2, "microBatchSize": 1},
            "output": {"destination": "s3://team-models/support"},
            "suspend": False,
            "backoffLimit": 3,
        },
    }
    return document | ({"status": copy.deepcopy(status)} if status is not None else {})


def _plan() -> Object:
    split = {"digest": "sha256:" + "b" * 64, "rows": 4096, "tokens": 812345, "lossTokens": 301122, "truncated": 3}
    return {
        "attempt": 2,
        "worldSize": 16,
        "gradientAccumulationSteps": 4,
        "totalSteps": 128,
        "modelRevision": "7e27bd9f95328f0f3b08261d1252705110c806f8",
        "dataURI": "s3://team-models/support/team-a/_data/abc",
        "train": split,
        "profile": {"name": "small", "generation": 3, "spec": {"defaults": {"hyperparameters": {"epochs": 2}}}},
        "defaults": {"hyperparameters": {"seed": 42}},
        "fields": [
            {"path": "spec.model.source", "value": "hf://HuggingFaceTB/SmolLM2-135M-Instruct", "origin": "Manifest"},
            {"path": "spec.hyperparameters.epochs", "value": "2", "origin": "Profile"},
            {"path": "spec.hyperparameters.seed", "value": "42", "origin": "Default"},
            {"path": "spec.deepspeed.microBatchSize", "value": "1", "origin": "Planned"},
        ],
    }


def progress(step: int = 54) -> Object:
    return {
        "step": step,
        "totalSteps": 128,
        "percent": 100 * step // 128,
        "epoch": "0.84375",
        "loss": "1.27641",
        "evalLoss": "1.41",
        "learningRate": "0.000131",
        "gradNorm": "0.8123",
        "tokensPerSecond": "51234.7",
        "eta": "6m10s",
        "updated": stamp(4),
    }


def _prepared() -> Object:
    found = {"name": "prepare", "started": stamp(1790), "finished": stamp(1750), "message": "4096 rows, 812345 tokens"}
    return dict(found)


TRAINING: Object = {
    "observedGeneration": 1,
    "state": "Training",
    "runID": RUN_ID,
    "startTime": stamp(1795),
    "plan": _plan(),
    "stages": [_prepared(), {"name": "train", "started": stamp(600)}],
    "attempts": [
        {
            "number": 1,
            "started": stamp(1740),
            "finished": stamp(700),
            "outcome": "PodLost",
            "message": "pod support-bot-train-1-1-x7k2p was evicted: the node was low on memory",
        },
        {"number": 2, "started": stamp(690)},
    ],
    "progress": progress(),
    "conditions": [
        condition("Validated", "True", "SpecValid", ago=1790),
        condition("Prepared", "True", "Prepared", ago=1750),
        condition("Running", "True", "Training", "all 2 pods are running", ago=600),
        condition("Complete", "False", "NotPublished", ago=1790),
        condition("Failed", "False", "NotFailed", ago=1790),
        condition("Reconciling", "False", "Settled", ago=600),
    ],
}

COMPLETE: Object = TRAINING | {
    "state": "Complete",
    "completionTime": stamp(60),
    "stages": [
        _prepared(),
        {"name": "train", "started": stamp(600), "finished": stamp(180)},
        {"name": "evaluate", "started": stamp(180), "finished": stamp(120)},
        {"name": "publish", "started": stamp(120), "finished": stamp(60), "message": "7 files"},
    ],
    "attempts": [{"number": 1, "started": stamp(690), "finished": stamp(60), "outcome": "Succeeded"}],
    "progress": progress(128) | {"eta": "0s"},
    "evaluation": {
        "lossBefore": "2.51",
        "lossAfter": "1.2549",
        "before": {"tokenAccuracy": "0.21", "perplexity": "12.3049"},
        "after": {"tokenAccuracy": "0.713", "perplexity": "3.50748"},
        "history": [{"step": 0, "loss": "2.51"}, {"step": 64, "loss": "1.41"}, {"step": 128, "loss": "1.2549"}],
        "publishedStep": 128,
    },
    "artifact": {
        "uri": f"s3://team-models/support/team-a/support-bot/{RUN_ID}",
        "kind": "adapter",
        "manifestDigest": "sha256:" + "c" * 64,
        "contentDigest": "sha256:" + "d" * 64,
        "files": 9,
        "bytes": 39_123_456,
    },
    "conditions": [
        condition("Running", "False", "Finished", ago=60),
        condition("Complete", "True", "Published", "verified artifact", ago=60),
        condition("Failed", "False", "NotFailed", ago=1790),
    ],
}

FAILED: Object = {
    "observedGeneration": 1,
    "state": "Failed",
    "startTime": stamp(1795),
    "completionTime": stamp(1700),
    "stages": [{"name": "prepare", "started": stamp(1790)}],
    "failure": {
        "class": "DataError",
        "message": "s3://team-data/support/train.jsonl line 17: the row has no assistant turn",
        "remedy": "Add an assistant turn to the row, or remove it.",
    },
    "conditions": [
        condition("Failed", "True", "PrepareFailed", "line 17 has no assistant turn", ago=1700),
        condition("Complete", "False", "NotPublished", ago=1790),
    ],
}

SUSPENDED: Object = {
    "state": "Suspended",
    "conditions": [condition("Suspended", "True", "Suspended", "spec.suspend is true", ago=300)],
}

# What a newer operator may write, and what a damaged object may hold.
STRANGE: Object = {
    "state": "Meditating",
    "runID": 7,
    "conditions": [condition("Enlightened", "Maybe", "Zen", "sitting"), "no condition"],
    "checkpoint": {"step": 40, "uri": "s3://team-models/checkpoints/40", "worldSize": 16},
    "progress": {"step": "many", "totalSteps": None, "samplesPerSecond": "3.5"},
    "stages": "none",
    "attempts": [{"number": 1, "node": "gpu-7", "resumedFromStep": 40, "outcome": "Abducted"}],
    "evaluation": {"lossBefore": "2.5", "tokenAccuracy": {"before": "0.31", "after": "0.62"}},
    "losses": 2,
}

JOBS = {
    "training": job("support-bot", status=TRAINING),
    "complete": job("support-bot", status=COMPLETE),
    "failed": job("legal", "team-b", FAILED, gpusPerNode=0, nodes=1),
    "pending": job("new", "team-b"),
    "suspended": job("paused", "team-b", SUSPENDED),
    "strange": job("odd", "team-c", STRANGE),
}


def followed(steps: int, **status: Any) -> Seen:
    """A job seen at every step, with losses that fall."""
    seen = Seen({})
    for step in range(1, steps + 1):
        document = job("support-bot", status=TRAINING | status)
        document["status"]["progress"] |= {
            "step": step,
            "loss": f"{1.2 + 1.4 * math.exp(-step / 12):.4f}",
            "evalLoss": f"{1.3 + 1.2 * math.exp(-(step // 10) * 10 / 14):.4f}",
        }
        seen = seen.with_job(document)
    return seen
