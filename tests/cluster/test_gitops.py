"""A job under a GitOps controller: synced again and again while the operator works, pruned, tried out, edited."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.clusters import KUBECTL, Cluster
from support.operated import Object, Platform, eventually, is_true

EXAMPLE = Path(__file__).parents[2] / "examples" / "gitops" / "team"
LABEL = "app.kubernetes.io/part-of=team-models"
FLUX, ARGO = "kustomize-controller", "argocd-controller"


@pytest.fixture
def repository(platform: Platform, namespace: str, tmp_path: Path) -> Path:
    """The example's folder, with a job that this cluster can run and that runs until it is deleted."""
    folder = tmp_path / "team"
    shutil.copytree(EXAMPLE, folder)
    job = platform.manifest(namespace, "team-assistant", hyperparameters={"maxSteps": 100_000})
    (folder / "team-assistant.yaml").write_text(json.dumps(job))
    return folder


def diff(cluster: Cluster, repository: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return cluster.run("diff", "-k", str(repository), *flags)


def spec_and_managers(job: Object) -> tuple[Any, int, set[str]]:
    """What a controller compares, and who owns fields outside the status."""
    managed = job["metadata"]["managedFields"]
    owners = {entry["manager"] for entry in managed if "subresource" not in entry}
    return job["spec"], job["metadata"]["generation"], owners


@pytest.mark.parametrize(("manager", "server_side"), [(FLUX, True), (ARGO, True), (ARGO, False)])
def test_ten_syncs_of_a_running_job_change_nothing(
    platform: Platform, cluster: Cluster, namespace: str, repository: Path, manager: str, server_side: bool
) -> None:
    flags = [f"--field-manager={manager}", *(("--server-side", "--force-conflicts") if server_side else ())]
    cluster.kubectl("apply", "-k", str(repository), *flags)
    platform.wait(namespace, "team-assistant", lambda job: is_true(job, "Running"))
    before = spec_and_managers(show(cluster, namespace))
    for _ in range(10):
        # It reads the job twice, and shows a status that was written in between. What has drifted stays so.
        eventually(lambda: diff(cluster, repository, *flags).returncode == 0, 30)
        cluster.kubectl("apply", "-k", str(repository), *flags)
    job = show(cluster, namespace)
    assert spec_and_managers(job) == before
    # Nothing of the operator's outside the status: a controller that heals differences finds none.
    assert before[2] == {manager}
    assert job["metadata"].get("finalizers", []) == []


def show(cluster: Cluster, namespace: str) -> Object:
    text = cluster.kubectl("get", "ftj", "team-assistant", "-n", namespace, "-o", "json", "--show-managed-fields")
    return dict(json.loads(text))


@pytest.mark.usefixtures("garbage_collector")
def test_a_manifest_that_left_git_takes_its_pods_along(
    platform: Platform, cluster: Cluster, namespace: str, repository: Path
) -> None:
    prune = ("--prune", "-l", LABEL, "--prune-allowlist=finetune.dev/v1alpha1/FineTuneJob", "-n", namespace)
    cluster.kubectl("apply", "-k", str(repository))
    platform.wait(namespace, "team-assistant", lambda job: is_true(job, "Running"))
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other", "namespace": namespace}}
    (repository / "team-assistant.yaml").write_text(json.dumps(other))
    pruned = cluster.kubectl("apply", "-k", str(repository), *prune)
    assert "finetunejob.finetune.dev/team-assistant pruned" in pruned
    eventually(
        lambda: not platform.children("pods,jobs,configmaps,services,networkpolicies", namespace, "team-assistant"), 30
    )
    assert "team-assistant" not in cluster.kubectl("get", "ftj", "-n", namespace, "-o", "name")


def test_a_dry_run_shows_what_is_written_and_leaves_nothing(cluster: Cluster, namespace: str, repository: Path) -> None:
    shown = json.loads(
        cluster.kubectl("apply", "-k", str(repository), "--server-side", "--dry-run=server", "-o", "json")
    )
    assert shown["spec"] == json.loads((repository / "team-assistant.yaml").read_text())["spec"]
    assert cluster.kubectl("get", "ftj", "-n", namespace, "-o", "name") == ""


def test_argo_cds_configmap_is_patched_as_documented(cluster: Cluster) -> None:
    file = EXAMPLE.parent / "argocd" / "argocd-cm.yaml"
    script = yaml.safe_load(file.read_text())["data"]
    cluster.kubectl("create", "namespace", "argocd")
    cluster.kubectl("create", "configmap", "argocd-cm", "-n", "argocd", "--from-literal=url=https://argocd.example.com")
    cluster.kubectl("patch", "configmap", "argocd-cm", "-n", "argocd", "--patch-file", str(file))
    held = json.loads(cluster.kubectl("get", "configmap", "argocd-cm", "-n", "argocd", "-o", "json"))["data"]
    assert held == script | {"url": "https://argocd.example.com"}
    cluster.kubectl("delete", "namespace", "argocd", "--wait=false")


def test_edits_by_hand(platform: Platform, cluster: Cluster, namespace: str, repository: Path) -> None:
    """kubectl patch, wait, replace and diff on a synced job behave as on any other resource."""
    job = platform.manifest(namespace, "team-assistant", suspend=True)
    (repository / "team-assistant.yaml").write_text(json.dumps(job))
    cluster.kubectl("apply", "-k", str(repository))
    target = ("ftj/team-assistant", "-n", namespace)
    cluster.kubectl("wait", "--for=condition=Suspended", *target, "--timeout=30s")
    refused = cluster.run("patch", *target, "--type=merge", "-p", '{"spec":{"hyperparameters":{"seed":7}}}')
    assert "spec.hyperparameters is immutable, since it defines the run; create a FineTuneJob of another name" in (
        refused.stderr
    )
    cluster.kubectl("patch", *target, "--type=merge", "-p", '{"spec":{"backoffLimit":5}}')
    drift = diff(cluster, repository)
    assert drift.returncode == 0, "a field that the manifest leaves out may be set by others"
    whole = show(cluster, namespace)
    whole["metadata"].pop("managedFields")
    whole["spec"]["backoffLimit"] = 4
    replaced = subprocess.run(
        [KUBECTL, "--kubeconfig", cluster.kubeconfig, "replace", "-f", "-"], input=json.dumps(whole), text=True
    )
    assert replaced.returncode == 0
    assert show(cluster, namespace)["spec"]["backoffLimit"] == 4
