"""A run with everything that a report shows: three attempts, one of them lost, pauses, checkpoints, hostile texts."""

from __future__ import annotations

from datetime import UTC, datetime

from finetune_api.plan import PastAttempt
from finetune_api.results import EvaluationResult
from finetune_trainer.artifact.report import Report
from finetune_trainer.data.facts import DataFacts, ExampleFacts, RefusedFacts, SourceFacts
from finetune_trainer.training.checkpoints.history import History
from finetune_trainer.training.metrics import AttemptStarted, CheckpointSaved, EvaluationMetrics, Sample, StepMetrics

BEGAN = 1_790_000_000.0
STEPS, PAUSE_SECONDS = 60, 7500.0
HOSTILE = "</pre></style><script>alert('ran')</script><img src=x onerror=alert(1)><a href='javascript:alert(2)'>\"'&"


def _when(step: int) -> float:
    """Two seconds a step; before step 31 the job was suspended for two hours, and then an attempt was lost."""
    return BEGAN + 5 + 2.0 * step + (PAUSE_SECONDS if step > STEPS // 2 else 0.0)


def shown_history() -> History:
    """Sixty steps of the first and the third attempt."""
    steps = [
        StepMetrics(
            step=step,
            total_steps=STEPS,
            epoch=step / 20,
            loss=0.8 + 2.4 / (1 + step / 8) + 0.12 * ((step * 7919) % 13 / 13 - 0.5),
            learning_rate=2e-4 * min(1.0, step / 6) * (1 - step / (STEPS + 8)),
            grad_norm=1.0,
            tokens=4000 + 37 * (step % 5),
            seconds=1.6 + 0.05 * (step % 4),
            time=_when(step),
            memory=(6 << 30) + (step % 3) * (64 << 20),
        )
        for step in range(1, STEPS + 1)
    ]
    evaluations = [
        EvaluationMetrics(step, 0.9 + 2.3 / (1 + step / 8), {"perplexity": 20.0 - step / 5}, _when(step) + 0.5)
        for step in range(0, STEPS + 1, 10)
    ]
    half = STEPS // 2
    attempts = [AttemptStarted(1, 0, BEGAN, 8), AttemptStarted(3, half, _when(half + 1) - 4, 8)]
    checkpoints = [CheckpointSaved(step, _when(step) + 0.3) for step in (15, 30, 45, 60)]
    return History(steps, evaluations, attempts, checkpoints, shown_samples())


def shown_samples() -> list[Sample]:
    """Two prompts; the second was not asked before, and holds what would run."""
    asked = "<|im_start|>user\nHow do I rotate my API key?<|im_end|>\n<|im_start|>assistant\n"
    expected = "Open Settings, choose API keys, and press Rotate. The old key works for one more hour."
    before = "API keys are a very important part of the security of your application. " * 4
    hostile = Sample(STEPS, 3, HOSTILE, HOSTILE, HOSTILE, cut=False)
    return [
        Sample(0, 0, asked, expected, before.strip(), cut=True),
        Sample(STEPS, 0, asked, expected, "Open Settings, choose API keys, and press Rotate.", cut=False),
        hostile,
    ]


def shown_data() -> DataFacts:
    """A data report whose every text tries to run something."""
    return DataFacts(
        sources=(SourceFacts(split=HOSTILE, uri=HOSTILE, format="chat", weight="1", files=1, rows=1000, refused=1),),
        rows=1000,
        refused=1,
        refused_rows=(RefusedFacts(place=HOSTILE, reason=HOSTILE),),
        train_rows=899,
        held_out_rows=100,
        duplicates=3,
        near_duplicates=5,
        overlap=0,
        near_overlap=1,
        truncated=12,
        without_loss=0,
        lengths=((64, 100), (128, 640), (256, 240), (512, 20)),
        tokens=180_000,
        loss_tokens=60_000,
        examples=(ExampleFacts(place=HOSTILE, text=f"question {HOSTILE}", spans=((9, 9 + len(HOSTILE)),)),),
    )


def shown_report() -> Report:
    """The whole report."""
    return Report(
        title=f"team/support-bot {HOSTILE}",
        provenance=(("model", HOSTILE), ("run ID", "r-" + "0" * 20), ("processes", "8 (1 x 8, cuda)")),
        history=shown_history(),
        settings=(
            ("spec.hyperparameters.learningRate", "2e-4", "manifest"),
            ("spec.method.lora.targetModules", [HOSTILE, "v_proj"], "manifest"),
            ("spec.hyperparameters.schedule", "linear", "default"),
            ("spec.method.lora.rank", 8, "profile"),
        ),
        evaluation=EvaluationResult(
            loss_before="3.2", loss_after="1.17", before={"perplexity": "24.5"}, after={"perplexity": "3.22"}
        ),
        data=shown_data(),
        past=(
            PastAttempt(number=1, outcome="Suspended"),
            PastAttempt(number=2, began=_instant(BEGAN + 7400), ended=_instant(BEGAN + 7420), outcome="PodLost"),
        ),
    )


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
