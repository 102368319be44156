"""What is measured, in all its forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_trainer.training.metrics import (
    EvaluationMetrics,
    MetricsFile,
    StepMetrics,
    decimal,
    duration,
    log_line,
    progress_of,
)

STEP = StepMetrics(
    step=5,
    total_steps=20,
    epoch=1.25,
    loss=2.3456789,
    learning_rate=2e-5,
    grad_norm=0.5,
    tokens=1000,
    seconds=0.5,
    time=1_790_000_000.25,
    memory=3 << 20,
)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0s"), (42, "42s"), (60, "1m00s"), (185, "3m05s"), (3900, "1h05m"), (-3, "0s")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(2.3456789, "2.34568"), (0.0, "0"), (2e-5, "2e-05"), (1234567.0, "1.23457e+06"), (3.0, "3")]
)
def test_decimal(value: float, text: str) -> None:
    assert decimal(value) == text


def test_progress_holds_decimal_strings() -> None:
    progress = progress_of(STEP, 1.5, 2.0).to_wire()
    assert progress.pop("updated").endswith("Z")
    assert progress == {
        "step": 5,
        "totalSteps": 20,
        "percent": 25,
        "epoch": "1.25",
        "loss": "2.34568",
        "evalLoss": "1.5",
        "learningRate": "2e-05",
        "gradNorm": "0.5",
        "tokensPerSecond": "2000",
        "eta": "30s",
        "stragglers": [],
    }


def test_progress_before_any_evaluation() -> None:
    assert progress_of(STEP, None, 1.0).eval_loss is None


def test_log_line() -> None:
    assert log_line(STEP) == "step 5/20  loss 2.3457  lr 2e-05  grad norm 0.5  2000 tokens/s"


def test_metrics_file_has_a_line_per_step_and_evaluation(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.write(EvaluationMetrics(0, 3.5, {"perplexity": 33.1}, 1_790_000_000.0))
    file.write(STEP)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    file.close()
    assert lines == [
        {"kind": "evaluation", "step": 0, "loss": 3.5, "perplexity": 33.1, "time": "2026-09-21T14:13:20.000Z"},
        {
            "kind": "step",
            "step": 5,
            "epoch": 1.25,
            "loss": 2.3456789,
            "learningRate": 2e-5,
            "gradNorm": 0.5,
            "tokens": 1000,
            "seconds": 0.5,
            "memoryBytes": 3145728,
            "time": "2026-09-21T14:13:20.250Z",
        },
    ]
