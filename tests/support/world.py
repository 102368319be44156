"""What goes on around the operator: Job controller, kubelets and a user, in a few lines and without a clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from finetune_api.outcomes import FailureClass, Stage, StageOutcome
from finetune_api.results import Checkpoint
from finetune_api.status import FineTuneJobStatus
from finetune_operator.naming import STAGE_LABEL
from finetune_operator.network import JobNetwork, ProgressPeer
from finetune_operator.progress import Reports
from finetune_operator.reconcile import Key, Reconciler
from support.builders import (
    NAME,
    NAMESPACE,
    PLATFORM,
    POLICY,
    at,
    failed,
    prepare_outcome,
    published_outcome,
    stamp,
    stored,
)
from support.fake_kube import Crash, FakeKube, finish, put_job

Object = dict[str, Any]

_PREPARE_PODS = 4
_SERVER = ProgressPeer("finetune-system", 8443, PLATFORM.progress_url)
_POLICY = replace(POLICY, platform=replace(PLATFORM, network=(JobNetwork(), _SERVER)))


class World:
    """One FineTuneJob on a cluster. Every method is one thing that happens; none of them waits."""

    def __init__(self, nodes: int = 2, backoff_limit: int = 2, **spec: Any) -> None:
        self.kube = FakeKube()
        self.seconds = 0
        self.limit = backoff_limit
        self.published = False
        put_job(self.kube, stored(resources={"nodes": nodes}, backoffLimit=backoff_limit, **spec))
        self.start_operator()

    # The operator.

    def start_operator(self) -> None:
        """A new process: nothing is left of the one before."""
        self.reconciler = Reconciler(self.kube, _POLICY, Reports(), self.now)

    def reconcile(self, writes_before_the_crash: int | None = None, after: bool = False) -> bool:
        """One look at the job. False if the operator died in it: before its next write, or right ``after`` the last."""
        if after:
            self.kube.crash_after = writes_before_the_crash
        else:
            self.kube.crash_before = writes_before_the_crash
        self.kube.time = stamp(self.now())
        try:
            finish(self.reconciler.reconcile(Key(NAMESPACE, NAME)))
        except Crash:
            self.start_operator()
            return False
        finally:
            self.kube.crash_before = self.kube.crash_after = None
        return True

    def now(self) -> datetime:
        return at(self.seconds)

    @property
    def status(self) -> FineTuneJobStatus:
        return FineTuneJobStatus.model_validate(self.kube.job().get("status") or {})

    # The user.

    def change(self, **fields: Any) -> None:
        """An edit of the spec."""
        job = self.kube.job()
        job["spec"] |= fields
        job["metadata"]["generation"] += 1
        self.kube.touch(job)

    def delete_job(self, name: str) -> None:
        finish(self.kube.delete_job(NAMESPACE, name))

    # The Job controller.

    def jobs(self, stage: Stage) -> list[Object]:
        return [job for job in self.kube.of("jobs") if job["metadata"]["labels"][STAGE_LABEL] == stage.value]

    def pods(self, job: Object | None = None) -> list[Object]:
        """Pods of one Job, or all."""
        return [pod for pod in self.kube.of("pods") if job is None or _owner(pod) == job["metadata"]["uid"]]

    def control_jobs(self) -> None:
        """Makes missing pods and writes the end of Jobs whose pods have ended."""
        for job in self.kube.of("jobs"):
            if not job.setdefault("status", {}).get("conditions"):
                self._control(job)

    def _control(self, job: Object) -> None:
        wanted = job["spec"].get("parallelism", 1)
        pods = self.pods(job)
        made = job["status"].setdefault("made", 0)
        lost = sum(1 for pod in pods if pod["status"]["phase"] == "Failed") + made - len(pods)
        succeeded = sum(1 for pod in pods if pod["status"]["phase"] == "Succeeded")
        retries = job["spec"]["backoffLimit"] and not any(map(_fails_the_job, pods))
        if succeeded == wanted:
            self._end(job, "Complete")
        elif lost and not (retries and made < _PREPARE_PODS):
            for pod in pods:
                pod["metadata"].setdefault("deletionTimestamp", stamp(self.now()))
            if all(_ended(pod) for pod in pods):
                self._end(job, "Failed")
        else:
            for index in range(wanted + lost - made):
                self._make_pod(job, index)

    def _make_pod(self, job: Object, index: int) -> None:
        job["status"]["made"] += 1
        metadata = {
            "name": f"{job['metadata']['name']}-{index}-{job['metadata']['uid']}-{job['status']['made']}",
            "namespace": NAMESPACE,
            "labels": job["spec"]["template"]["metadata"]["labels"],
            "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
            "ownerReferences": [{"uid": job["metadata"]["uid"]}],
            "creationTimestamp": stamp(self.now()),
        }
        self.kube.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": {"phase": "Pending"}})

    def _end(self, job: Object, kind: str) -> None:
        condition = {"type": kind, "status": "True", "lastTransitionTime": stamp(self.now())}
        job["status"]["conditions"] = [condition]

    # The kubelets.

    def start_pods(self) -> None:
        for pod in self.pods():
            if pod["status"]["phase"] == "Pending" and "deletionTimestamp" not in pod["metadata"]:
                pod["status"]["phase"] = "Running"

    def end_deleted_pods(self) -> None:
        """Pods that were told to end do so; those of deleted Jobs are gone."""
        owners = {job["metadata"]["uid"] for job in self.kube.of("jobs")}
        for pod in self.pods():
            if "deletionTimestamp" not in pod["metadata"]:
                continue
            if not _ended(pod):
                self.end(pod, 17, _stopped(_stage(pod)))
            if _owner(pod) not in owners:
                self.kube.remove(pod)

    def succeed(self, job: Object) -> None:
        """Every running pod of a Job ends well, if all of them run."""
        pods = [pod for pod in self.pods(job) if not _ended(pod)]
        alive = [
            pod for pod in pods if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
        ]
        if len(alive) < job["spec"].get("parallelism", 1):
            return
        for pod in alive:
            if _stage(pod) is Stage.PREPARE:
                self.end(pod, 0, prepare_outcome(adopted=self.published))
            else:
                # The artifact is in storage before any pod says so.
                self.published = True
                self.end(pod, 0, published_outcome())

    def fail(self, pod: Object, exit_code: int, kind: FailureClass | None = None) -> None:
        if not _ended(pod):
            self.end(pod, exit_code, failed(_stage(pod), kind) if kind else None)

    def lose(self, pod: Object) -> None:
        """The pod and everything known of it are gone."""
        self.kube.remove(pod)

    def end(self, pod: Object, code: int, outcome: StageOutcome | None) -> None:
        """A pod ends, with what it says of that."""
        terminated: Object = {"exitCode": code, "finishedAt": stamp(self.now())}
        if outcome:
            terminated["message"] = outcome.to_termination_message()
        pod["status"] |= {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [{"state": {"terminated": terminated}}],
        }

    # All of it, without mishaps.

    def run_to_the_end(self, rounds: int = 60) -> None:
        """Everybody does their work until nothing changes any more."""
        for _ in range(rounds):
            before = len(self.kube.writes)
            self.seconds += 400
            self.reconcile()
            self.control_jobs()
            self.start_pods()
            self.reconcile()
            for job in self.kube.of("jobs"):
                self.succeed(job)
            self.end_deleted_pods()
            self.control_jobs()
            self.reconcile()
            if len(self.kube.writes) == before:
                return
        raise AssertionError(f"still busy after {rounds} rounds: {self.kube.writes[-10:]}")


def _owner(pod: Object) -> str:
    return str(pod["metadata"]["ownerReferences"][0]["uid"])


def _stage(pod: Object) -> Stage:
    return Stage(pod["metadata"]["labels"][STAGE_LABEL])


def _stopped(stage: Stage) -> StageOutcome:
    """The last word of a pod that was asked to stop; one that trained has saved that."""
    outcome = failed(stage, FailureClass.PREEMPTED, "SIGTERM")
    if stage is Stage.PREPARE:
        return outcome
    saved = Checkpoint(step=5, time=at(0), uri="s3://results/step-5", world_size=2)
    return outcome.model_copy(update={"checkpoint": saved, "resumed_from_step": 0})


def _ended(pod: Object) -> bool:
    return pod["status"]["phase"] in ("Succeeded", "Failed")


def _fails_the_job(pod: Object) -> bool:
    """The podFailurePolicy of the prepare Job."""
    for container in pod["status"].get("containerStatuses", ()):
        if container["state"]["terminated"]["exitCode"] in (10, 11, 14, 20):
            return True
    return False


def living(pods: list[Object]) -> list[Object]:
    """Pods that may still compute."""
    return [pod for pod in pods if not _ended(pod)]
