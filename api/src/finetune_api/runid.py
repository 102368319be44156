"""The run ID: a digest of everything that defines the result of a run, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from finetune_api.spec import (
    ArtifactForm,
    DatasetSpec,
    EvaluationSpec,
    FineTuneJobSpec,
    HyperparametersSpec,
    MethodSpec,
    Publish,
    source_settings,
)

# Raise it when a change of the trainer changes the weights that the same definition gives.
RECIPE_VERSION = 2


# Where weights come from is no part of a run: their digests are.
_PLACES = frozenset({"initialAdapter", "referenceModel"})
# Made once: json.dumps makes one for each document, and prepare has a document per row.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_json(document: Any) -> bytes:
    """One byte string per JSON value: sorted keys, no spaces, UTF-8."""
    return _CANONICAL.encode(document).encode()


def sha256_digest(content: bytes) -> str:
    """``sha256:`` and the hexadecimal SHA-256 of some bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def training_definition(
    spec: FineTuneJobSpec,
    model_digest: str,
    train_digest: str,
    validation_digest: str | None,
    reference_digest: str | None = None,
) -> dict[str, Any]:
    """The canonical definition of a run. Names, places, resources and scheduling are no part of it.

    ``reference_digest`` is of the model that the spec compares with, where it names one.
    """
    data: dict[str, Any] = {"train": train_digest, "validation": validation_digest}
    data["tooLong"] = spec.dataset.too_long.value
    return {
        "recipe": RECIPE_VERSION,
        "model": {"digest": model_digest, "name": spec.model.name},
        "data": data | data_settings(spec.dataset),
        "method": _method_definition(spec.method),
        "hyperparameters": _hyperparameters(spec.hyperparameters),
        "evaluation": _evaluation(spec.evaluation),
        **({"reference": {"digest": reference_digest}} if reference_digest else {}),
        **({"artifact": spec.output.artifact.value} if spec.output.artifact is ArtifactForm.MERGED else {}),
    }


def _hyperparameters(options: HyperparametersSpec) -> dict[str, Any]:
    """All of them, since compiled code rounds at other places; but what is not compiled has the ID that it had before
    there was a choice."""
    return {key: value for key, value in options.to_wire().items() if (key, value) != ("compile", False)}


def data_settings(dataset: DatasetSpec) -> dict[str, Any]:
    """How rows are read, source by source, and rendered; empty for chat rows read once by the model's own template."""
    held_out = (dataset.validation.sources if dataset.validation else None) or ()
    settings = {
        "sources": [source_settings(source) for source in dataset.train],
        "validationSources": [source_settings(source) for source in held_out],
        "chatTemplate": dataset.chat_template and sha256_digest(dataset.chat_template.encode()),
    }
    return {name: value for name, value in settings.items() if value and (isinstance(value, str) or any(value))}


def _evaluation(evaluation: EvaluationSpec) -> dict[str, Any]:
    """What of it changes the weights that are published: when a run is given up does not, nor what is shown of it, nor
    the usual choice."""
    usual = {"publish"} if evaluation.publish is Publish.LAST else set()
    return {key: value for key, value in evaluation.to_wire().items() if key not in {"divergence", "samples", *usual}}


def _method_definition(method: MethodSpec) -> dict[str, Any]:
    """Objective and tuning, and the options of these two only, defaults written out.

    What is off is left out, so that a new switch changes no run ID.
    """
    options: dict[str, Any] = {"lora": None}
    for name, document in method.tuning_options.items():
        options[name] = {
            key: value for key, value in document.to_wire().items() if value is not False and key not in _PLACES
        }
    if method.objective_options:
        options[method.objective.value] = {
            key: value for key, value in method.objective_options.to_wire().items() if key not in _PLACES
        }
    return {"objective": method.objective.value, "tuning": method.tuning.value, **options}


def run_id(definition: dict[str, Any]) -> str:
    """``r-`` and 80 bits of the SHA-256 of the canonical definition."""
    return "r-" + hashlib.sha256(canonical_json(definition)).hexdigest()[:20]
