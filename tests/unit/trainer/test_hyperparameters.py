"""Effective values with their origin, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.plan import JobReference, RunPlan, world_of
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import Origin
from finetune_trainer.errors import UserError
from finetune_trainer.training.hyperparameters import effective_values, known_origins, refuse_unsupported
from support.training_runs import make_spec


def test_origin_is_manifest_or_default() -> None:
    spec = make_spec(stage=3).model_validate(
        {
            "model": {"source": "hf://org/name"},
            "dataset": {"train": [{"source": "s3://bucket/rows.jsonl"}]},
            "hyperparameters": {"learningRate": "1e-3"},
            "output": {"destination": "s3://bucket/out"},
        }
    )
    origins = {path: (value, origin) for path, value, origin in effective_values(spec)}
    assert origins["spec.hyperparameters.learningRate"] == ("1e-3", "manifest")
    assert origins["spec.hyperparameters.globalBatchSize"] == (8, "default")
    assert origins["spec.method.lora.rank"] == (16, "default")
    assert origins["spec.deepspeed.zeroStage"] == (2, "default")
    assert origins["spec.evaluation.publish"] == ("Last", "default")
    assert "spec.hyperparameters.maxSteps" not in origins


def test_a_plan_knows_who_gave_a_value_and_why_it_was_adjusted() -> None:
    adjusted, by_profile, stated = "spec.deepspeed.microBatchSize", "spec.method.lora.rank", "spec.evaluation.publish"
    plan = shown_plan(
        make_spec(micro_batch_size=2),
        adjustments={adjusted: "4 ran out of memory"},
        origins={adjusted: Origin.PLANNED, by_profile: Origin.PROFILE, stated: Origin.MANIFEST},
    )
    found = {path: (value, origin) for path, value, origin in known_origins(plan)}
    assert found[adjusted] == (2, "4 ran out of memory")
    assert found[by_profile] == (4, "profile")
    assert found[stated] == ("Last", "manifest"), "also where it says what is the default"
    assert found["spec.hyperparameters.seed"] == (7, "default")


def shown_plan(spec: FineTuneJobSpec, **told: Any) -> RunPlan:
    job = JobReference(namespace="team", name="tiny", uid="7d1c")
    return RunPlan(job=job, attempt=1, spec=spec, world=world_of(spec, "127.0.0.1", 2), stores={}, **told)


def test_full_tuning_has_no_lora_options() -> None:
    assert not [path for path, *_ in effective_values(make_spec(tuning="full")) if "lora" in path]


def test_bf16_without_zero_is_refused() -> None:
    with pytest.raises(UserError, match="bf16 with ZeRO stage 0 gives wrong losses") as refusal:
        refuse_unsupported(make_spec(precision="bf16", stage=0))
    assert "spec.deepspeed.zeroStage" in refusal.value.remedy


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_adafactor_on_flat_pieces_is_refused(stage: int) -> None:
    with pytest.raises(UserError, match="ZeRO cuts into flat pieces") as refusal:
        refuse_unsupported(make_spec(stage=stage, optimizer="adafactor"))
    assert "spec.hyperparameters.optimizer to adamw8bit" in refusal.value.remedy


@pytest.mark.parametrize(
    ("options", "named"),
    [({"stage": 3}, "gathers weights from within"), ({"tuning": "qlora"}, "dequantize 4-bit weights right")],
)
def test_compiled_blocks_that_cannot_be_right_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named) as refusal:
        refuse_unsupported(make_spec(compile=True, **options))
    assert "set spec.hyperparameters.compile to false or spec." in refusal.value.remedy
    refuse_unsupported(make_spec(compile=False, **options))


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(UserError, match="globalBatchSize 8 is no multiple of 6"):
        refuse_unsupported(make_spec(processes=3, micro_batch_size=2))


@pytest.mark.parametrize(
    ("precision", "stage", "optimizer"),
    [("fp32", 0, "adamw"), ("fp32", 0, "adafactor"), ("bf16", 1, "adamw8bit"), ("bf16", 3, "adamw")],
)
def test_the_rest_is_accepted(precision: str, stage: int, optimizer: str) -> None:
    spec = make_spec(precision=precision, stage=stage, processes=2, optimizer=optimizer)
    refuse_unsupported(spec)
    assert spec.deepspeed.zero_stage == stage
