"""One look at a job against an API server in memory: order of writes, names that are taken, what is written when."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from finetune_api.outcomes import FailureClass, Stage
from finetune_api.progress import Progress
from finetune_operator.errors import AlreadyExists, KubeError, NamespaceTerminating
from finetune_operator.hearing import Hearing
from finetune_operator.naming import JOB_LABEL, PROGRESS_MANAGER
from finetune_operator.observation import observe
from finetune_operator.progress import Reports
from finetune_operator.reconcile import Key, Reconciler, status_manifest
from support.builders import (
    NAME,
    NAMESPACE,
    NOW,
    POLICY,
    UID,
    batch_job,
    failed,
    merged,
    pod,
    prepare_outcome,
    progress,
    published_outcome,
    report,
    stored,
)
from support.fake_kube import Crash, FakeKube, finish, put_job

KEY = Key(NAMESPACE, NAME)
STATUS = f"status of {NAME} by finetune-operator"
PREPARE = [f"create ConfigMap {NAME}-prepare-1", f"create Job {NAME}-prepare-1"]
TRAIN = [f"create {kind} {NAME}-train-1" for kind in ("ConfigMap", "Service", "Job")]


class _Bench:
    """A reconciler, its API server and its reports, and a job that remembers by which defaults it began."""

    def __init__(self, **changes: Any) -> None:
        self.kube = FakeKube()
        self.reports = Reports()
        put_job(self.kube, stored(**changes))
        self.reconciler = Reconciler(self.kube, POLICY, self.reports, lambda: NOW)
        self.look()
        self.first_writes = list(self.kube.writes)
        self.kube.writes.clear()

    def look(self) -> timedelta | None:
        return finish(self.reconciler.reconcile(KEY))

    def new_writes(self) -> list[str]:
        """What one more look writes."""
        before = len(self.kube.writes)
        self.look()
        return self.kube.writes[before:]

    def settle(self) -> None:
        """Looks until there is nothing more to write."""
        looks = 0
        while self.new_writes():
            looks += 1
            assert looks < 5, "each look calls for the next"

    def prepared(self) -> None:
        """Prepare has ended well."""
        self.look()
        self.kube.remove(batch_job(Stage.PREPARE))
        self.kube.put(batch_job(Stage.PREPARE, ended="Complete"))
        self.kube.put(pod(Stage.PREPARE, phase="Succeeded", exit_code=0, outcome=prepare_outcome()))

    def training_ended(self, last: Progress | None = None) -> None:
        """The pods of the first attempt have ended well; ``last`` is the progress that they left."""
        self.prepared()
        self.look()
        self.kube.remove(batch_job())
        self.kube.put(batch_job(ended="Complete"))
        outcome = published_outcome().model_copy(update={"progress": last})
        self.kube.put(pod(phase="Succeeded", exit_code=0, outcome=outcome))

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.kube.job()["status"])

    def true_conditions(self) -> set[str]:
        return {item["type"] for item in self.status["conditions"] if item["status"] == "True"}


def test_new_job_gets_a_status_that_says_by_what_it_runs_then_its_plan_then_the_job() -> None:
    bench = _Bench()
    assert bench.first_writes == [STATUS]
    assert bench.new_writes() == PREPARE
    assert bench.status["observedGeneration"] == 1
    assert bench.status["state"] == "Preparing"


def test_second_look_at_the_same_writes_nothing() -> None:
    bench = _Bench()
    bench.settle()
    assert bench.kube.writes == [*PREPARE, STATUS], "it tells when the prepare Job was created"
    assert bench.new_writes() == []


def test_training_starts_with_service_before_pods_and_event_after_the_status() -> None:
    bench = _Bench()
    bench.prepared()
    assert bench.new_writes() == [*TRAIN, STATUS, "create Event Prepared"]
    (attempt,) = bench.status["attempts"]
    assert attempt["number"] == 1


def test_a_prepare_pod_that_falls_silent_is_replaced() -> None:
    bench, now = _Bench(), 0.0
    bench.reports.hearing = Hearing(lambda: now)
    bench.look()
    bench.kube.put(pod(Stage.PREPARE, node="node-a"))
    bench.settle()
    bench.reports.hearing.heard((NAMESPACE, NAME), NOW)
    now = 601.0
    assert bench.new_writes() == [STATUS, "create Event Retrying"]
    assert [attempt["outcome"] for attempt in bench.status["attempts"]] == ["PodLost"]
    assert bench.new_writes()[:3] == [name.replace("-1", "-2") for name in PREPARE] + [f"delete Job {NAME}-prepare-1"]


def test_published_job_is_complete_with_its_artifact() -> None:
    bench = _Bench()
    bench.training_ended()
    assert bench.new_writes() == [STATUS, "create Event Published"]
    assert bench.true_conditions() == {"Validated", "Prepared", "ArtifactVerified", "Complete"}
    assert bench.status["artifact"]["bytes"] == 12345
    assert bench.new_writes() == []


def test_the_last_report_is_told_before_the_end() -> None:
    bench = _Bench()
    bench.training_ended()
    bench.reports.accept(NAMESPACE, NAME, report(stage=Stage.PUBLISH, step=100))
    assert bench.new_writes() == [f"status of {NAME} by {PROGRESS_MANAGER}", STATUS, "create Event Published"]
    assert bench.status["progress"]["step"] == 100
    assert bench.new_writes() == []


# The step that the last report has, if one came, and that of the pod's end.
LAST_WORDS: dict[str, tuple[int | None, int]] = {
    "no report came": (None, 100),
    "the last report that came is an old one": (40, 100),
    "nothing is newer": (100, 100),
}


@pytest.mark.parametrize("case", LAST_WORDS)
def test_the_last_words_of_a_pod_tell_its_progress(case: str) -> None:
    """As where the API server was away while it trained, so that no report could be checked."""
    reported, said = LAST_WORDS[case]
    bench = _Bench()
    bench.training_ended(progress(said))
    if reported:
        bench.reports.accept(NAMESPACE, NAME, report(step=reported))
    bench.look()
    assert bench.status["progress"] == progress(100).to_wire()
    assert "Complete" in bench.true_conditions()
    assert bench.new_writes() == []


@pytest.mark.parametrize(
    ("first", "reported", "told"), [(60, None, 60), (60, (2, 80), 80), (None, (2, 80), 80), (60, (1, 80), 60)]
)
def test_the_later_attempt_tells_the_progress(first: int | None, reported: tuple[int, int] | None, told: int) -> None:
    ended = failed(Stage.TRAIN, FailureClass.STORAGE, "no room").model_copy(
        update={"progress": progress(first) if first else None}
    )
    pods = (pod(phase="Failed", exit_code=14, outcome=ended), pod(attempt=2))
    newest = report(attempt=reported[0], step=reported[1]) if reported else None
    assert observe(stored(), (), pods, newest, NOW).last_progress() == progress(told)


@pytest.mark.parametrize("writes_before_the_crash", range(5))
def test_crash_between_any_two_writes_ends_the_same(writes_before_the_crash: int) -> None:
    bench, undisturbed = _Bench(), _Bench()
    for one in (bench, undisturbed):
        one.prepared()
    bench.kube.crash_before = writes_before_the_crash
    with pytest.raises(Crash):
        bench.look()
    bench.settle()
    undisturbed.settle()
    assert bench.status == undisturbed.status
    names = [{item["metadata"]["name"] for item in one.kube.of("jobs")} for one in (bench, undisturbed)]
    assert names[0] == names[1]


@pytest.mark.parametrize("child", ["ConfigMap", "Service", "Job"])
def test_child_that_exists_and_is_ours_is_used(child: str) -> None:
    bench = _Bench()
    bench.prepared()
    bench.kube.crash_before = 3
    with pytest.raises(Crash):
        bench.look()
    assert bench.new_writes() == [STATUS, "create Event Prepared"]


def _taken(kind: str, **metadata: Any) -> dict[str, Any]:
    versions = {"ConfigMap": "v1", "Job": "batch/v1"}
    known = {"name": f"{NAME}-prepare-1", "namespace": NAMESPACE}
    return {"apiVersion": versions[kind], "kind": kind, "metadata": known | metadata}


@pytest.mark.parametrize("kind", ["ConfigMap", "Job"])
def test_child_of_the_job_before_is_waited_for(kind: str) -> None:
    bench = _Bench()
    labels = {JOB_LABEL: NAME}
    older = bench.kube.put(_taken(kind, labels=labels, ownerReferences=[{"uid": "uid-of-the-job-before"}]))
    assert bench.look() == timedelta(seconds=1)
    assert STATUS not in bench.kube.writes
    bench.kube.remove(older)
    assert bench.look() is None
    assert bench.kube.writes[-1] == PREPARE[-1]


def _reason(bench: _Bench, kind: str) -> str:
    return str(next(item["reason"] for item in bench.status["conditions"] if item["type"] == kind))


@pytest.mark.parametrize("kind", ["ConfigMap", "Job"])
def test_name_that_a_stranger_holds_is_said_and_tried_again(kind: str) -> None:
    bench = _Bench()
    stranger = bench.kube.put(_taken(kind))
    with pytest.raises(AlreadyExists, match=f"{kind} {NAME}-prepare-1 exists and is not the operator's"):
        bench.look()
    assert _reason(bench, "Prepared") == _reason(bench, "Reconciling") == "ChildRefused"
    bench.kube.remove(stranger)
    assert bench.look() is None
    assert bench.kube.writes[-1] == STATUS


def test_own_child_that_is_being_deleted_is_waited_for() -> None:
    bench = _Bench()
    ours = {"ownerReferences": [{"uid": UID}], "deletionTimestamp": "2026-03-01T12:00:30Z"}
    bench.kube.put(_taken("Job", **ours))
    assert bench.look() == timedelta(seconds=1)


def test_a_refused_child_is_said_and_tried_again() -> None:
    """The status must never say that something exists which does not."""
    bench = _Bench()
    bench.kube.refuse = [None, KubeError(403, "Forbidden", "exceeded quota")]
    with pytest.raises(KubeError, match="exceeded quota"):
        bench.look()
    assert bench.kube.writes == [PREPARE[0], STATUS, "create Event ChildRefused"]
    prepared = next(item for item in bench.status["conditions"] if item["type"] == "Prepared")
    assert prepared["message"] == "Forbidden: exceeded quota. It is tried again"
    assert bench.status["observedGeneration"] == 1
    assert bench.new_writes() == [PREPARE[1], STATUS]


def test_a_namespace_that_is_being_deleted_takes_the_job_with_it() -> None:
    bench = _Bench()
    bench.kube.refuse = [NamespaceTerminating(403, "Forbidden", "because it is being terminated")]
    assert bench.look() is None
    assert bench.kube.writes == []


def test_an_api_server_that_does_not_answer_leaves_the_status_alone() -> None:
    bench = _Bench()
    bench.kube.refuse = [None, KubeError(0, "Unreachable", "no answer")]
    with pytest.raises(KubeError, match="no answer"):
        bench.look()
    assert bench.kube.writes == PREPARE[:1]


def test_refused_event_does_not_repeat_the_work() -> None:
    bench = _Bench()
    bench.prepared()
    bench.kube.refuse = [None, None, None, None, KubeError(403, "Forbidden", "no events here")]
    bench.look()
    assert bench.kube.writes[-1] == STATUS
    bench.settle()
    assert bench.kube.of("events") == []
    assert len(bench.kube.of("jobs")) == 2


def test_no_event_when_the_status_was_refused() -> None:
    bench = _Bench()
    bench.prepared()
    bench.kube.refuse = [None, None, None, KubeError(500, "InternalError", "etcd")]
    with pytest.raises(KubeError, match="etcd"):
        bench.look()
    assert bench.kube.of("events") == []
    assert bench.new_writes() == [STATUS, "create Event Prepared"]


def test_progress_in_the_status_is_left_alone() -> None:
    bench = _Bench()
    bench.settle()
    bench.kube.job()["status"]["progress"] = progress(step=3).to_wire()
    assert bench.new_writes() == []


def test_generation_is_observed_even_when_nothing_else_changed() -> None:
    bench = _Bench()
    bench.training_ended()
    bench.look()
    bench.kube.job()["metadata"]["generation"] = 2
    assert bench.new_writes() == [STATUS]
    assert bench.status["observedGeneration"] == 2
    assert {item["observedGeneration"] for item in bench.status["conditions"]} == {2}


def test_deleted_job_is_forgotten() -> None:
    bench = _Bench()
    bench.reports.accept(NAMESPACE, NAME, report())
    bench.kube.objects.clear()
    assert bench.look() is None
    assert bench.reports.newest(NAMESPACE, NAME) is None
    assert bench.kube.writes == []


def test_job_that_is_being_deleted_is_left_alone() -> None:
    bench = _Bench()
    bench.kube.job()["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:30Z"
    assert bench.new_writes() == []


def test_suspension_deletes_the_job_before_the_status_says_so() -> None:
    bench = _Bench()
    bench.prepared()
    bench.look()
    job = bench.kube.job()
    job["spec"]["suspend"], job["metadata"]["generation"] = True, 2
    assert bench.new_writes() == [f"delete Job {NAME}-train-1", STATUS, "create Event Suspended"]
    assert bench.status["attempts"][0]["outcome"] == "Suspended"


def test_children_of_an_older_job_of_the_name_are_not_seen() -> None:
    bench = _Bench()
    old = merged(batch_job(ended="Complete"), {"metadata": {"labels": {"finetune.dev/job-uid": "older"}}})
    bench.kube.put(old)
    assert bench.new_writes() == PREPARE


def test_status_that_no_version_wrote_is_replaced() -> None:
    bench = _Bench()
    bench.kube.job()["status"] = {"state": "Dreaming"}
    assert bench.new_writes() == [STATUS]
    assert bench.new_writes() == PREPARE
    assert bench.status["state"] == "Preparing"


def test_event_tells_of_the_job() -> None:
    bench = _Bench()
    bench.prepared()
    bench.look()
    (event,) = bench.kube.of("events")
    assert event["regarding"]["uid"] == UID
    assert event["reportingController"] == "finetune.dev/finetune-operator"


def test_applied_status_is_guarded_by_the_uid() -> None:
    applied = status_manifest(stored(), {"state": "Pending"})
    assert applied["metadata"] == {"name": NAME, "namespace": NAMESPACE, "uid": UID}
    assert applied["status"] == {"state": "Pending"}
