"""What the operator asks the API server about queues and quotas, and when."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.outcomes import Stage
from finetune_operator.errors import KubeError, NotFound
from finetune_operator.progress import Reports
from finetune_operator.reconcile import Key, Reconciler
from support.builders import NAME, NAMESPACE, NOW, POLICY, batch_job, pod, prepare_outcome, resource_quota, stored
from support.decisions import started
from support.fake_kube import FakeKube, finish, put_job

NO_QUOTA = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": "2 more needed"}
QUEUE = {"queueName": "team"}


class Asked(FakeKube):
    """Remembers what was listed, and refuses some kinds."""

    def __init__(self, **refused: KubeError) -> None:
        super().__init__()
        self.refused, self.asked = refused, list[str]()

    async def list(self, api_version: str, plural: str, namespace: str | None, selector: str = "") -> list[Any]:
        version = api_version.rpartition("/")[2]
        self.asked.append(f"{version} {plural}")
        if plural == "workloads" and version in self.refused:
            raise self.refused[version]
        return await super().list(api_version, plural, namespace, selector)


def look(kube: FakeKube) -> str:
    """What the job says of its training after one look."""
    finish(Reconciler(kube, POLICY, Reports(), lambda: NOW).reconcile(Key(NAMESPACE, NAME)))
    found = {item["type"]: item for item in kube.job()["status"]["conditions"]}
    return f"{kube.job()['status']['state']}: {found['Running']['message']}"


def waiting(kube: FakeKube, version: str) -> FakeKube:
    """A job whose Job waits in Kueue, which serves one version."""
    put_job(kube, stored(status=started(**QUEUE).to_wire(), **QUEUE))
    job = kube.put(batch_job(queue="team", suspended=True))
    metadata = {"name": "w", "namespace": NAMESPACE, "labels": {"kueue.x-k8s.io/job-uid": job["metadata"]["uid"]}}
    workload = {"apiVersion": f"kueue.x-k8s.io/{version}", "kind": "Workload", "metadata": metadata}
    kube.put(workload | {"status": {"conditions": [NO_QUOTA]}})
    return kube


MISSING = NotFound(404, "NotFound", "the server could not find the requested resource")
FORBIDDEN = KubeError(403, "Forbidden", "workloads is forbidden")


@pytest.mark.parametrize(
    ("served", "refused", "words"),
    [
        ("v1beta2", {}, "2 more needed"),
        ("v1beta1", {"v1beta2": MISSING}, "2 more needed"),
        ("none", {"v1beta2": MISSING, "v1beta1": MISSING}, "Kueue has not taken it up yet"),
        ("none", {"v1beta2": FORBIDDEN, "v1beta1": FORBIDDEN}, "Kueue has not taken it up yet"),
    ],
)
def test_kueue_is_asked_in_the_version_that_it_serves(served: str, refused: dict[str, KubeError], words: str) -> None:
    assert words in look(waiting(Asked(**refused), served))


def test_a_kueue_that_does_not_answer_is_asked_again() -> None:
    kube = waiting(Asked(v1beta2=KubeError(503, "", "unavailable")), "v1beta2")
    with pytest.raises(KubeError, match="unavailable"):
        look(kube)


def test_nobody_is_asked_about_a_job_that_runs() -> None:
    kube = Asked()
    put_job(kube, stored(status=started().to_wire()))
    kube.put(batch_job())
    kube.put(pod())
    assert look(kube).startswith("Training")
    assert kube.asked == ["v1 jobs", "v1 pods"]


def test_no_half_gang_is_made_where_a_quota_is_in_the_way() -> None:
    kube = FakeKube()
    put_job(kube, stored(resources={"nodes": 2}))
    kube.put(batch_job(Stage.PREPARE, ended="Complete"))
    kube.put(pod(Stage.PREPARE, phase="Succeeded", exit_code=0, outcome=prepare_outcome()))
    kube.put({"apiVersion": "v1", "kind": "ResourceQuota"} | resource_quota({"pods": "2"}, {"pods": "1"}))
    assert look(kube).startswith("Queued: ResourceQuota gpus has no room")
    assert [write for write in kube.writes if "train" in write] == []
