"""What is measured at each step, and the forms it is shown in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO, TypeVar

from finetune_api.progress import Progress, Straggler
from finetune_trainer.models.parameters import Parameters

PointT = TypeVar("PointT")


@dataclass(frozen=True)
class StepMetrics:
    """One optimizer step. Loss of the objective (sft: nats per token), learning rate as used, gradient norm before
    clipping, and what else the objective measures, by name; when it was done (Unix seconds) and memory in bytes, both 0
    where an earlier version of the trainer did not note them."""

    step: int
    total_steps: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    time: float = 0.0
    memory: int = 0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class EvaluationMetrics:
    """Held-out loss (sft: nats per token) after ``step`` optimizer steps, and what else the objective measures; when it
    was done (Unix seconds, 0 where unknown)."""

    step: int
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    time: float = 0.0


@dataclass(frozen=True)
class AttemptStarted:
    """An attempt, the optimizer steps that were done before it, when it began (Unix seconds), and its processes."""

    number: int
    step: int
    time: float
    processes: int


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint of ``step`` optimizer steps, and when it was committed (Unix seconds)."""

    step: int
    time: float


@dataclass(frozen=True)
class Sample:
    """What the model answered to the prompt of a held-out row after ``step`` optimizer steps. ``cut`` says that the
    answer would go on."""

    step: int
    row: int
    prompt: str
    expected: str
    answer: str
    cut: bool


def decimal(value: float) -> str:
    """Six significant digits, as a decimal string of the API."""
    return f"{value:.6g}"


def thinned(points: Sequence[PointT], most: int) -> list[PointT]:
    """At most ``most`` (two or more) evenly spaced points, with the first and the last."""
    if len(points) <= most:
        return list(points)
    return [points[round(index * (len(points) - 1) / (most - 1))] for index in range(most)]


def duration(seconds: float) -> str:
    """A duration for people, such as 42s, 3m05s or 1h05m."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def progress_of(
    metrics: StepMetrics,
    eval_loss: float | None,
    seconds_per_step: float,
    stragglers: tuple[Straggler, ...] = (),
    parameters: Parameters | None = None,
) -> Progress:
    """The progress that a step boundary reports."""
    return Progress(
        step=metrics.step,
        total_steps=metrics.total_steps,
        percent=100 * metrics.step // metrics.total_steps,
        epoch=decimal(metrics.epoch),
        loss=decimal(metrics.loss),
        eval_loss=None if eval_loss is None else decimal(eval_loss),
        learning_rate=decimal(metrics.learning_rate),
        grad_norm=decimal(metrics.grad_norm),
        tokens_per_second=decimal(metrics.tokens_per_second),
        eta=duration((metrics.total_steps - metrics.step) * seconds_per_step),
        stragglers=stragglers,
        trainable_parameters=parameters.trainable if parameters else None,
        total_parameters=parameters.total if parameters else None,
        updated=datetime.now(UTC),
    )


def log_line(metrics: StepMetrics) -> str:
    """The line that the pod's log shows for a step."""
    return (
        f"step {metrics.step}/{metrics.total_steps}  loss {metrics.loss:.4f}  lr {metrics.learning_rate:.3g}  "
        f"grad norm {metrics.grad_norm:.4g}  {metrics.tokens_per_second:.0f} tokens/s"
    )


class MetricsFile:
    """metrics.jsonl: one line per step and per evaluation, flushed at once; ``before`` is of earlier attempts."""

    def __init__(self, path: Path, before: Sequence[StepMetrics | EvaluationMetrics] = ()) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8")
        for metrics in before:
            self.write(metrics)

    def write(self, metrics: StepMetrics | EvaluationMetrics) -> None:
        self._file.write(json.dumps(_record(metrics)) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _record(metrics: StepMetrics | EvaluationMetrics) -> dict[str, Any]:
    if isinstance(metrics, EvaluationMetrics):
        measured = {"step": metrics.step, "loss": metrics.loss, **metrics.metrics}
        return {"kind": "evaluation", **measured, "time": _instant(metrics.time)}
    return {
        "kind": "step",
        "step": metrics.step,
        "epoch": metrics.epoch,
        "loss": metrics.loss,
        "learningRate": metrics.learning_rate,
        "gradNorm": metrics.grad_norm,
        "tokens": metrics.tokens,
        "seconds": metrics.seconds,
        **metrics.metrics,
        "memoryBytes": metrics.memory,
        "time": _instant(metrics.time),
    }


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
