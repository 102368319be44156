"""The status of a local run through its transitions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_api import progression
from finetune_api.crd import job_schema
from finetune_api.outcomes import Failure, FailureClass, Stage, StageOutcome
from finetune_api.progress import Progress
from finetune_api.reports import ProgressReport
from finetune_api.results import Artifact, EvaluationResult, Prepared, SplitSummary
from finetune_api.status import FineTuneJobStatus
from finetune_cli.local import status as transitions
from finetune_cli.local.display import status_line
from finetune_cli.manifests import as_yaml, load_documents
from finetune_cli.structural import schema_errors, unknown_fields
from finetune_cli.validation import read_job
from support.job_manifests import edited

START = datetime(2026, 1, 1, tzinfo=UTC)
JOB = read_job(edited({"spec/resources/nodes": 2}), "job.yaml")
DIGEST = "sha256:" + "0" * 64
SPLIT = SplitSummary(digest=DIGEST, rows=9, tokens=90, loss_tokens=30, truncated=2)
ARTIFACT = Artifact(
    uri="s3://finetune/artifacts/default/tiny/r-0",
    kind="adapter",
    manifest_digest=DIGEST,
    content_digest=DIGEST,
    files=4,
    total_bytes=100,
)
EVALUATION = EvaluationResult(loss_before="2.5", loss_after="1.5")
FOUND = Prepared(
    run_id="r-" + "a" * 20,
    model_digest=DIGEST,
    data_uri="s3://finetune/artifacts/default/_data/0",
    train=SPLIT,
    validation=SPLIT,
    steps=3,
)

PLAN = progression.first_plan(JOB.spec, None, ())


def after(seconds: int) -> datetime:
    return START + timedelta(seconds=seconds)


def prepared_status(found: Prepared = FOUND) -> FineTuneJobStatus:
    return transitions.prepared(transitions.preparing(START, PLAN), JOB.spec, found, after(1))


def report(stage: Stage, sequence: int, step: int | None = None) -> ProgressReport:
    progress = None
    if step is not None:
        progress = Progress(
            step=step, total_steps=3, percent=33 * step, epoch="0.1", loss="2.0", updated=after(sequence)
        )
    return ProgressReport(uid="u", attempt=1, sequence=sequence, stage=stage, progress=progress)


def conditions(status: FineTuneJobStatus) -> dict[str, str]:
    """Conditions that are True, with their reasons."""
    return {entry.type.value: entry.reason.value for entry in status.conditions if entry.status == "True"}


def test_a_run_from_start_to_end() -> None:
    status = transitions.preparing(START, PLAN)
    assert conditions(status) == {"Validated": "SpecValid", "Reconciling": "Preparing"}

    status = transitions.training(prepared_status(), after(2))
    assert conditions(status) == {"Validated": "SpecValid", "Prepared": "Prepared", "Running": "Training"}

    status = transitions.reported(status, report(Stage.TRAIN, 1, step=1), after(3))
    status = transitions.reported(status, report(Stage.EVALUATE, 2), after(4))
    assert (status.state, status.progress and status.progress.step) == ("Evaluating", 1)

    outcome = StageOutcome(stage=Stage.PUBLISH, artifact=ARTIFACT, evaluation=EVALUATION)
    status = transitions.trained(status, outcome, ARTIFACT, after(9))
    assert conditions(status) == {
        "Validated": "SpecValid",
        "Prepared": "Prepared",
        "ArtifactVerified": "Published",
        "Complete": "Published",
    }
    assert [(stage.name, stage.finished) for stage in status.stages] == [
        ("prepare", after(1)),
        ("train", after(4)),
        ("evaluate", after(9)),
        ("publish", after(9)),
    ]
    assert [(entry.number, entry.outcome, entry.finished) for entry in status.attempts] == [(1, "Succeeded", after(9))]
    assert (status.artifact, status.evaluation, status.completion_time) == (ARTIFACT, EVALUATION, after(9))


def test_what_prepare_found() -> None:
    status = prepared_status()

    assert status.run_id == FOUND.run_id
    assert status.plan is not None
    assert (status.plan.world_size, status.plan.gradient_accumulation_steps, status.plan.total_steps) == (2, 4, 3)
    assert status.stages[0].message == "9 rows, 90 tokens, 2 truncated, 9 held out"


def test_an_adopted_run_is_complete_without_an_attempt() -> None:
    found = FOUND.model_copy(update={"adopted": ARTIFACT, "adopted_evaluation": EVALUATION})

    status = prepared_status(found)

    assert conditions(status)["Complete"] == "Adopted"
    assert (status.attempts, [stage.name for stage in status.stages]) == ((), ["prepare"])
    assert status.evaluation == EVALUATION


@pytest.mark.parametrize(("started", "reason"), [(False, "PrepareFailed"), (True, "RunFailed")])
def test_a_failure_names_its_stage_and_remedy(started: bool, reason: str) -> None:
    before = transitions.training(prepared_status(), after(2)) if started else transitions.preparing(START, PLAN)
    failure = Failure(
        failure_class=FailureClass.DATA_ERROR, message="rows.jsonl line 17: no JSON", remedy="Correct it."
    )

    status = transitions.failed(before, failure, after(5))

    assert (conditions(status)["Failed"], conditions(status)["Stalled"]) == (reason, reason)
    message = next(entry.message for entry in status.conditions if entry.type == "Failed")
    assert message == "rows.jsonl line 17: no JSON. Correct it."
    assert [entry.outcome for entry in status.attempts] == (["DataError"] if started else [])


def test_a_stopped_run_is_suspended_not_failed() -> None:
    status = transitions.stopped(transitions.training(prepared_status(), after(2)), "SIGINT", after(5))

    assert conditions(status) == {"Validated": "SpecValid", "Prepared": "Prepared", "Suspended": "Suspended"}
    assert (status.attempts[0].outcome, status.completion_time) == ("Suspended", None)


def test_a_transition_time_moves_only_with_its_condition() -> None:
    status = transitions.training(prepared_status(), after(2))
    later = transitions.reported(status, report(Stage.TRAIN, 1, step=1), after(60))

    times = {entry.type.value: entry.last_transition_time for entry in later.conditions}
    assert (times["Validated"], times["Running"]) == (START, after(2))


def test_a_late_report_of_an_earlier_stage_changes_only_progress() -> None:
    status = transitions.reported(prepared_status(), report(Stage.PUBLISH, 5), after(5))

    late = transitions.reported(status, report(Stage.TRAIN, 4, step=3), after(6))

    assert (late.state, late.progress and late.progress.step) == ("Publishing", 3)


def test_the_resource_is_valid_by_the_crds_own_schema() -> None:
    status = transitions.failed(
        transitions.reported(transitions.training(prepared_status(), after(2)), report(Stage.TRAIN, 1, 1), after(3)),
        Failure(failure_class=FailureClass.DIVERGED, message="the loss is NaN", remedy="Lower the learning rate."),
        after(4),
    )
    [document] = load_documents(as_yaml(transitions.resource(JOB, status)))

    assert schema_errors(document, job_schema()) == []
    assert list(unknown_fields(document, job_schema())) == []
    assert document["status"]["state"] == "Failed"


@pytest.mark.parametrize(
    ("update", "line"),
    [
        ({}, f"{FOUND.run_id}"),
        (
            {"progress": report(Stage.TRAIN, 1, 2).progress},
            f"{FOUND.run_id}  step 2/3 66%  loss 2.0",
        ),
        ({"artifact": ARTIFACT}, f"{FOUND.run_id}  {ARTIFACT.uri}"),
    ],
)
def test_a_status_in_one_line(update: dict[str, Any], line: str) -> None:
    assert status_line(prepared_status().model_copy(update=update)) == line
