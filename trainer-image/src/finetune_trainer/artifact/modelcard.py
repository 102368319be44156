"""``README.md`` of an artifact: the model card of the Hugging Face hub. Pure, and without times or places: two runs of
one definition give the same bytes.

Metadata: https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from finetune_api.results import EvaluationResult, Prepared, SplitSummary
from finetune_api.spec import ArtifactForm, FineTuneJobSpec, Objective
from finetune_api.upstream import Upstream
from finetune_trainer.models.sources import base_model_name
from finetune_trainer.training.hyperparameters import effective_values

MODEL_CARD = "README.md"
# How the work is spread over processes, where weights were found, when training is given up, and what is shown of it:
# equal results may differ in all of them.
_NO_SHAPE = (
    "spec.deepspeed.",
    "spec.method.lora.initialAdapter.",
    "spec.method.dpo.referenceModel.",
    "spec.method.kto.referenceModel.",
    "spec.evaluation.divergence.",
    "spec.evaluation.samples",
)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def model_card(
    spec: FineTuneJobSpec,
    prepared: Prepared,
    evaluation: EvaluationResult | None,
    losses: Sequence[tuple[int, float]] = (),
    upstream: Upstream | None = None,
) -> str:
    """The text of the card.

    Args:
        spec: what was asked for, resolved.
        prepared: what the run ID stands for.
        evaluation: of the held-out split, if there is one.
        losses: step and training loss of a few steps.
        upstream: the job that this one started from.
    """
    name, method = base_model_name(spec), f"{spec.method.objective.value.upper()} ({spec.method.tuning.value})"
    sections = [
        _front_matter(spec, name),
        f"# {'LoRA adapter' if _is_adapter(spec) else 'Fine-tuned model'} of {name}\n",
        f"Trained by finetune-operator with {method}.{_merged(spec)}\n",
        _evaluation(evaluation),
        _curves(evaluation, losses),
        "## Data\n",
        _table(("split", "rows", "tokens", "loss tokens", "truncated rows"), _splits(prepared)),
        "## Hyperparameters\n",
        _table(("name", "value", "origin"), tuple(_settings(spec))),
        "## Provenance\n",
        _table(("name", "value"), tuple(_provenance(prepared, upstream).items())),
    ]
    return "\n".join(section for section in sections if section)


def _is_adapter(spec: FineTuneJobSpec) -> bool:
    return spec.method.tuning.adapts and spec.output.artifact is not ArtifactForm.MERGED


def _merged(spec: FineTuneJobSpec) -> str:
    merged = spec.output.artifact is ArtifactForm.MERGED
    return " The adapter that was trained is merged into these weights." if merged else ""


def _front_matter(spec: FineTuneJobSpec, name: str) -> str:
    adapter = _is_adapter(spec)
    library = "peft" if adapter else "transformers"
    task = "text-classification" if spec.method.objective is Objective.REWARD else "text-generation"
    fields: dict[str, object] = {"library_name": library, "pipeline_tag": task}
    if _HUB_NAME.fullmatch(name):
        # The hub refuses a base model that is no repository name.
        fields |= {"base_model": name, "base_model_relation": "adapter" if adapter else "finetune"}
    fields["tags"] = ["finetune-operator", spec.method.objective.value, spec.method.tuning.value]
    # JSON is YAML, and quotes what YAML would read as something else.
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---", ""])


def _evaluation(evaluation: EvaluationResult | None) -> str:
    if evaluation is None:
        return ""
    before, after = evaluation.before or {}, evaluation.after or {}
    rows = [("loss", evaluation.loss_before, evaluation.loss_after)]
    rows += [(name, value, after.get(name, "")) for name, value in before.items()]
    notes = []
    if evaluation.published_step is not None:
        notes.append(f"The weights are those after {evaluation.published_step} optimizer steps.")
    if evaluation.stopped_at_step is not None:
        notes.append(f"Training was stopped early after step {evaluation.stopped_at_step}.")
    table = _table(("held-out split", "before", "after"), tuple(rows))
    return "## Evaluation\n\n" + table + (f"\n{' '.join(notes)}\n" if notes else "")


def _curves(evaluation: EvaluationResult | None, losses: Sequence[tuple[int, float]]) -> str:
    """Training and held-out losses, a row for each step at which one is known."""
    training = dict(losses)
    held_out = {point.step: point.loss for point in (evaluation.history if evaluation else None) or ()}
    if not training:
        return ""
    rows = tuple(
        (step, f"{training[step]:.6g}" if step in training else "", held_out.get(step, ""))
        for step in sorted(training.keys() | held_out.keys())
    )
    return "## Losses\n\n" + _table(("optimizer step", "training", "held out"), rows)


def _splits(prepared: Prepared) -> tuple[tuple[object, ...], ...]:
    splits: Mapping[str, SplitSummary | None] = {"train": prepared.train, "held out": prepared.validation}
    return tuple(
        (name, split.rows, split.tokens, split.loss_tokens, split.truncated) for name, split in splits.items() if split
    )


def _settings(spec: FineTuneJobSpec) -> Iterator[tuple[object, ...]]:
    """What shapes the result."""
    for path, value, origin in effective_values(spec):
        if not path.startswith(_NO_SHAPE):
            yield path.removeprefix("spec."), value, origin


def _provenance(prepared: Prepared, upstream: Upstream | None) -> dict[str, object]:
    held_out = prepared.validation
    return {
        "run ID": prepared.run_id,
        "model digest": prepared.model_digest,
        **({"model revision": prepared.model_revision} if prepared.model_revision else {}),
        **({"reference model digest": prepared.reference.digest} if prepared.reference else {}),
        **({"initial adapter digest": prepared.adapter.digest} if prepared.adapter else {}),
        "training data digest": prepared.train.digest,
        **({"held-out data digest": held_out.digest} if held_out else {}),
        "optimizer steps planned": prepared.steps,
        **({"started from": f"the {upstream.kind} of run {upstream.run_id}"} if upstream else {}),
    }


def _table(head: tuple[str, ...], rows: tuple[tuple[object, ...], ...]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines) + "\n"


def _cell(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
