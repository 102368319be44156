"""What holds of finished jobs, of specs that cannot be read, and from one look to the next."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.conditions import is_true
from finetune_api.outcomes import Stage
from finetune_api.status import ConditionType, State
from finetune_operator.decide import Decision, decide
from finetune_operator.observation import observe
from support.builders import (
    NAME,
    POLICY,
    RUN_ID,
    artifact,
    at,
    batch_job,
    pod,
    prepare_outcome,
    published_outcome,
    report,
    stored,
)
from support.decisions import DATA_ERROR, PREPARE_DONE, TRAIN_JOB, created, look, lost, started, told

FINAL = {
    "complete": told(
        look(
            started(),
            (batch_job(ended="Complete"),),
            (pod(phase="Succeeded", exit_code=0, outcome=published_outcome()),),
        )
    ),
    "failed": told(
        look(
            started(backoffLimit=0), (batch_job(ended="Failed"),), (pod(phase="Failed", exit_code=13),), backoffLimit=0
        )
    ),
    "failed while preparing": told(
        look(
            None,
            (batch_job(Stage.PREPARE, ended="Failed"),),
            (pod(Stage.PREPARE, phase="Failed", exit_code=11, outcome=DATA_ERROR),),
        )
    ),
}


@pytest.mark.parametrize("end", FINAL)
@pytest.mark.parametrize(
    "changes", [{}, {"suspend": True}, {"backoffLimit": 9}, {"model": {"source": "nonsense"}}], ids=str
)
def test_a_finished_job_stays_what_it_is(end: str, changes: dict[str, Any]) -> None:
    before = FINAL[end]
    decision = look(before, generation=2, now=9999, **changes)
    assert (decision.create, decision.delete_jobs, decision.requeue_after) == ((), (), None)
    after = told(decision)
    assert after.observed_generation == 2
    unmoved = {"observed_generation": 1, "conditions": before.conditions}
    assert after.model_copy(update=unmoved) == before
    assert [item.last_transition_time for item in after.conditions] == [
        item.last_transition_time for item in before.conditions
    ]


def test_what_still_runs_of_a_finished_job_is_deleted() -> None:
    decision = look(FINAL["failed while preparing"], (batch_job(), batch_job(Stage.PREPARE, ended="Failed")))
    assert decision.delete_jobs == (f"{NAME}-train-1",)
    assert decision.create == ()


def test_complete_job_has_artifact_evaluation_and_all_stages() -> None:
    status = FINAL["complete"]
    assert status.artifact == artifact()
    assert status.evaluation
    assert status.evaluation.loss_after == "1.25"
    assert [stage.name.value for stage in status.stages] == ["prepare", "train", "evaluate", "publish"]
    assert all(stage.started and stage.finished for stage in status.stages)
    assert status.run_id == RUN_ID


def test_adopted_job_has_the_result_of_the_run_it_adopts() -> None:
    outcome = prepare_outcome(adopted=True)
    adopted = pod(Stage.PREPARE, phase="Succeeded", exit_code=0, outcome=outcome)
    status = told(look(None, (PREPARE_DONE,), (adopted,)))
    assert status.artifact == artifact()
    assert status.evaluation
    assert status.attempts == ()
    assert is_true(status.conditions, ConditionType.ARTIFACT_VERIFIED)


def test_failure_is_told_with_class_message_and_remedy() -> None:
    failure = FINAL["failed while preparing"].failure
    assert failure
    assert failure.to_wire() == {
        "class": "DataError",
        "message": "train.jsonl:17: broken JSON",
        "remedy": "what to do",
    }


def test_losses_are_retried_to_the_limit_and_not_beyond() -> None:
    assert told(look(lost(3, backoffLimit=3), now=500, backoffLimit=3)).state == "Preparing"
    status = lost(4, backoffLimit=3)
    assert status.state == "Failed"
    assert [attempt.number for attempt in status.attempts] == [1, 2, 3, 4]


def test_raised_limit_counts_for_the_attempt_under_way() -> None:
    status = told(look(lost(1, backoffLimit=1), now=60, backoffLimit=1))
    ready = pod(Stage.PREPARE, 2, phase="Succeeded", exit_code=0, outcome=prepare_outcome())
    status = told(look(status, (batch_job(Stage.PREPARE, 2, ended="Complete"),), (ready,), now=90, backoffLimit=1))
    assert told(look(status, now=120, backoffLimit=1)).state == "Failed"
    assert told(look(status, now=120, backoffLimit=2)).state == "Starting"


def test_resumed_job_prepares_again_and_takes_the_next_number() -> None:
    suspended = told(look(started(), (batch_job(),), (pod(),), suspend=True))
    decision = look(suspended, now=200)
    assert created(decision) == [f"ConfigMap {NAME}-prepare-2", f"Job {NAME}-prepare-2"]
    assert not is_true(told(decision).conditions, ConditionType.SUSPENDED)


def test_suspended_is_true_only_when_every_pod_has_ended() -> None:
    ending = told(look(started(), (batch_job(),), (pod(),), suspend=True))
    assert not is_true(ending.conditions, ConditionType.SUSPENDED)
    assert is_true(ending.conditions, ConditionType.RECONCILING)
    ended = told(look(ending, (), (pod(phase="Failed", exit_code=143),), suspend=True))
    assert is_true(ended.conditions, ConditionType.SUSPENDED)
    assert not is_true(ended.conditions, ConditionType.RECONCILING)


def test_stage_that_was_reached_is_remembered_without_new_reports() -> None:
    """Reports live in the operator's memory: after a restart the status is all there is."""
    running = ((batch_job(),), (pod(),))
    publishing = told(look(started(), *running, heard=report(stage=Stage.PUBLISH)))
    assert told(look(publishing, *running, now=200)).state == "Publishing"


