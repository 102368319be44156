"""The newest checkpoint in the status and as an annotation: what is said, by whom it is known, and when it is gone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.outcomes import FailureClass, Stage
from finetune_api.results import Checkpoint
from finetune_operator.naming import CHECKPOINT_ANNOTATION
from finetune_operator.progress import ProgressWriter, Reports
from support.builders import NAME, NAMESPACE, UID, at, failed, report
from support.fake_kube import Crash, finish
from support.world import World

KEPT = {"checkpoint": {"keepAfterSuccess": True}}


def saved(step: int) -> Checkpoint:
    return Checkpoint(step=step, time=at(step), uri=f"s3://results/_checkpoints/r/step-{step}", world_size=2)


def said(world: World) -> tuple[int | None, int | None]:
    """Steps in the status and in the annotation."""
    job = world.kube.job()
    text = job["metadata"].get("annotations", {}).get(CHECKPOINT_ANNOTATION)
    return (
        ((job.get("status") or {}).get("checkpoint") or {}).get("step"),
        json.loads(text)["step"] if text else None,
    )


def training(**spec: Any) -> World:
    """A world whose first attempt runs."""
    world = World(nodes=1, **spec)
    while not world.jobs(Stage.TRAIN):
        world.reconcile()
        world.control_jobs()
        world.start_pods()
        for job in world.jobs(Stage.PREPARE):
            world.succeed(job)
        world.control_jobs()
    world.control_jobs()
    world.start_pods()
    world.reconcile()
    return world


def end_badly(world: World, checkpoint: Checkpoint | None) -> None:
    """The pod is preempted, and its last word names a checkpoint."""
    (job,) = world.jobs(Stage.TRAIN)
    (pod,) = world.pods(job)
    outcome = failed(Stage.TRAIN, FailureClass.PREEMPTED, "SIGTERM")
    world.end(pod, 17, outcome.model_copy(update={"checkpoint": checkpoint, "resumed_from_step": 3}))
    world.control_jobs()
    world.reconcile()


def heard(world: World, checkpoint: Checkpoint) -> None:
    """A report brings a checkpoint."""
    finish(ProgressWriter(world.kube, _reports(checkpoint))._write((NAMESPACE, NAME)))


def _reports(checkpoint: Checkpoint) -> Reports:
    reports = Reports()
    reports.accept(NAMESPACE, NAME, report(1, 1).model_copy(update={"uid": UID, "checkpoint": checkpoint}))
    return reports


def test_a_report_is_told_in_both_places() -> None:
    world = training()
    assert said(world) == (None, None)
    heard(world, saved(8))
    assert said(world) == (8, 8)
    annotation = json.loads(world.kube.job()["metadata"]["annotations"][CHECKPOINT_ANNOTATION])
    assert annotation == saved(8).to_wire()
    assert set(annotation) == {"step", "time", "uri", "worldSize"}


def test_the_last_word_of_a_pod_is_told_though_no_report_came() -> None:
    world = training()
    heard(world, saved(8))
    end_badly(world, saved(9))
    assert said(world) == (9, 9)
    assert world.status.attempts[0].resumed_from_step == 3


def test_a_pod_that_knew_of_none_changes_nothing() -> None:
    world = training()
    heard(world, saved(8))
    end_badly(world, None)
    assert said(world) == (8, 8)


def test_an_annotation_that_somebody_removed_is_written_again() -> None:
    world = training()
    heard(world, saved(8))
    world.kube.job()["metadata"]["annotations"].clear()
    world.reconcile()
    assert said(world) == (8, 8)


def test_the_user_keeps_other_annotations() -> None:
    world = training()
    world.kube.job()["metadata"]["annotations"] = {"team": "a"}
    heard(world, saved(8))
    world.run_to_the_end()
    assert world.kube.job()["metadata"]["annotations"] == {"team": "a"}


@pytest.mark.parametrize(("spec", "step"), [({}, None), (KEPT, 8)], ids=["removed", "kept"])
def test_success_leaves_what_is_in_the_store(spec: dict[str, Any], step: int | None) -> None:
    world = training(**spec)
    heard(world, saved(8))
    world.run_to_the_end()
    assert world.status.state == "Complete"
    assert said(world) == (step, step)


def test_a_crash_between_the_two_is_repaired() -> None:
    world = training()
    heard(world, saved(8))
    world.kube.crash_after = 1
    with pytest.raises(Crash):
        heard(world, saved(9))
    world.kube.crash_after = None
    assert said(world) == (9, 8)
    world.reconcile()
    assert said(world) == (9, 9)
