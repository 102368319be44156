"""Progress reports on the wire."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from finetune_api.reports import MAX_REPORT_BYTES, ProgressReport, audience, report_path
from support.builders import progress, report


def test_audience_names_one_job() -> None:
    assert audience("ns", "job", "uid-1") == "finetune.dev/ns/job/uid-1"
    different = {audience("ns", "job", "u"), audience("ns2", "job", "u"), audience("ns", "job2", "u")}
    assert len(different | {audience("ns", "job", "u2")}) == 4


def test_path_names_the_job_as_the_kubernetes_api_does() -> None:
    assert report_path("ns", "job") == "/v1/namespaces/ns/finetunejobs/job/progress"


def test_report_is_the_same_after_a_round_trip() -> None:
    sent = report(attempt=2, sequence=7, step=3)
    assert ProgressReport.model_validate_json(sent.to_json()) == sent


def test_progress_uses_decimal_strings_and_camel_case() -> None:
    wire = progress(step=2, total=5, loss="1.5", tokens_per_second="120").to_wire()
    assert wire == {
        "step": 2,
        "totalSteps": 5,
        "percent": 40,
        "epoch": "0.2",
        "loss": "1.5",
        "tokensPerSecond": "120",
        "stragglers": [],
        "updated": "2026-03-01T12:00:02Z",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"uid": ""},
        {"attempt": 0},
        {"sequence": -1},
        {"stage": "upload"},
        {"message": "x" * 257},
        {"typo": 1},
        {"progress": {"step": 1}},
    ],
)
def test_report_that_breaks_the_schema_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ProgressReport.model_validate(report().to_wire() | changes)


@pytest.mark.parametrize(
    "changes", [{"loss": "nan"}, {"loss": 1.5}, {"percent": 101}, {"step": -1}, {"total_steps": 0}, {"eta": "x" * 33}]
)
def test_progress_that_breaks_the_schema_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        progress(**changes)


def test_longest_report_fits_the_limit_many_times() -> None:
    longest = progress(loss="1" * 32, eval_loss="1" * 32, learning_rate="1" * 32, grad_norm="1" * 32, eta="9" * 32)
    sent = report().model_copy(update={"progress": longest, "message": "語" * 256, "uid": "u" * 64})
    assert len(sent.to_json().encode()) * 10 < MAX_REPORT_BYTES
