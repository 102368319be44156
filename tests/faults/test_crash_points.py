"""The operator dies after every single write to the API server, in every life of a job: the end is the same.

The lives are recorded from undisturbed runs. Each write of each is a crash point, in each of three modes: the operator
that follows sees everything (crash), first sees what was there before the last look of the one that died (stale watch),
or hears of nothing until its resync (missed event).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from finetune_api.outcomes import FailureClass, Stage
from finetune_operator.checkpoints import published
from support.world import World, living

MODES = ("crash", "stale watch", "missed event")
ROUNDS = 80


@dataclass(frozen=True)
class Life:
    """What happens to a job: ``strikes`` is called in each round, and looks at the job rather than at the clock, so
    that a delay does not change what happens."""

    strikes: Callable[[World], None]
    end: str
    outcomes: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = ()


def _nothing(world: World) -> None:
    """An undisturbed life."""


def _fail_once(code: int, kind: FailureClass | None = None) -> Callable[[World], None]:
    """The first attempt's rank 0 fails."""

    def strike(world: World) -> None:
        for job in world.jobs(Stage.TRAIN):
            pods = [pod for pod in living(world.pods(job)) if pod["status"]["phase"] == "Running"]
            if job["metadata"]["name"].endswith("-train-1") and pods:
                world.fail(pods[0], code, kind)

    return strike


def _fail_always(world: World) -> None:
    for job in world.jobs(Stage.TRAIN):
        for pod in living(world.pods(job)):
            if pod["status"]["phase"] == "Running":
                world.fail(pod, 137)


def _bad_data(world: World) -> None:
    for job in world.jobs(Stage.PREPARE):
        for pod in living(world.pods(job)):
            if pod["status"]["phase"] == "Running":
                world.fail(pod, 11, FailureClass.DATA_ERROR)


def _suspend_once(world: World) -> None:
    """The user suspends as soon as the first attempt runs, and resumes when its pods have ended."""
    attempts = world.status.attempts
    if world.kube.job()["spec"].get("suspend"):
        if world.status.state == "Suspended" and not living(world.pods()):
            world.change(suspend=False)
    elif len(attempts) == 1 and attempts[0].finished is None and len(living(world.pods())) == 2:
        world.change(suspend=True)


def _no_image_once(world: World) -> None:
    """The pods of the first attempt cannot pull their image."""
    for pod in living(world.pods()):
        if "-train-1-" in pod["metadata"]["name"]:
            made = pod["metadata"]["creationTimestamp"]
            pod["status"] = {
                "phase": "Pending",
                "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": made}],
                "containerStatuses": [
                    {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
                ],
            }


def _adopted(world: World) -> None:
    world.published = True


LIVES = {
    "undisturbed": Life(_nothing, "Complete", ("Succeeded",)),
    "adopted": Life(_adopted, "Complete", ()),
    "bad data": Life(_bad_data, "Failed", ()),
    "a rank is killed": Life(_fail_once(137), "Complete", ("PodLost", "Succeeded")),
    "memory runs out": Life(
        _fail_once(12),
        "Complete",
        ("OutOfMemory", "Succeeded"),
        (("deepspeed", {"microBatchSize": 4}), ("hyperparameters", {"globalBatchSize": 8})),
    ),
    "the run diverges": Life(_fail_once(13, FailureClass.DIVERGED), "Failed", ("Diverged",)),
    "killed until the limit": Life(_fail_always, "Failed", ("PodLost",) * 3),
    "an image that cannot be pulled": Life(_no_image_once, "Complete", ("ImagePull", "Succeeded")),
    "suspended and resumed": Life(_suspend_once, "Complete", ("Suspended", "Succeeded")),
}