def test_job_being_deleted_is_left_alone() -> None:
    manifest = stored()
    manifest["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:30Z"
    assert decide(observe(manifest, (), (), None, at(0)), POLICY) == Decision(status=None)


UNREADABLE: dict[str, Any] = {"hyperparameters": {"seed": "many"}, "dataset": {"tooLong": "Wrap"}}


class TestSpecOfAnOlderSchema:
    """A spec that the API server took and this version cannot read."""

    def test_fails_with_the_fields(self) -> None:
        status = told(look(None, (), (), **UNREADABLE))
        assert status.state == "Failed"
        assert status.failure
        assert "spec.hyperparameters.seed: Input should be a valid integer" in status.failure.message
        assert "spec.dataset.tooLong: Input should be 'Truncate' or 'Refuse'" in status.failure.message
        assert not is_true(status.conditions, ConditionType.VALIDATED)
        assert is_true(status.conditions, ConditionType.FAILED)

    def test_is_told_once(self) -> None:
        status = told(look(None, (), (), **UNREADABLE))
        assert told(look(status, (), (), now=999, **UNREADABLE)) == status

    def test_ends_what_an_older_operator_started(self) -> None:
        decision = look(started(), (PREPARE_DONE, batch_job()), (pod(),), **UNREADABLE)
        assert decision.delete_jobs == (TRAIN_JOB,)

    def test_message_is_bounded(self) -> None:
        sources = [{"source": "nonsense " + "x" * 500} for _ in range(16)]
        status = told(look(None, (), (), dataset={"train": sources}))
        assert status.failure
        assert len(status.failure.message) <= 2048


def test_status_that_cannot_be_read_counts_as_none() -> None:
    manifest = stored(status={"state": "Dreaming", "attempts": "many"})
    fresh = decide(observe(stored(), (), (), None, at(0)), POLICY)
    assert decide(observe(manifest, (), (), None, at(0)), POLICY) == fresh
    assert told(fresh).state is State.PREPARING
