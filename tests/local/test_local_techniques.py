"""Techniques from manifest to verified artifact, for real: rows of each kind, artifacts of each kind."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.local_store import Store

pytestmark = pytest.mark.timeout(900)

PAIRS = [
    {"prompt": f"What is {n} plus one?", "chosen": f"{n} plus one is {n + 1}.", "rejected": f"It is {n - 1}."}
    for n in range(24)
]
JUDGED = [
    {"prompt": row["prompt"], "completion": row["chosen" if good else "rejected"], "label": good}
    for row in PAIRS
    for good in (True, False)
]
CASES: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "dora": ("pairs", {"objective": "dpo", "lora": {"rank": 4, "dora": True}}, "adapter", "vLLM does not serve DoRA"),
    "judged": ("judged", {"objective": "kto", "tuning": "partial", "partial": {"lastBlocks": 1}}, "model", ""),
    "scorer": ("pairs", {"objective": "reward", "tuning": "full"}, "model", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_a_technique_ends_in_a_verified_artifact(store: Store, case: str) -> None:
    rows, method, kind, note = CASES[case]
    for name, content in (("pairs", PAIRS), ("judged", JUDGED)):
        (store.bucket / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    form = {"pairs": "preference", "judged": "unpaired"}[rows]
    split = {"train": [{"source": f"s3://finetune/{rows}.jsonl", "format": form}], "validation": {"fraction": "0.2"}}
    manifest = store.manifest(
        dataset=split,
        method=method,
        hyperparameters={"maxSteps": 3, "globalBatchSize": 4, "maxSequenceLength": 64, "learningRate": "1e-2"},
        resources={"nodes": 1, "processesPerNode": 2},
    )
    result = store.run(manifest)
    assert result.code == 0, result.stderr
    status = result.status
    assert status["artifact"]["kind"] == kind
    assert [note in said for said in status["plan"].get("notes", [])] == [True] * bool(note)
    progress = status["progress"]
    assert 0 < progress["trainableParameters"] <= progress["totalParameters"]
    assert (progress["trainableParameters"] == progress["totalParameters"]) == (method.get("tuning") == "full")
    assert {"rewardAccuracy", "rewardMargin"} <= status["evaluation"]["after"].keys()
