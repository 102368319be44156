"""A cluster that was lost and set up anew: what the manifests ask for is in the bucket already."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_sandbox import Sandbox
from finetune_sandbox.installation import OperatorProcess, install
from support.clusters import PROJECT
from support.operated import Object, Platform, condition, eventually, finished, is_true

JOBS = 20
# Far more than it takes; a job that trains needs longer.
_HANGS_AFTER_SECONDS = 400


@pytest.fixture
def rebuilt(platform: Platform, tmp_path: Path) -> Iterator[Platform]:
    """An empty cluster with an operator of its own, and the bucket of the old one."""
    with Sandbox.up(tmp_path / "state", nodes=2, preload="finetune_trainer.preload", attached=True) as sandbox:
        install(sandbox.kubeconfig, PROJECT)
        operator = OperatorProcess.start(sandbox.kubeconfig, tmp_path / "operator")
        try:
            yield Platform(sandbox.kubeconfig, platform.store, platform.bucket, platform.folder, operator)
        finally:
            operator.stop()


def published(platform: Platform, namespace: str, count: int) -> list[Object]:
    """Manifests of jobs that all have their artifact in the store. One was trained; the others' have its files."""
    manifests = [platform.manifest(namespace, f"job-{number}") for number in range(count)]
    platform.apply(manifests[0])
    done = platform.wait_finished(namespace, "job-0")
    assert is_true(done, "Complete"), platform.story(namespace, done)
    prefix = f"{platform.folder}/artifacts/{namespace}/"
    for key in platform.keys(f"s3://{platform.bucket}/{prefix}job-0/{done['status']['runID']}"):
        for manifest in manifests[1:]:
            copy = f"{prefix}{manifest['metadata']['name']}/{key.removeprefix(f'{prefix}job-0/')}"
            platform.s3.copy_object(Bucket=platform.bucket, Key=copy, CopySource=f"{platform.bucket}/{key}")
    return manifests


def test_finished_jobs_are_complete_without_a_training_pod(platform: Platform, rebuilt: Platform) -> None:
    namespace = platform.new_namespace()
    manifests = published(platform, namespace, JOBS)
    rebuilt.new_namespace(namespace)
    rebuilt.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))
    names = [manifest["metadata"]["name"] for manifest in manifests]

    def jobs() -> list[Object]:
        return [rebuilt.job(namespace, name) for name in names]

    def unfinished() -> str:
        stories = [rebuilt.story(namespace, job) for job in jobs() if not finished(job)]
        return "\n".join([*stories, *rebuilt.operator_log()])

    eventually(lambda: all(map(finished, jobs())), _HANGS_AFTER_SECONDS, unfinished)
    assert {condition(job, "Complete").get("reason") for job in jobs()} == {"Adopted"}
    assert {job["status"]["artifact"]["uri"].split("/")[-2] for job in jobs()} == set(names)
    made = json.loads(rebuilt.kubectl("get", "jobs,pods", "-n", namespace, "-o", "json"))["items"]
    assert {child["metadata"]["labels"]["finetune.dev/stage"] for child in made} == {"prepare"}
    told = [event["reason"] for name in names for event in rebuilt.events_until(namespace, name, "Adopted")]
    assert set(told) == {"Adopted", "Prepared"}
    platform.kubectl("delete", "namespace", namespace, "--wait=false")
