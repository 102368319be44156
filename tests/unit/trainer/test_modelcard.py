"""The model card."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from finetune_api.results import EvaluationResult, Prepared, SplitSummary
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.artifact.modelcard import model_card

TRAIN = SplitSummary(digest="sha256:" + "1" * 64, rows=90, tokens=900, loss_tokens=300, truncated=2)
HELD_OUT = SplitSummary(digest="sha256:" + "2" * 64, rows=10, tokens=100, loss_tokens=30, truncated=0)
PREPARED = Prepared(
    run_id="r-" + "a" * 20,
    model_digest="sha256:" + "3" * 64,
    model_revision="c" * 40,
    data_uri="s3://bucket/data",
    train=TRAIN,
    validation=HELD_OUT,
    steps=12,
)


def spec_with(**fields: Any) -> FineTuneJobSpec:
    base = {
        "model": {"source": "hf://org/base"},
        "dataset": {"train": [{"source": "s3://private-bucket/rows.jsonl"}]},
        "output": {"destination": "s3://private-bucket/results"},
    }
    return FineTuneJobSpec.model_validate(base | fields)


def front_matter(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def test_the_metadata_of_an_adapter() -> None:
    assert front_matter(model_card(spec_with(), PREPARED, None)) == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "base_model": "org/base",
        "base_model_relation": "adapter",
        "tags": ["finetune-operator", "sft", "lora"],
    }


def test_the_metadata_of_a_model() -> None:
    fields = front_matter(model_card(spec_with(method={"tuning": "full"}), PREPARED, None))
    assert (fields["library_name"], fields["base_model_relation"]) == ("transformers", "finetune")


@pytest.mark.parametrize("source", ["s3://bucket/model", "pvc://claim/model"])
def test_a_base_model_that_is_on_no_hub_is_not_in_the_metadata(source: str) -> None:
    card = model_card(spec_with(model={"source": source}), PREPARED, None)
    assert "base_model" not in front_matter(card)
    assert f"# LoRA adapter of {source}\n" in card


def test_the_body_tells_what_was_done() -> None:
    card = model_card(spec_with(), PREPARED, EvaluationResult(loss_before="2.5", loss_after="1.25"))
    for line in (
        "| base model | 2.5 |",
        "| this model | 1.25 |",
        "| train | 90 | 900 | 300 | 2 |",
        "| held out | 10 | 100 | 30 | 0 |",
        "| learningRate | 2e-4 |",
        "| lora.targetModules | all-linear |",
        "| run ID | r-aaaaaaaaaaaaaaaaaaaa |",
        f"| model revision | {'c' * 40} |",
        "| optimizer steps | 12 |",
    ):
        assert line in card.splitlines()


def test_the_card_says_nothing_of_places() -> None:
    assert "private-bucket" not in model_card(spec_with(), PREPARED, None)


def test_without_held_out_data_there_is_no_evaluation() -> None:
    card = model_card(spec_with(), PREPARED.model_copy(update={"validation": None}), None)
    assert "## Evaluation" not in card
    assert "held out" not in card
