"""The model card."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from finetune_api.results import EvaluationResult, Prepared, SplitSummary
from finetune_api.spec import FineTuneJobSpec
from finetune_api.upstream import Upstream
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


def test_a_reward_model_classifies() -> None:
    card = model_card(spec_with(method={"objective": "reward"}), PREPARED, None)
    assert front_matter(card)["pipeline_tag"] == "text-classification"


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
        "| held-out split | before | after |",
        "| loss | 2.5 | 1.25 |",
        "| train | 90 | 900 | 300 | 2 |",
        "| held out | 10 | 100 | 30 | 0 |",
        "| hyperparameters.learningRate | 2e-4 | default |",
        "| method.lora.targetModules | all-linear | default |",
        "| run ID | r-aaaaaaaaaaaaaaaaaaaa |",
        f"| model revision | {'c' * 40} |",
        "| optimizer steps planned | 12 |",
    ):
        assert line in card.splitlines()


def test_the_card_says_nothing_of_places() -> None:
    assert "private-bucket" not in model_card(spec_with(), PREPARED, None)


def test_without_held_out_data_there_is_no_evaluation() -> None:
    card = model_card(spec_with(), PREPARED.model_copy(update={"validation": None}), None)
    assert "## Evaluation" not in card
    assert "held out" not in card


MEASURED = EvaluationResult.model_validate(
    {
        "lossBefore": "2.5",
        "lossAfter": "1.25",
        "before": {"perplexity": "12.1825"},
        "after": {"perplexity": "3.49034"},
        "publishedStep": 8,
        "stoppedAtStep": 12,
        "history": [{"step": 0, "loss": "2.5"}, {"step": 8, "loss": "1.25"}, {"step": 12, "loss": "1.5"}],
    }
)


def test_the_card_shows_all_measures_and_which_weights_these_are() -> None:
    lines = model_card(spec_with(), PREPARED, MEASURED).splitlines()
    assert "| perplexity | 12.1825 | 3.49034 |" in lines
    assert "The weights are those after 8 optimizer steps. Training was stopped early after step 12." in lines


def test_the_card_shows_the_course_of_both_losses() -> None:
    card = model_card(spec_with(), PREPARED, MEASURED, [(1, 3.0), (8, 1.0)])
    start = card.index("| optimizer step | training | held out |")
    assert card[start:].splitlines()[2:6] == ["| 0 |  | 2.5 |", "| 1 | 3 |  |", "| 8 | 1 | 1.25 |", "| 12 |  | 1.5 |"]
    assert "## Losses" not in model_card(spec_with(), PREPARED, MEASURED)


def test_values_of_the_manifest_are_told_from_defaults_and_places_left_out() -> None:
    apart = {"deepspeed": {"zeroStage": 3}, "evaluation": {"samples": 3, "divergence": {"maxLoss": "9"}}}
    spec = spec_with(hyperparameters={"learningRate": "1e-3"}, **apart)
    card = model_card(spec, PREPARED, None)
    assert "| hyperparameters.learningRate | 1e-3 | manifest |" in card.splitlines()
    assert not [name for name in ("zeroStage", "samples", "maxLoss") if name in card]


def test_a_merged_model_is_no_adapter() -> None:
    output = {"destination": "s3://private-bucket/results", "artifact": "Merged"}
    card = model_card(spec_with(output=output), PREPARED, None)
    assert front_matter(card)["library_name"] == "transformers"
    assert "# Fine-tuned model of org/base" in card.splitlines()
    assert "The adapter that was trained is merged into these weights." in card


def test_the_card_names_the_run_that_was_started_from() -> None:
    upstream = Upstream.model_validate(
        {
            "job": "sft",
            "runID": "r-" + "b" * 20,
            "uri": "s3://private-bucket/results/sft",
            "kind": "adapter",
            "manifestDigest": "sha256:" + "4" * 64,
            "s3": {},
            "model": {"source": "hf://org/base"},
        }
    )
    card = model_card(spec_with(), PREPARED, None, upstream=upstream)
    assert f"| started from | the adapter of run r-{'b' * 20} |" in card.splitlines()
    assert "private-bucket" not in card
