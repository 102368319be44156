"""Edits of stages and attempts in the status."""

from __future__ import annotations

import pytest

from finetune_api import progression
from finetune_api.outcomes import Stage
from finetune_api.results import DataSummary
from finetune_api.status import AttemptStatus, FineTuneJobStatus, StageStatus
from support.builders import at, job, prepared

EMPTY = FineTuneJobStatus()


def _attempt(number: int, finished: bool = True) -> AttemptStatus:
    return AttemptStatus(number=number, started=at(number), finished=at(number + 1) if finished else None)


def _stages(status: FineTuneJobStatus) -> list[tuple[str, object, object]]:
    return [(stage.name.value, stage.started, stage.finished) for stage in status.stages]


@pytest.mark.parametrize(
    ("attempts", "number", "is_open"),
    [
        ((), 1, False),
        ((_attempt(1, finished=False),), 1, True),
        ((_attempt(1),), 2, False),
        ((_attempt(1), _attempt(2, finished=False)), 2, True),
    ],
)
def test_number_of_the_attempt(attempts: tuple[AttemptStatus, ...], number: int, is_open: bool) -> None:
    status = EMPTY.model_copy(update={"attempts": attempts})
    assert progression.attempt_number(status) == number
    assert (progression.open_attempt(status) is not None) is is_open


def test_stages_are_kept_in_order() -> None:
    status = EMPTY
    for name in (Stage.PUBLISH, Stage.PREPARE, Stage.TRAIN):
        status = progression.with_stage(status, StageStatus(name=name))
    assert [stage.name for stage in status.stages] == [Stage.PREPARE, Stage.TRAIN, Stage.PUBLISH]


def test_entering_a_stage_ends_those_before() -> None:
    status = progression.with_stage(EMPTY, StageStatus(name=Stage.PREPARE, started=at(0), finished=at(1)))
    status = progression.entered(status, Stage.TRAIN, at(2))
    status = progression.entered(status, Stage.EVALUATE, at(5))
    assert _stages(status) == [("prepare", at(0), at(1)), ("train", at(2), at(5)), ("evaluate", at(5), None)]


def test_entering_the_same_stage_again_changes_nothing() -> None:
    status = progression.entered(EMPTY, Stage.TRAIN, at(2))
    assert progression.entered(status, Stage.TRAIN, at(9)) == status


def test_stages_that_were_never_reported_are_passed_over_at_the_end() -> None:
    status = progression.finished(progression.entered(EMPTY, Stage.TRAIN, at(2)), at(9))
    assert _stages(status)[1:] == [("train", at(2), at(9)), ("evaluate", at(9), at(9)), ("publish", at(9), at(9))]


def test_end_of_an_attempt_keeps_what_prepare_did() -> None:
    status = progression.with_stage(EMPTY, StageStatus(name=Stage.PREPARE, started=at(0), finished=at(1)))
    status = progression.with_attempt(progression.entered(status, Stage.TRAIN, at(2)), _attempt(1, finished=False))
    ended = progression.ended_attempt(status, 1, "PodLost", "x" * 5000, at(7))
    assert _stages(ended) == [("prepare", at(0), at(1))]
    (attempt,) = ended.attempts
    assert (attempt.number, attempt.started, attempt.finished, attempt.outcome) == (1, at(1), at(7), "PodLost")
    assert attempt.message == "x" * 1024


def test_attempts_are_replaced_by_number() -> None:
    status = progression.with_attempt(EMPTY, _attempt(2))
    status = progression.with_attempt(status, _attempt(1))
    status = progression.with_attempt(status, AttemptStatus(number=2, outcome="Hung"))
    assert [(attempt.number, attempt.outcome) for attempt in status.attempts] == [(1, None), (2, "Hung")]


@pytest.mark.parametrize("held_out", [True, False])
def test_what_prepare_found_is_remembered_for_its_attempt_only(held_out: bool) -> None:
    found = prepared(held_out=held_out)
    status = progression.with_prepared(EMPTY, job().spec, found, 2, at(0), at(3))
    assert progression.prepared_from(status, 2) == found
    assert progression.prepared_from(status, 3) is None
    assert progression.prepared_from(EMPTY, 1) is None


def test_plan_in_the_status() -> None:
    asked = job(resources={"nodes": 2, "processesPerNode": 2}).spec
    status = progression.with_prepared(EMPTY, asked, prepared(), 1, at(0), at(3))
    assert status.plan
    assert (status.plan.world_size, status.plan.gradient_accumulation_steps, status.plan.total_steps) == (4, 2, 5)
    (stage,) = status.stages
    assert stage.message == "40 rows, 1000 tokens, 2 truncated, 4 held out"


def test_what_was_found_in_the_data_is_kept_and_told() -> None:
    found = DataSummary(
        report="s3://results/data-report.html",
        source_rows=(47,),
        refused=3,
        duplicates=1,
        near_duplicates=0,
        validation_overlap=0,
        without_loss=2,
    )
    known = prepared().model_copy(update={"data": found})
    status = progression.with_prepared(EMPTY, job().spec, known, 1, at(0), at(3))
    assert status.plan
    assert status.plan.data == found
    assert status.stages[0].message == "40 rows, 1000 tokens, 3 refused, 2 truncated, 4 held out"
    again = progression.prepared_from(status, 1)
    assert again is not None
    assert again.data == found


def test_an_adopted_result_is_not_remembered_as_prepared_input() -> None:
    """Whether a run is published is for storage to say, each time anew."""
    status = progression.with_prepared(EMPTY, job().spec, prepared(adopted=True), 1, at(0), at(3))
    remembered = progression.prepared_from(status, 1)
    assert remembered
    assert remembered.adopted is None


def test_nothing_is_changed_in_place() -> None:
    progression.with_attempt(progression.entered(EMPTY, Stage.TRAIN, at(1)), _attempt(1))
    assert FineTuneJobStatus() == EMPTY
