"""Jobs that wait in a queue: their manifests, and which of their pods count."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.outcomes import Stage
from finetune_operator.inventory import Inventory
from finetune_operator.objects import training_job
from finetune_operator.observation import read_job, read_pod
from finetune_operator.queueing import partly_done, since_admission
from support.builders import PLATFORM, batch_job, job, merged, pod, stored

CLASS = {"kueue.x-k8s.io/priority-class": "urgent"}


def labelled(labels: dict[str, str] | None, **changes: Any) -> dict[str, Any]:
    """The training Job of a FineTuneJob with labels of its own."""
    found = job(**changes)
    metadata = found.metadata.model_copy(update={"labels": labels})
    return training_job(found.model_copy(update={"metadata": metadata}), PLATFORM, 1)


def test_a_queue_changes_nothing_but_the_label_and_the_suspension() -> None:
    plain = training_job(job(), PLATFORM, 1)
    label = {"kueue.x-k8s.io/queue-name": "team"}
    assert labelled(None, queueName="team") == merged(plain, {"metadata": {"labels": label}, "spec": {"suspend": True}})


def test_the_priority_of_the_queue_is_taken_from_the_label_that_kueue_knows() -> None:
    made = labelled(CLASS | {"team": "a"}, queueName="team")
    assert made["metadata"]["labels"].items() >= CLASS.items()
    assert "team" not in made["metadata"]["labels"]
    assert labelled(CLASS) == training_job(job(), PLATFORM, 1), "without a queue it means nothing"


@pytest.mark.parametrize(
    ("admitted", "expected"),
    [
        (None, ["lives", "ends", "ended", "new"]),
        (5, ["lives", "ends", "ended", "new"]),
        # The Job controller noted the admission a moment after it had made the pod, and a second later.
        (6, ["lives", "new"]),
        (10, ["lives", "new"]),
        (11, ["lives"]),
    ],
)
def test_only_pods_since_the_admission_count(admitted: float | None, expected: list[str]) -> None:
    made = {
        "lives": pod(created=5),
        "ends": pod(created=5, deleted=7),
        "ended": pod(created=5, phase="Failed", exit_code=17),
        "new": pod(created=10, phase="Failed", exit_code=1),
    }
    pods = [read_pod(found) for found in made.values()]
    kept = since_admission(read_job(batch_job(queue="team", admitted=admitted)), pods)
    assert [name for name, found in zip(made, pods, strict=True) if found in kept] == expected


@pytest.mark.parametrize(("phases", "expected"), [((), False), (("Running", "Failed"), False), (("Succeeded",), True)])
def test_a_gang_that_is_partly_done(phases: tuple[str, ...], expected: bool) -> None:
    assert partly_done([read_pod(pod(phase=phase)) for phase in phases]) is expected


def test_what_a_job_of_a_queue_says() -> None:
    found = read_job(batch_job(Stage.TRAIN, queue="team", suspended=True))
    assert (found.queue, found.suspended, found.admitted) == ("team", True, None)


def test_jobs_of_another_controller_are_not_counted() -> None:
    inventory = Inventory(lambda change: None)
    inventory.see(stored(managedBy="example.com/x"))
    assert not inventory.states()
    inventory.see(stored())
    assert sum(inventory.states().values()) == 1