class Story:
    """One life, with an operator that dies after one of its writes; never, if ``point`` is None.

    Attributes:
        rounds: how many were begun.
        quiet: how many of the last had nothing to do.
        passed: the story as it was before each round, as far as it was kept.
    """

    def __init__(self, life: Life) -> None:
        self.world = World(nodes=2, backoff_limit=2, **dict(life.options))
        self.life, self.mode = life, "crash"
        self.point: int | None = None
        self.deaf = self.rounds = self.quiet = 0
        self.passed: list[Story] = []

    def run(self, keep: bool = False) -> Story:
        while self.rounds < ROUNDS:
            if keep:
                self.passed.append(self._copied())
            before = len(self.world.kube.writes)
            self.rounds += 1
            self._round()
            self.quiet = 0 if len(self.world.kube.writes) > before or self.deaf else self.quiet + 1
            if self.quiet == 3:
                return self
        raise AssertionError(f"still busy: {self.world.kube.writes[-10:]}")

    def _copied(self) -> Story:
        """The same story once more, told by nobody yet. What came before it is left out."""
        return copy.deepcopy(self, {id(self.life): self.life, id(self.passed): []})

    def killed_after(self, point: int, mode: str) -> Story:
        """The story in which the operator dies after write ``point``: until the round of that write it is this one."""
        story = [passed for passed in self.passed if len(passed.world.kube.writes) <= point][-1]._copied()
        story.point, story.mode = point, mode
        return story

    def _round(self) -> None:
        world = self.world
        # Kubelets do what they are told within seconds.
        world.end_deleted_pods()
        world.seconds += 400
        self._look()
        world.control_jobs()
        self._look()
        world.start_pods()
        self._look()
        self.life.strikes(world)
        for job in world.kube.of("jobs"):
            if not world.kube.job()["spec"].get("suspend"):
                world.succeed(job)
        self._look()
        world.end_deleted_pods()
        world.control_jobs()
        self._look()
        self.deaf = max(0, self.deaf - 1)

    def _look(self) -> None:
        if self.deaf:
            return
        kube = self.world.kube
        # Reads are of that only after the death; what was there after it is of no use to anybody.
        before = kube.snapshot() if self.point is not None and self.mode == "stale watch" else {}
        left = None if self.point is None else self.point + 1 - len(kube.writes)
        if not self.world.reconcile(left if left is not None and left > 0 else None, after=True):
            self.point = None
            self._reborn(before)
        self._check()

    def _reborn(self, before: dict[Any, Any]) -> None:
        if self.mode == "missed event":
            self.deaf = 1
        if self.mode == "stale watch":
            self.world.kube.stale = before
            self.world.reconcile()
            self.world.kube.stale = None

    def _check(self) -> None:
        training = [pod for pod in self.world.pods() if "-train-" in pod["metadata"]["name"]]
        owners = {pod["metadata"]["ownerReferences"][0]["uid"] for pod in living(training)}
        assert len(owners) <= 1, "two attempts train at once"

    @property
    def end(self) -> dict[str, Any]:
        """Everything of the end that must not depend on the crash: no times, no Events."""
        status = self.world.status
        plan = status.plan.to_wire() if status.plan else {}
        return {
            "state": status.state,
            "conditions": [(item.type, item.status, item.reason) for item in status.conditions],
            "attempts": [(item.number, item.outcome, item.change) for item in status.attempts],
            "losses": status.losses,
            "plan": plan,
            "artifact": status.artifact,
            "failure": status.failure and status.failure.failure_class,
            "checkpoint": published(self.world.kube.job()),
            "jobs": [job["metadata"]["name"] for job in self.world.kube.of("jobs")],
            "observed": status.observed_generation,
        }

    @property
    def created(self) -> list[str]:
        return sorted(write for write in self.world.kube.writes if write.startswith("create ") and "Event" not in write)


@cache
def undisturbed(name: str) -> Story:
    return Story(LIVES[name]).run(keep=True)


@pytest.mark.parametrize("name", LIVES)
def test_undisturbed_life(name: str) -> None:
    status = undisturbed(name).world.status
    assert status.state == LIVES[name].end
    assert tuple(attempt.outcome for attempt in status.attempts) == LIVES[name].outcomes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", LIVES)
def test_every_crash_point_comes_to_the_same_end(name: str, mode: str) -> None:
    expected = undisturbed(name)
    points = len(expected.world.kube.writes)
    assert points > 3
    for point in range(points):
        story = expected.killed_after(point, mode).run()
        where = f"killed after write {point}: {expected.world.kube.writes[point]}"
        assert story.point is None, f"{where}: it did not die"
        assert story.end == expected.end, where
        assert story.created == expected.created, f"{where}: a child was made twice or never"
