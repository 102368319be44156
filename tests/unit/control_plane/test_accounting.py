"""What attempts used, and what of it was wasted."""

from __future__ import annotations

import pytest

from finetune_api.reports import Checkpoint
from finetune_api.status import AttemptStatus, UsageStatus
from finetune_operator.accounting import Spent, added, spent
from support.builders import at, batch_job, job, pod, report
from support.decisions import look, started, told

GPUS = {"resources": {"nodes": 2, "gpusPerNode": 4}, "hyperparameters": {"globalBatchSize": 8}}
RUNNING = (pod(), pod(index=1))


@pytest.mark.parametrize(
    ("running", "first_step", "saved", "outcome", "expected"),
    [
        pytest.param(None, None, None, "Unschedulable", Spent(), id="never-ran"),
        pytest.param(100, 120, None, "Succeeded", Spent(100, 20, 0), id="succeeded"),
        pytest.param(100, 120, 180, "Succeeded", Spent(100, 20, 0), id="a-checkpoint-loses-nothing"),
        pytest.param(100, None, None, "Succeeded", Spent(100, 0, 0), id="succeeded-without-reports"),
        pytest.param(100, 120, None, "Unread", Spent(100, 20, 0), id="its-result-may-be-in-the-store"),
        pytest.param(100, None, None, "Hung", Spent(100, 100, 0), id="failed-before-the-first-step"),
        pytest.param(100, 120, None, "PodLost", Spent(100, 20, 80), id="failed-without-a-checkpoint"),
        pytest.param(100, 120, 180, "PodLost", Spent(100, 20, 20), id="failed-after-a-checkpoint"),
        pytest.param(100, None, 180, "PodLost", Spent(100, 0, 20), id="a-checkpoint-without-other-reports"),
        pytest.param(100, 120, 90, "PodLost", Spent(100, 20, 80), id="the-checkpoint-is-of-an-earlier-attempt"),
        pytest.param(100, 120, 198, "Suspended", Spent(100, 20, 2), id="suspended"),
        pytest.param(100, 120, 199, "Preempted", Spent(100, 20, 1), id="preempted"),
        pytest.param(100, 90, 250, "PodLost", Spent(100, 0, 0), id="clocks-of-pods-differ"),
        pytest.param(100, 250, None, "PodLost", Spent(100, 100, 0), id="the-first-step-of-a-clock-ahead"),
        pytest.param(300, 310, None, "PodLost", Spent(), id="the-operators-clock-was-set-back"),
    ],
)
def test_spent(
    running: float | None, first_step: float | None, saved: float | None, outcome: str, expected: Spent
) -> None:
    attempt = AttemptStatus(
        number=1,
        running=None if running is None else at(running),
        first_step=None if first_step is None else at(first_step),
    )
    found = spent(attempt, outcome, None if saved is None else at(saved), at(200))
    assert found == expected
    assert found.startup + found.lost <= found.total


@pytest.mark.parametrize(
    ("usage", "more", "changes", "expected"),
    [
        pytest.param(None, Spent(), {}, None, id="nothing"),
        pytest.param(
            None,
            Spent(7, 2, 1),
            {},
            UsageStatus(
                training_seconds=7,
                startup_seconds=2,
                lost_seconds=1,
                goodput_percent=57,
                gpu_seconds=0,
                wasted_gpu_seconds=0,
            ),
            id="cpus",
        ),
        pytest.param(
            UsageStatus(training_seconds=100, gpu_seconds=800),
            Spent(100, 20, 30),
            GPUS,
            UsageStatus(
                training_seconds=200,
                startup_seconds=20,
                lost_seconds=30,
                goodput_percent=75,
                gpu_seconds=1600,
                wasted_gpu_seconds=400,
            ),
            id="on-top-of-an-older-operators",
        ),
    ],
)
def test_added(
    usage: UsageStatus | None, more: Spent, changes: dict[str, object], expected: UsageStatus | None
) -> None:
    assert added(usage, more, job(**changes).spec) == expected


def test_a_lost_attempt_is_accounted_from_its_reports() -> None:
    """All pods ran at 100 s, the first step began at 110 s, a checkpoint came at 150 s, a pod was lost at 170 s."""
    status = told(look(started(**GPUS), (batch_job(),), RUNNING, now=100, **GPUS))
    checkpoint = Checkpoint(step=4, time=at(150), uri="s3://bucket/checkpoint", world_size=8)
    news = report().model_copy(update={"first_step": at(110), "checkpoint": checkpoint})
    status = told(look(status, (batch_job(),), RUNNING, now=160, heard=news, **GPUS))
    assert status.attempts[-1].first_step == at(110)
    lost = told(look(status, now=170, heard=news, **GPUS))
    assert lost.usage == UsageStatus(
        training_seconds=70,
        startup_seconds=10,
        lost_seconds=20,
        goodput_percent=57,
        gpu_seconds=560,
        wasted_gpu_seconds=240,
    )
