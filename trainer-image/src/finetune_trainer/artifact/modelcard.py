"""``README.md`` of an artifact: the model card of the Hugging Face hub. Pure, and without times or places: two runs of
one definition give the same bytes.

Metadata: https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from finetune_api.results import EvaluationResult, Prepared, SplitSummary
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.models.sources import base_model_name

MODEL_CARD = "README.md"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def model_card(spec: FineTuneJobSpec, prepared: Prepared, evaluation: EvaluationResult | None) -> str:
    """The text of the card."""
    name, method = base_model_name(spec), f"{spec.method.objective.value.upper()} ({spec.method.tuning.value})"
    sections = [
        _front_matter(spec, name),
        f"# {'LoRA adapter' if spec.method.tuning.adapts else 'Fine-tuned model'} of {name}\n",
        f"Trained by finetune-operator with {method}; loss on the assistant's turns only.\n",
        _evaluation(evaluation),
        "## Data\n",
        _table(("split", "rows", "tokens", "loss tokens", "truncated rows"), _splits(prepared)),
        "## Hyperparameters\n",
        _table(("name", "value"), tuple(_settings(spec).items())),
        "## Provenance\n",
        _table(("name", "value"), tuple(_provenance(prepared).items())),
    ]
    return "\n".join(section for section in sections if section)


def _front_matter(spec: FineTuneJobSpec, name: str) -> str:
    lora = spec.method.tuning.adapts
    fields: dict[str, object] = {"library_name": "peft" if lora else "transformers", "pipeline_tag": "text-generation"}
    if _HUB_NAME.fullmatch(name):
        # The hub refuses a base model that is no repository name.
        fields |= {"base_model": name, "base_model_relation": "adapter" if lora else "finetune"}
    fields["tags"] = ["finetune-operator", spec.method.objective.value, spec.method.tuning.value]
    # JSON is YAML, and quotes what YAML would read as something else.
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---", ""])


def _evaluation(evaluation: EvaluationResult | None) -> str:
    if evaluation is None:
        return ""
    rows = (("base model", evaluation.loss_before), ("this model", evaluation.loss_after))
    return "## Evaluation\n\n" + _table(("held-out loss, nats per token", "value"), rows)


def _splits(prepared: Prepared) -> tuple[tuple[object, ...], ...]:
    splits: Mapping[str, SplitSummary | None] = {"train": prepared.train, "held out": prepared.validation}
    return tuple(
        (name, split.rows, split.tokens, split.loss_tokens, split.truncated) for name, split in splits.items() if split
    )


def _settings(spec: FineTuneJobSpec) -> dict[str, object]:
    method = spec.method
    documents = dict(method.tuning_options)
    if method.objective_options:
        documents[method.objective.value] = method.objective_options
    options = {f"{name}.{key}": value for name, found in documents.items() for key, value in found.to_wire().items()}
    return spec.hyperparameters.to_wire() | options


def _provenance(prepared: Prepared) -> dict[str, object]:
    held_out = prepared.validation
    return {
        "run ID": prepared.run_id,
        "model digest": prepared.model_digest,
        **({"model revision": prepared.model_revision} if prepared.model_revision else {}),
        "training data digest": prepared.train.digest,
        **({"held-out data digest": held_out.digest} if held_out else {}),
        "optimizer steps": prepared.steps,
    }


def _table(head: tuple[str, ...], rows: tuple[tuple[object, ...], ...]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines) + "\n"


def _cell(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
