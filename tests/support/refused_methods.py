"""Ways of training that are refused, as edits of a valid manifest with the one message of the API server each."""

from __future__ import annotations

from typing import Any

import pytest

PAIRS = {"spec/dataset/train/0/format": "preference"}


def _method(method: dict[str, Any], message: str, name: str, **fields: Any) -> Any:
    pairs = PAIRS if method.get("objective") in ("dpo", "orpo", "reward") else {}
    return pytest.param({"spec/method": method, **pairs, **fields}, message, id=name)


REFUSED_METHODS = [
    _method(
        {"objective": "sft", "dpo": {"beta": "0.2"}},
        "spec.method: Invalid value: method.dpo is set but method.objective is not dpo: a job has one objective; "
        "remove spec.method.dpo or set spec.method.objective to dpo",
        "options of another objective",
    ),
    _method(
        {"objective": "dpo", "tuning": "full", "dpo": {"reference": "Model"}},
        "spec.method: Invalid value: method.dpo.reference Model needs an adapter that can be disabled, and tuning full "
        "or partial has none; set spec.method.dpo.reference to Precomputed",
        "a live reference without an adapter",
    ),
    _method(
        {"objective": "dpo", "dpo": {"beta": "0"}},
        "spec.method.dpo: Invalid value: beta must be greater than zero and at most 1000, such as '0.1'",
        "beta zero",
    ),
    _method(
        {"objective": "dpo", "dpo": {"labelSmoothing": "0.1"}},
        "spec.method.dpo: Invalid value: labelSmoothing is an option of the loss robust; remove "
        "spec.method.dpo.labelSmoothing or set spec.method.dpo.loss to robust",
        "label smoothing of another loss",
    ),
    _method(
        {"objective": "kto", "kto": {"reference": "None"}},
        "spec.method.kto: Invalid value: kto needs a reference; remove spec.method.kto.reference or set it to Model or "
        "Precomputed",
        "kto without a reference",
        **{"spec/dataset/train/0/format": "unpaired"},
    ),
    _method(
        {"objective": "kto"},
        "spec: Invalid value: kto compares the rows of a batch with each other; set "
        "spec.hyperparameters.globalBatchSize to 2 or more",
        "kto with one row per batch",
        **{"spec/dataset/train/0/format": "unpaired", "spec/hyperparameters/globalBatchSize": 1},
    ),
    _method(
        {"tuning": "partial"},
        "spec.method: Invalid value: method.partial belongs to method.tuning partial, which needs it; set both or none "
        "of them",
        "partial without a part",
    ),
    _method(
        {"tuning": "partial", "partial": {}},
        "spec.method.partial: Invalid value: method.partial names nothing to train; set lastBlocks, parameters, "
        "embeddings or head of spec.method.partial",
        "partial that names nothing",
    ),
    _method(
        {"tuning": "lora", "quantization": {}},
        "spec.method: Invalid value: method.quantization is set but method.tuning is not qlora; remove "
        "spec.method.quantization or set spec.method.tuning to qlora",
        "quantization without qlora",
    ),
    _method(
        {"tuning": "qlora"},
        "spec: Invalid value: ZeRO stage 3 cannot partition 4-bit weights, which have no place for their quantization "
        "state; set spec.deepspeed.zeroStage to 2 or lower or spec.method.tuning to lora",
        "qlora with stage 3",
        **{"spec/deepspeed/zeroStage": 3},
    ),
]
