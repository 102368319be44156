"""Jobs that wait for other jobs: what is waited for, what is refused, and who is looked at when."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import yaml

from finetune_api.conditions import is_true
from finetune_api.outcomes import FailureClass, Stage
from finetune_api.plan import RunPlan
from finetune_api.status import ConditionType, FineTuneJobStatus, State
from finetune_operator.decide import decide
from finetune_operator.dependents import Dependents
from finetune_operator.observation import observe
from finetune_operator.progress import Reports
from finetune_operator.reconcile import Key, Reconciler
from finetune_operator.upstreams import MAX_CHAIN, needed_names
from support.builders import (
    NAME,
    NAMESPACE,
    NOW,
    POLICY,
    RUN_ID,
    Object,
    artifact,
    at,
    batch_job,
    failure,
    pod,
    prepare_outcome,
    prepared,
    stamp,
    stored,
)
from support.decisions import begins
from support.fake_kube import FakeKube, finish, put_job

KEY = Key(NAMESPACE, NAME)
NEEDS = {"model": {"source": "job://sft"}}


def condition(kind: str) -> Object:
    now = stamp(NOW)
    return {
        "type": kind,
        "status": "True",
        "reason": "Published" if kind == "Complete" else "RunFailed",
        "message": "",
        "lastTransitionTime": now,
        "observedGeneration": 1,
    }


def other(name: str = "sft", ended: str | None = None, source: str = "s3://models/tiny", **metadata: Any) -> Object:
    """Another job of the namespace: under way, or ended as Complete or Failed."""
    status: Object = {"conditions": [condition(ended)]} if ended else {}
    if ended == "Complete":
        status |= {"runID": RUN_ID, "artifact": artifact().to_wire()}
    if ended == "Failed":
        status["failure"] = failure(FailureClass.DATA_ERROR, "row 3 is empty").to_wire()
    manifest = stored(status=status, uid=f"uid-of-{name}", model={"source": source})
    manifest["metadata"] |= {"name": name, **metadata}
    return manifest


def told(*needed: Object, status: FineTuneJobStatus | None = None, **changes: Any) -> FineTuneJobStatus:
    """The status of a job that needs others, of which so much is seen."""
    manifest = stored(status=status.to_wire() if status else None, **(NEEDS | changes))
    seen = observe(manifest, (), (), None, at(0), needed)
    decision = decide(seen, POLICY)
    assert decision.status
    assert decision.create == ()
    return told(*needed, status=decision.status, **changes) if begins(seen, decision) else decision.status


def said(status: FineTuneJobStatus, kind: ConditionType) -> tuple[str, str, str]:
    (found,) = (item for item in status.conditions if item.type is kind)
    return found.status.value, found.reason.value, found.message


WAITS = [
    pytest.param((), "JobNotFound", "waiting for the FineTuneJob 'sft', which does not exist yet", id="missing"),
    pytest.param(
        (other(ended="Complete", deletionTimestamp="2026-03-01T12:00:00Z"),),
        "JobNotFound",
        "waiting for the FineTuneJob 'sft', which does not exist yet",
        id="being deleted",
    ),
    pytest.param((other(),), "WaitingForJob", "waiting for the FineTuneJob 'sft' to be Complete", id="under way"),
    pytest.param(
        (other(source="job://older"), other("older")),
        "WaitingForJob",
        "waiting for the FineTuneJob 'sft' to be Complete",
        id="waits itself",
    ),
]


@pytest.mark.parametrize(("needed", "reason", "message"), WAITS)
def test_a_job_waits_for_the_one_that_it_needs(needed: tuple[Object, ...], reason: str, message: str) -> None:
    status = told(*needed)
    assert status.state is State.PENDING
    assert status.failure is None
    for kind, verdict in ((ConditionType.PREPARED, "False"), (ConditionType.RECONCILING, "True")):
        assert said(status, kind) == (verdict, reason, message)
    assert not is_true(status.conditions, ConditionType.STALLED)


def test_a_failed_job_stalls_those_that_need_it_until_it_is_mended() -> None:
    status = told(other(ended="Failed"))
    verdict = said(status, ConditionType.STALLED)
    assert verdict[:2] == ("True", "JobFailed")
    assert verdict[2] == (
        "the FineTuneJob 'sft' has failed (row 3 is empty). Delete it and create it again, mended, under the same "
        "name: this job then goes on by itself"
    )
    assert said(status, ConditionType.FAILED)[0] == "False"
    assert said(status, ConditionType.RECONCILING)[0] == "False"
    mended = told(other(ended="Complete"), status=status)
    assert mended.upstream
    assert not is_true(mended.conditions, ConditionType.STALLED)


def chain(*names: str) -> list[Object]:
    """Jobs of which each needs the next."""
    sources = [f"job://{name}" for name in names[1:]]
    return [other(name, source=source) for name, source in zip(names, [*sources, "job://sft"], strict=True)]


CYCLES = [
    pytest.param(("sft", NAME), f"{NAME} needs sft needs {NAME}", id="of two"),
    pytest.param(("sft", "older", NAME), f"{NAME} needs sft needs older needs {NAME}", id="of three"),
]


@pytest.mark.parametrize(("names", "circle"), CYCLES)
def test_jobs_that_need_one_another_are_refused(names: tuple[str, ...], circle: str) -> None:
    status = told(*chain(*names))
    assert status.state is State.FAILED
    assert status.failure
    assert status.failure.message == f"spec.model.source: the jobs need one another: {circle}"


def test_a_job_that_needs_itself_is_refused() -> None:
    status = told(model={"source": f"job://{NAME}"})
    assert status.failure
    assert status.failure.message == f"spec.model.source: the jobs need one another: {NAME} needs {NAME}"


def test_a_circle_through_an_initial_adapter_is_refused_by_its_field() -> None:
    lora = {"initialAdapter": {"source": "job://first"}}
    tuned = other("first", source="job://second")
    back = other("second", source=f"job://{NAME}")
    status = told(tuned, back, model={"source": "s3://models/x"}, method={"lora": lora})
    assert status.failure
    assert status.failure.message == (
        f"spec.method.lora.initialAdapter.source: the jobs need one another: {NAME} needs first needs second needs "
        f"{NAME}"
    )


def test_every_needed_job_is_waited_for_and_written_down_at_once() -> None:
    method = {"lora": {"initialAdapter": {"source": "job://adapted"}}}
    whole = other("merged", ended="Complete")
    whole["spec"] |= {"output": whole["spec"]["output"] | {"artifact": "Merged"}}
    whole["status"]["artifact"]["kind"] = "model"
    asked = {"model": {"source": "job://merged"}, "method": method}
    waiting = told(whole, **asked)
    assert (waiting.upstreams, said(waiting, ConditionType.PREPARED)[1]) == ({}, "JobNotFound")
    status = told(whole, other("adapted", ended="Complete"), **asked)
    assert {use: upstream.job for use, upstream in status.upstreams.items()} == {
        "model": "merged",
        "adapter": "adapted",
    }
    assert said(status, ConditionType.PREPARED)[2] == "using the result of the FineTuneJob 'merged' and 'adapted'"


def test_a_reference_is_waited_for_and_a_circle_through_it_refused() -> None:
    pairs = {"train": [{"source": "s3://data/x", "format": "preference"}]}
    method = {"objective": "dpo", "dpo": {"referenceModel": {"source": "job://teacher"}}}
    asked = {"model": {"source": "s3://models/tiny"}, "method": method, "dataset": pairs}
    assert said(told(**asked), ConditionType.PREPARED)[1] == "JobNotFound"
    ready = told(other("teacher", ended="Complete"), **asked)
    assert ready.reference_upstream
    assert (ready.reference_upstream.job, ready.upstream) == ("teacher", None)
    circle = told(other("teacher", source=f"job://{NAME}"), **asked)
    assert circle.failure
    assert circle.failure.message.startswith("spec.method.dpo.referenceModel.source: the jobs need one another")


def test_a_chain_without_end_is_refused() -> None:
    assert told(*chain("sft", *(f"job-{number}" for number in range(MAX_CHAIN - 1)))).state is State.FAILED
    assert told(*chain("sft", *(f"job-{number}" for number in range(MAX_CHAIN - 2)))).state is State.PENDING


def test_an_adapter_of_another_shape_is_refused_before_any_pod() -> None:
    status = told(other(ended="Complete"), method={"lora": {"rank": 4}})
    assert status.state is State.FAILED
    assert status.failure
    assert status.failure.message.startswith("spec.method.lora.rank is 4")


def test_what_cannot_be_read_of_the_other_job_stalls() -> None:
    bare = other(ended="Complete")
    del bare["status"]["artifact"]
    assert said(told(bare), ConditionType.STALLED)[2].startswith(
        "the FineTuneJob 'sft' is Complete without an artifact"
    )
    broken = other(ended="Complete")
    broken["spec"]["model"] = {"source": "gs://x"}
    assert said(told(broken), ConditionType.STALLED)[2].startswith(
        "the FineTuneJob 'sft' is of a schema no longer read"
    )


@pytest.mark.parametrize("manifest", [{}, {"spec": None}, {"spec": {"model": {"source": 3}}}])
def test_a_manifest_without_a_source_needs_nobody(manifest: Object) -> None:
    assert needed_names(manifest) == ()


class _Cluster:
    """Several jobs, of which one has begun, and the reconciler of them."""

    def __init__(self, *others: Object) -> None:
        self.kube = FakeKube()
        put_job(self.kube, stored(**NEEDS))
        for manifest in others:
            put_job(self.kube, manifest)
        self.reconciler = Reconciler(self.kube, POLICY, Reports(), lambda: NOW)
        self.look()
        self.kube.writes.clear()

    def look(self) -> timedelta | None:
        return finish(self.reconciler.reconcile(KEY))

    @property
    def status(self) -> FineTuneJobStatus:
        job = finish(self.kube.get("finetune.dev/v1alpha1", "finetunejobs", NAMESPACE, NAME))
        return FineTuneJobStatus.model_validate(job.get("status") or {})

    def plan(self, name: str) -> RunPlan:
        (config,) = (item for item in self.kube.of("configmaps") if item["metadata"]["name"] == name)
        return RunPlan.model_validate(yaml.safe_load(config["data"]["plan.json"]))


def test_the_result_is_written_down_before_anything_is_built_on_it() -> None:
    cluster = _Cluster(other(ended="Complete"))
    assert cluster.look() == timedelta(0)
    assert cluster.kube.writes == [f"status of {NAME} by finetune-operator"]
    cluster.look()
    plan = cluster.plan(f"{NAME}-prepare-1")
    assert plan.upstream == cluster.status.upstream
    assert plan.upstream
    assert plan.upstream.uri == artifact().uri
    assert plan.spec.model.source == "s3://models/tiny"


def test_the_job_goes_on_with_what_it_once_found_when_the_other_is_gone() -> None:
    cluster = _Cluster(other(ended="Complete"))
    cluster.look()
    found = cluster.status.upstream
    cluster.kube.remove(other(), "finetunejobs")
    cluster.look()
    cluster.kube.remove(batch_job(Stage.PREPARE))
    cluster.kube.put(batch_job(Stage.PREPARE, ended="Complete"))
    cluster.kube.put(pod(Stage.PREPARE, phase="Succeeded", exit_code=0, outcome=prepare_outcome()))
    cluster.look()
    plan = cluster.plan(f"{NAME}-train-1")
    assert (plan.upstream, plan.prepared) == (found, prepared())
    assert "ADAPTER_" not in str(cluster.kube.of("jobs"))


def test_credentials_of_the_other_job_reach_the_pods() -> None:
    finished_job = other(ended="Complete")
    finished_job["spec"]["output"]["s3"] = {"credentialsSecretRef": {"name": "theirs"}}
    cluster = _Cluster(finished_job)
    cluster.look()
    cluster.look()
    (job,) = cluster.kube.of("jobs")
    sources = job["spec"]["template"]["spec"]["containers"][0]["envFrom"]
    assert sources == [
        {"prefix": "MODEL_", "secretRef": {"name": "theirs"}},
        {"prefix": "ADAPTER_", "secretRef": {"name": "theirs"}},
    ]


def test_a_change_of_a_needed_job_concerns_those_that_wait() -> None:
    cluster = _Cluster(other(source="job://older"))
    cluster.look()
    for name in ("sft", "older"):
        assert cluster.reconciler.dependents.of(Key(NAMESPACE, name)) == (KEY,)
    assert cluster.reconciler.dependents.of(Key("elsewhere", "sft")) == ()
    put_job(cluster.kube, other(ended="Complete"))
    cluster.look()
    cluster.look()
    assert cluster.reconciler.dependents.of(Key(NAMESPACE, "sft")) == ()


def test_a_deleted_job_waits_for_nobody() -> None:
    cluster = _Cluster()
    cluster.look()
    cluster.kube.remove(stored(), "finetunejobs")
    cluster.look()
    assert cluster.reconciler.dependents.of(Key(NAMESPACE, "sft")) == ()


def test_a_circle_of_jobs_is_walked_once() -> None:
    cluster = _Cluster(other(source=f"job://{NAME}"))
    cluster.look()
    assert cluster.status.state is State.FAILED


def test_dependents_are_those_last_named() -> None:
    known: Dependents[str] = Dependents()
    known.set("dpo", ("sft", "older"))
    known.set("kto", ("sft",))
    assert known.of("sft") == ("dpo", "kto")
    known.set("dpo", ("older",))
    assert known.of("sft") == ("kto",)
    known.set("kto", ())
    assert known.of("sft") == ()
