"""The run ID: a digest of everything that defines the result of a run, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from finetune_api.spec import FineTuneJobSpec, LoraOptions, Tuning

# Raise it when a change of the trainer changes the weights that the same definition gives.
RECIPE_VERSION = 2


def canonical_json(document: Any) -> bytes:
    """One byte string per JSON value: sorted keys, no spaces, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256_digest(content: bytes) -> str:
    """``sha256:`` and the hexadecimal SHA-256 of some bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def training_definition(
    spec: FineTuneJobSpec, model_digest: str, train_digest: str, validation_digest: str | None
) -> dict[str, Any]:
    """The canonical definition of a run. Names, places, resources and scheduling are no part of it."""
    method = spec.method
    lora = (method.lora or LoraOptions()).to_wire() if method.tuning is Tuning.LORA else None
    return {
        "recipe": RECIPE_VERSION,
        "model": {"digest": model_digest, "name": spec.model.name},
        "data": {"train": train_digest, "validation": validation_digest, "tooLong": spec.dataset.too_long.value},
        "method": {"objective": method.objective.value, "tuning": method.tuning.value, "lora": lora},
        "hyperparameters": spec.hyperparameters.to_wire(),
        "evaluation": spec.evaluation.to_wire(),
    }


def run_id(definition: dict[str, Any]) -> str:
    """``r-`` and 80 bits of the SHA-256 of the canonical definition."""
    return "r-" + hashlib.sha256(canonical_json(definition)).hexdigest()[:20]
