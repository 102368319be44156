"""Pods that do not run yet: what is said of them, and for how long they are waited for."""

from __future__ import annotations

from datetime import timedelta

import pytest

from finetune_api.outcomes import FailureClass
from finetune_operator.observation import read_pod
from finetune_operator.waiting import Waits, blocked, waiting_for
from support.builders import Object, at, pod, unschedulable

WAITS = Waits(timedelta(seconds=30), timedelta(minutes=10), timedelta(minutes=5))
PENDING = pod(phase="Pending", created=7)
QUEUED = pod(phase="Pending", conditions=(unschedulable("0/4 nodes"),), created=7)
PLACED = pod(index=1, scheduled=20)
NO_SECRET = pod(phase="Pending", waiting=("CreateContainerConfigError", 'secret "keys" not found'), scheduled=10)
NO_IMAGE = pod(phase="Pending", waiting=("ErrImagePull", "no such image"), scheduled=10, node="n")

BLOCKS: dict[str, tuple[list[Object], bool, FailureClass | None, float]] = {
    "running": ([PLACED], False, None, 0),
    "just created": ([PENDING], False, None, 0),
    "being started": ([pod(phase="Pending", waiting=("ContainerCreating", ""), scheduled=1)], False, None, 0),
    "all in the queue": ([QUEUED], False, None, 0),
    "all in the queue, with nodes avoided": ([QUEUED], True, FailureClass.UNSCHEDULABLE, 207),
    "one placed, one in the queue": ([QUEUED, PLACED], False, FailureClass.UNSCHEDULABLE, 220),
    "no Secret": ([NO_SECRET], False, FailureClass.SECRET_MISSING, -60),
    "no image": ([NO_IMAGE, PLACED], False, FailureClass.IMAGE_PULL, 510),
    "what ends first": ([NO_IMAGE, QUEUED, PLACED], False, FailureClass.UNSCHEDULABLE, 210),
}


@pytest.mark.parametrize("case", BLOCKS)
def test_block(case: str) -> None:
    pods, avoiding, kind, left = BLOCKS[case]
    block = blocked([read_pod(item) for item in pods], WAITS, at(100), avoiding)
    assert (block.failure.failure_class if block else None) == kind
    if block:
        assert block.left == timedelta(seconds=left)
        assert block.node == ("n" if kind is FailureClass.IMAGE_PULL else None)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (PENDING, None),
        (QUEUED, "cannot be scheduled: 0/4 nodes"),
        (NO_IMAGE, "cannot start: ErrImagePull: no such image"),
        (pod(phase="Pending", waiting=("PodInitializing", "")), None),
    ],
)
def test_words(manifest: Object, words: str | None) -> None:
    said = waiting_for([read_pod(PLACED), read_pod(manifest)])
    assert (said or "").endswith(words or "")
    assert (said is None) is (words is None)


def test_two_gangs_do_not_give_way_in_step() -> None:
    first, second = WAITS.staggered("6f0c2b1e"), WAITS.staggered("6f0c2b1f")
    assert WAITS.gang <= first.gang < 2 * WAITS.gang
    assert WAITS.gang <= second.gang < 2 * WAITS.gang
    assert abs(first.gang - second.gang) > timedelta(seconds=1)
    assert (first, first.secret, first.image) == (WAITS.staggered("6f0c2b1e"), WAITS.secret, WAITS.image)
