"""A small adapter's folder and the prepared run that it belongs to, for tests that publish."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from finetune_api.results import EvaluationResult, Prepared, SplitSummary
from finetune_api.runid import run_id, training_definition
from support.run_plans import Place

DIGEST = "sha256:" + "a" * 64
COUNTS = SplitSummary(digest=DIGEST, rows=8, tokens=80, loss_tokens=40, truncated=1)
EVALUATION = EvaluationResult(loss_before="2.5", loss_after="1.25")
RECORD = {"versions": {"torch": "2.13.0"}, "seconds": 1.5}


def prepared_of(place: Place) -> Prepared:
    """A prepared run, as the prepare stage would have found it."""
    definition = training_definition(place.spec(), DIGEST, DIGEST, None)
    return Prepared(run_id=run_id(definition), model_digest=DIGEST, data_uri="s3://b/d", train=COUNTS, steps=4)


def adapter_tensors() -> dict[str, NDArray[np.float32]]:
    names = [f"base_model.model.model.layers.{layer}.self_attn.q_proj" for layer in range(2)]
    down = {f"{name}.lora_A.weight": np.ones((2, 8), dtype=np.float32) for name in names}
    return down | {f"{name}.lora_B.weight": np.ones((8, 2), dtype=np.float32) for name in names}


def write_adapter(folder: Path, tensors: dict[str, NDArray[np.float32]] | None = None) -> Path:
    """An adapter's folder, with what a run leaves beside it."""
    folder.mkdir(exist_ok=True)
    config = {"base_model_name_or_path": "example/tiny", "r": 2, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(adapter_tensors() if tensors is None else tensors, folder / "adapter_model.safetensors")
    (folder / "README.md").write_text("# card\n")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    return folder
