"""DeepSpeed's configuration follows from the spec alone."""

from __future__ import annotations

import pytest

from finetune_trainer.training.engine import deepspeed_config
from support.training_runs import make_spec


def test_whole_document() -> None:
    spec = make_spec(precision="bf16", stage=3, nodes=2, micro_batch_size=2, globalBatchSize=16)
    assert deepspeed_config(spec) == {
        "bf16": {"enabled": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "train_batch_size": 16,
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 0.5,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": 3, "reduce_bucket_size": 50_000_000, "allgather_bucket_size": 50_000_000},
        "steps_per_print": 2**31,
    }


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_float32_has_no_mixed_precision(stage: int) -> None:
    config = deepspeed_config(make_spec(stage=stage))
    assert config["zero_optimization"]["stage"] == stage
    assert "bf16" not in config
    assert "data_types" not in config


def test_clipping_off() -> None:
    assert deepspeed_config(make_spec(maxGradNorm="0"))["gradient_clipping"] == 0.0
