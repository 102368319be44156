"""Whole lives of jobs whose operator, or whose pods, reach API server and store by ways that break at random."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from finetune_sandbox import Sandbox
from finetune_sandbox.installation import OPERATOR_NAMESPACE, SERVICE_ACCOUNT, OperatorProcess
from finetune_sandbox.service_account import service_account_kubeconfig
from support.api_faults import API_FAULTS, faulty_api
from support.clusters import Cluster
from support.fault_proxy import Faults
from support.operated import SECRET, Object, Platform, eventually, finished, is_true
from support.s3_faults import faulty
from support.seeds import command, seeds

pytestmark = pytest.mark.timeout(1200)
_STEPS = 12
JOBS: dict[str, Object] = {
    "trained": {"hyperparameters": {"maxSteps": _STEPS}, "resources": {"nodes": 2}, "checkpoint": {"everySteps": 5}},
    "missing": {"dataset": {"train": [{"source": "s3://no-such-bucket/train.jsonl"}]}},
    "asleep": {"suspend": True},
}
# What the undisturbed lives make: each of them once.
CHILDREN = {"trained": {"trained-prepare-1", "trained-train-1"}, "missing": {"missing-prepare-1"}, "asleep": set()}
# Longer than an unlucky operator needs; the resync finds what silent watches do not tell.
_BOUND_SECONDS = 600
_OPTIONS = ("--resync-seconds", "5")
_AWAY_SECONDS = 15


@contextmanager
def operator_through(platform: Platform, folder: Path, faults: Faults) -> Iterator[OperatorProcess]:
    """The one operator of the cluster, behind a proxy; the session's own comes back afterwards."""
    config = service_account_kubeconfig(
        platform.kubeconfig, OPERATOR_NAMESPACE, SERVICE_ACCOUNT, folder / "direct.kubeconfig"
    )
    usual = platform.operator
    assert usual
    usual.stop()
    with faulty_api(config, faults, folder) as (through, watches):
        operator = OperatorProcess(through, folder / "operator.log", usual.progress_port, _OPTIONS)
        try:
            operator.launch()
            yield operator
            assert watches, "no watch has ended"
        finally:
            operator.stop()
            usual.launch()


@pytest.mark.parametrize("seed", seeds())
def test_an_operator_whose_way_to_the_api_server_breaks(
    platform: Platform, namespace: str, tmp_path: Path, seed: int
) -> None:
    faults, repeat = Faults(seed, kinds=API_FAULTS), command("tests/cluster/test_broken_ways.py -k api", seed)
    with operator_through(platform, tmp_path, faults) as operator:
        for name, spec in JOBS.items():
            platform.submit(namespace, name, **spec)

        def settled() -> bool:
            known = {name: platform.job(namespace, name) for name in JOBS}
            return all(finished(known[name]) for name in ("trained", "missing")) and is_true(
                known["asleep"], "Suspended"
            )

        def told() -> str:
            stories = [platform.story(namespace, platform.job(namespace, name)) for name in JOBS]
            return "\n".join([repeat, *stories, operator.log.read_text()[-6000:]])

        eventually(settled, _BOUND_SECONDS, told)
        jobs = {name: platform.job(namespace, name) for name in JOBS}
        assert {name: job["status"]["state"] for name, job in jobs.items()} == {
            "trained": "Complete",
            "missing": "Failed",
            "asleep": "Suspended",
        }, told()
        trained = jobs["trained"]["status"]
        assert [attempt["outcome"] for attempt in trained["attempts"]] == ["Succeeded"], told()
        # The last report of a pod came through.
        assert trained["progress"]["step"] == _STEPS, told()
        for name, expected in CHILDREN.items():
            assert {child["metadata"]["name"] for child in platform.children("jobs", namespace, name)} == expected
        made = [path for method, path, status in faults.answered if method == "POST" and status == 201]
        jobs_made = sum(path.partition("?")[0].endswith(f"/{namespace}/jobs") for path in made)
        assert jobs_made == sum(map(len, CHILDREN.values())), told()
        assert len({fault for fault, _ in faults.met}) > 5, Counter(fault for fault, _ in faults.met)


@pytest.mark.parametrize("seed", seeds())
def test_a_job_whose_way_to_the_store_breaks(platform: Platform, namespace: str, seed: int) -> None:
    """From the first look at the bucket to the verified artifact, the same one as that of an undisturbed job."""
    faults, repeat = Faults(seed), command("tests/cluster/test_broken_ways.py -k store", seed)
    other = platform.new_namespace()
    with faulty(platform.store["AWS_ENDPOINT_URL"], faults) as endpoint:
        secret = '{"stringData": {"AWS_ENDPOINT_URL": "' + endpoint + '"}}'
        platform.kubectl("patch", "secret", SECRET, "-n", namespace, "--type", "merge", "-p", secret)
        for place in (namespace, other):
            platform.submit(place, "trained", **JOBS["trained"])
        job, calm = platform.wait_finished(namespace, "trained"), platform.wait_finished(other, "trained")
    told = f"{repeat}\n{platform.story(namespace, job)}\n{Counter(fault.name for fault, _ in faults.met)}"
    assert is_true(job, "Complete"), told
    assert [attempt["outcome"] for attempt in job["status"]["attempts"]] == ["Succeeded"], told
    assert job["status"]["artifact"]["contentDigest"] == calm["status"]["artifact"]["contentDigest"], told
    assert len({fault for fault, _ in faults.met}) > 5, told
    assert not platform.s3.list_multipart_uploads(Bucket=platform.bucket).get("Uploads"), told
    platform.kubectl("delete", "namespace", other, "--wait=false")


def step_of(job: Object) -> int:
    """The newest step that a job tells of."""
    return int(((job.get("status") or {}).get("progress") or {}).get("step", 0))


@contextmanager
def api_server_away(sandbox: Sandbox) -> Iterator[None]:
    """The API server answers nobody; its connections stay open, as those of a machine that has stopped."""
    (server,) = (part.process for part in sandbox.state.parts if part.name == "kube-apiserver")
    server.send(signal.SIGSTOP)
    try:
        yield
    finally:
        server.send(signal.SIGCONT)


def test_a_job_that_goes_on_while_the_api_server_is_away(platform: Platform, namespace: str, cluster: Cluster) -> None:
    """Its pods train on, and what became of them is found afterwards, by no hand; ten minutes: docs/reliability.md."""
    if cluster.sandbox is None:
        pytest.skip("the API server of the cluster that KUBECONFIG names is not stopped")
    platform.submit(namespace, "alone", **JOBS["trained"] | {"hyperparameters": {"maxSteps": 150}})
    platform.wait(namespace, "alone", lambda job: step_of(job) > 5)
    (before,) = platform.children("jobs", namespace, "alone", "train")
    with api_server_away(cluster.sandbox):
        time.sleep(_AWAY_SECONDS)
    job = platform.wait_finished(namespace, "alone")
    assert is_true(job, "Complete"), platform.story(namespace, job)
    assert [attempt["outcome"] for attempt in job["status"]["attempts"]] == ["Succeeded"]
    (after,) = platform.children("jobs", namespace, "alone", "train")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
