"""Install, upgrade, uninstall and install again, with the real helm, while jobs run."""

from __future__ import annotations

import json

from support.helm import NAMESPACE, RELEASE, Release
from support.operated import Object, Platform, is_true


def _operator_pod(platform: Platform) -> Object:
    selector = f"app.kubernetes.io/instance={RELEASE}"
    pods = json.loads(platform.kubectl("get", "pods", "-n", NAMESPACE, "-l", selector, "-o", "json"))["items"]
    running = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    assert len(running) == 1
    return dict(running[0])


def test_a_release_runs_a_job(bare: Platform) -> None:
    release = Release(bare.kubeconfig)
    release.install()
    namespace = bare.new_namespace()
    bare.submit(namespace, "first")
    job = bare.wait_finished(namespace, "first")
    assert is_true(job, "Complete"), bare.story(namespace, job)
    # Reports came through the Service's name.
    assert job["status"]["progress"]["step"] == 3
