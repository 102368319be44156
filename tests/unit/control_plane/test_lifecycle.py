"""Whole lives of a job: the operator, the Job controller, kubelets and a user, with every kind of mishap in between."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from finetune_api.conditions import is_true
from finetune_api.outcomes import FailureClass, Stage
from finetune_api.status import ConditionType
from finetune_operator.attempts import SUSPENDED, UNREAD
from support.builders import NAME
from support.world import Object, World, living

CREATED = f"create Job {NAME}"


def _final(world: World) -> bool:
    found = world.status.conditions
    return is_true(found, ConditionType.COMPLETE) or is_true(found, ConditionType.FAILED)


def test_undisturbed_life() -> None:
    world = World()
    world.run_to_the_end()
    assert world.status.state == "Complete"
    assert [write for write in world.kube.writes if write.startswith("create Job")] == [
        f"{CREATED}-prepare-1",
        f"{CREATED}-train-1",
    ]
    events = [event["reason"] for event in world.kube.of("events")]
    assert sorted(events) == ["Prepared", "Published", "Training"]


@pytest.mark.parametrize("crash_at", range(15))
def test_one_crash_at_any_write_changes_nothing(crash_at: int) -> None:
    """The operator dies once before its n-th write, whichever that is."""
    world = World()
    done = 0
    for _ in range(30):
        before = len(world.kube.writes)
        alive = world.reconcile(crash_at - done if crash_at >= done else None)
        done = done + len(world.kube.writes) - before if alive else crash_at + 1
        world.control_jobs()
        world.start_pods()
        for job in world.kube.of("jobs"):
            world.succeed(job)
        world.control_jobs()
    assert world.status.state == "Complete"
    created = [write for write in world.kube.writes if write.startswith("create Job")]
    assert created == [f"{CREATED}-prepare-1", f"{CREATED}-train-1"]
    assert [attempt.outcome for attempt in world.status.attempts] == ["Succeeded"]


def test_losses_use_up_the_limit() -> None:
    world = World(nodes=1, backoff_limit=2)
    for _ in range(60):
        world.seconds += 60
        world.reconcile()
        world.control_jobs()
        world.start_pods()
        for job in world.jobs(Stage.PREPARE):
            world.succeed(job)
        for job in world.jobs(Stage.TRAIN):
            for pod in world.pods(job):
                world.fail(pod, 137)
        world.control_jobs()
    assert world.status.state == "Failed"
    assert [attempt.outcome for attempt in world.status.attempts] == ["PodLost"] * 3
    assert len(world.jobs(Stage.TRAIN)) == 3


def test_finished_children_may_be_deleted() -> None:
    world = World()
    world.run_to_the_end()
    for job in world.kube.of("jobs"):
        world.delete_job(job["metadata"]["name"])
    world.end_deleted_pods()
    writes = len([write for write in world.kube.writes if write.startswith("create")])
    world.run_to_the_end()
    assert len([write for write in world.kube.writes if write.startswith("create")]) == writes
    assert world.status.state == "Complete"


def _training() -> World:
    """A world whose first attempt is under way."""
    world = World()
    # What it runs by is remembered first.
    world.reconcile()
    world.reconcile()
    world.control_jobs()
    world.start_pods()
    for job in world.jobs(Stage.PREPARE):
        world.succeed(job)
    world.control_jobs()
    return world


def test_pods_of_an_attempt_that_the_status_never_knew_are_waited_for() -> None:
    """The operator dies after it created the Job; the user suspends and resumes while its pods take their time."""
    world = _training()
    assert not world.reconcile(4), "died before the status"
    world.control_jobs()
    world.start_pods()
    world.change(suspend=True)
    world.reconcile()
    world.change(suspend=False)
    world.reconcile()
    assert len(living(world.pods())) == 2
    assert world.jobs(Stage.TRAIN) == []
    assert world.status.attempts == ()
    world.run_to_the_end()
    assert world.status.state == "Complete"


def test_pods_of_a_suspended_attempt_are_waited_for() -> None:
    world = _training()
    world.reconcile()
    world.control_jobs()
    world.start_pods()
    world.change(suspend=True)
    world.reconcile()
    world.change(suspend=False)
    world.reconcile()
    world.control_jobs()
    world.start_pods()
    for job in world.jobs(Stage.PREPARE):
        world.succeed(job)
    world.control_jobs()
    world.reconcile()
    assert world.jobs(Stage.TRAIN) == [], "prepared again, but the pods of the first attempt still live"
    world.run_to_the_end()
    assert [attempt.outcome for attempt in world.status.attempts] == ["Suspended", "Succeeded"]


def test_result_that_went_unread_is_found_in_storage() -> None:
    """The pods end well and are collected before the operator looks: the run is adopted, not trained again."""
    world = _training()
    world.reconcile()
    world.control_jobs()
    world.start_pods()
    for job in world.jobs(Stage.TRAIN):
        world.succeed(job)
        world.control_jobs()
        for pod in world.pods(job):
            world.lose(pod)
    world.run_to_the_end()
    assert world.status.state == "Complete"
    assert [attempt.outcome for attempt in world.status.attempts] == ["Unread"]
    assert len(world.jobs(Stage.TRAIN)) == 1


class Lives(RuleBasedStateMachine):
    """Anything may happen in any order; what must hold does so after each step."""

    world: World
    writes_at_the_end: int | None

    @initialize(nodes=st.integers(1, 3), limit=st.integers(0, 3), rounds=st.integers(0, 2))
    def begin(self, nodes: int, limit: int, rounds: int) -> None:
        """From the beginning, with the prepare pods running, or with the training pods running."""
        self.world = World(nodes, limit)
        self.writes_at_the_end = None
        self.most = limit
        for _ in range(rounds):
            self.everybody_works(Stage.PREPARE)

    # Who does their work.

    @rule(crash=st.none() | st.integers(0, 5))
    def look(self, crash: int | None) -> None:
        generation = self.world.kube.job()["metadata"]["generation"]
        if self.world.reconcile(crash) and self.world.kube.writes and not self._held_up():
            assert self.world.status.observed_generation == generation

    def _held_up(self) -> bool:
        """A child of the wanted name is still being deleted: there is nothing true to say yet."""
        return any("deletionTimestamp" in job["metadata"] for job in self.world.kube.of("jobs"))

    @rule(succeeding=st.sampled_from([None, Stage.PREPARE, Stage.PREPARE, Stage.TRAIN]))
    def everybody_works(self, succeeding: Stage | None) -> None:
        self.look(None)
        self.world.control_jobs()
        self.world.start_pods()
        self.look(None)
        if succeeding:
            self.success(succeeding)
            self.world.control_jobs()
            self.look(None)

    @rule()
    def controllers(self) -> None:
        self.world.control_jobs()

    @rule()
    def kubelets(self) -> None:
        self.world.start_pods()

    @rule()
    def grace_periods_end(self) -> None:
        self.world.end_deleted_pods()

    @rule(stage=st.sampled_from([Stage.PREPARE, Stage.TRAIN]))
    def success(self, stage: Stage) -> None:
        for job in self.world.jobs(stage):
            self.world.succeed(job)

    @rule(seconds=st.sampled_from([1, 5, 40, 400]))
    def time_passes(self, seconds: int) -> None:
        self.world.seconds += seconds

    # Mishaps.

    def _running(self, which: int) -> Object | None:
        found = [pod for pod in living(self.world.pods()) if pod["status"]["phase"] == "Running"]
        return found[which % len(found)] if found else None

    @rule(which=st.integers(0, 9))
    def pod_killed(self, which: int) -> None:
        if pod := self._running(which):
            self.world.fail(pod, 137)

    @rule(which=st.integers(0, 9))
    def pod_fails_for_good(self, which: int) -> None:
        if pod := self._running(which):
            self.world.fail(pod, 11, FailureClass.DATA_ERROR)

    @rule(which=st.integers(0, 9))
    def pod_vanishes(self, which: int) -> None:
        if pod := self._running(which):
            self.world.lose(pod)

    @rule(which=st.integers(0, 9))
    def ended_pod_is_collected(self, which: int) -> None:
        ended = [pod for pod in self.world.pods() if pod not in living(self.world.pods())]
        if ended:
            self.world.lose(ended[which % len(ended)])

    @rule(which=st.integers(0, 9))
    def job_is_deleted(self, which: int) -> None:
        if jobs := self.world.kube.of("jobs"):
            self.world.delete_job(jobs[which % len(jobs)]["metadata"]["name"])

    # The user.

    @rule(suspend=st.booleans())
    def user_suspends_or_resumes(self, suspend: bool) -> None:
        self.world.change(suspend=suspend)

    # What must hold.

    @invariant()
    def never_two_trainings_at_once(self) -> None:
        jobs = self.world.jobs(Stage.TRAIN)
        assert len([job for job in jobs if not (job.get("status") or {}).get("conditions")]) <= 1
        training = [pod for pod in self.world.pods() if "-train-" in pod["metadata"]["name"]]
        owners = {pod["metadata"]["ownerReferences"][0]["uid"] for pod in living(training)}
        assert len(owners) <= 1

    @invariant()
    def attempts_have_no_gaps(self) -> None:
        attempts = self.world.status.attempts
        assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
        assert all(attempt.finished for attempt in attempts[:-1])

    @invariant()
    def losses_stay_within_the_limit(self) -> None:
        """At most backoffLimit + 1 attempts, and one more for each suspension and each result that went unread."""
        outcomes = [attempt.outcome for attempt in self.world.status.attempts]
        assert len([outcome for outcome in outcomes if outcome not in (SUSPENDED, UNREAD)]) <= self.most + 1

    @precondition(lambda self: _final(self.world))
    @invariant()
    def finished_never_restarts(self) -> None:
        created = len([write for write in self.world.kube.writes if write.startswith("create Job")])
        if self.writes_at_the_end is None:
            self.writes_at_the_end = created
        assert created == self.writes_at_the_end

    @invariant()
    def finished_stays_finished(self) -> None:
        assert self.writes_at_the_end is None or _final(self.world)

    @invariant()
    def complete_only_with_what_is_in_storage(self) -> None:
        if is_true(self.world.status.conditions, ConditionType.COMPLETE):
            assert self.world.published
            assert self.world.status.artifact

    def teardown(self) -> None:
        """Once the mishaps end, every job comes to its end."""
        if not hasattr(self, "world"):
            return
        self.world.change(suspend=False)
        self.world.run_to_the_end()
        assert _final(self.world)
        assert self.world.status.observed_generation == self.world.kube.job()["metadata"]["generation"]
        self.never_two_trainings_at_once()
        self.finished_never_restarts()


Lives.TestCase.settings = settings(max_examples=100, stateful_step_count=60)
TestLives = Lives.TestCase
