"""How a pod ended, from what its ranks left."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api.outcomes import Failure, FailureClass, Stage, StageOutcome
from finetune_api.plan import JobReference, RunPlan, world_of
from finetune_trainer.errors import TrainerError
from finetune_trainer.failures import Killed
from finetune_trainer.training.launch import node_end
from finetune_trainer.workspace import Workspace, workspace_of
from support.training_runs import make_spec

FAILURE = Failure(failure_class=FailureClass.DIVERGED, message="NaN", remedy="lower it")


@pytest.fixture
def plan() -> RunPlan:
    spec = make_spec(nodes=2, processes=2, micro_batch_size=1)
    return RunPlan(
        job=JobReference(namespace="team", name="tiny", uid="7d1c"),
        attempt=1,
        spec=spec,
        world=world_of(spec, "tiny-1-0.tiny-1", 31234),
        stores={},
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "outcomes").mkdir()
    return Workspace(tmp_path)


def leave(workspace: Workspace, rank: int, outcome: StageOutcome) -> None:
    workspace.outcome(rank).write_text(outcome.to_json())


def test_success_is_what_the_pods_first_rank_says(plan: RunPlan, workspace: Workspace) -> None:
    leave(workspace, 2, StageOutcome(stage=Stage.PUBLISH))
    leave(workspace, 3, StageOutcome(stage=Stage.TRAIN))
    assert node_end(plan, workspace, 1, {}) == StageOutcome(stage=Stage.PUBLISH)


def test_a_failure_wins_and_names_its_stage(plan: RunPlan, workspace: Workspace) -> None:
    leave(workspace, 0, StageOutcome(stage=Stage.TRAIN))
    leave(workspace, 1, StageOutcome(stage=Stage.EVALUATE, failure=FAILURE))
    assert node_end(plan, workspace, 0, {1: 15}) == StageOutcome(stage=Stage.EVALUATE, failure=FAILURE)


def test_a_killed_worker_is_told_from_one_that_ended_in_words(plan: RunPlan, workspace: Workspace) -> None:
    lost = FAILURE.model_copy(update={"failure_class": FailureClass.RENDEZVOUS})
    leave(workspace, 0, StageOutcome(stage=Stage.TRAIN, failure=lost))
    assert node_end(plan, workspace, 0, {0: 15, 1: 9}) == Killed(1, 9)


def test_other_pods_outcomes_do_not_count(plan: RunPlan, workspace: Workspace) -> None:
    leave(workspace, 0, StageOutcome(stage=Stage.TRAIN, failure=FAILURE))
    for rank in (2, 3):
        leave(workspace, rank, StageOutcome(stage=Stage.TRAIN))
    assert node_end(plan, workspace, 1, {}).failure is None  # type: ignore[union-attr]


def test_silence_is_no_success(plan: RunPlan, workspace: Workspace) -> None:
    leave(workspace, 0, StageOutcome(stage=Stage.TRAIN))
    with pytest.raises(TrainerError, match="1 of 2 training processes ended without saying how"):
        node_end(plan, workspace, 0, {})


def test_workspace_from_the_environment() -> None:
    assert workspace_of({}).root == Path("/workspace")
    assert workspace_of({"FINETUNE_WORKSPACE": "/tmp/x"}).artifact == Path("/tmp/x/artifact")
