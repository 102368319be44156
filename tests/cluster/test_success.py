"""The main way: kubectl apply to a verified artifact."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.operated import Object, Platform, condition, is_true

TWO_PODS = {"resources": {"nodes": 2}, "evaluation": {"everySteps": 2, "samples": 1}}


@pytest.fixture(scope="module")
def done(platform: Platform) -> Iterator[Object]:
    """A two-pod job that ran to its end; several tests look at what it left."""
    namespace = platform.new_namespace()
    platform.submit(namespace, "good", **TWO_PODS)
    job = platform.wait_finished(namespace, "good")
    assert is_true(job, "Complete"), platform.story(namespace, job)
    yield job
    platform.kubectl("delete", "namespace", namespace, "--wait=false")


def test_it_completes_with_every_condition_said(done: Object) -> None:
    said = {item["type"]: (item["status"], item["reason"]) for item in done["status"]["conditions"]}
    assert said == {
        "Validated": ("True", "SpecValid"),
        "Prepared": ("True", "Prepared"),
        "Running": ("False", "Finished"),
        "Suspended": ("False", "NotSuspended"),
        "ArtifactVerified": ("True", "Published"),
        "Complete": ("True", "Published"),
        "Failed": ("False", "NotFailed"),
        "Reconciling": ("False", "Settled"),
        "Stalled": ("False", "NotFailed"),
    }
    assert {item["observedGeneration"] for item in done["status"]["conditions"]} == {done["metadata"]["generation"]}
    assert done["status"]["observedGeneration"] == done["metadata"]["generation"]


def test_status_tells_what_was_decided_and_found(done: Object) -> None:
    status = done["status"]
    assert status["state"] == "Complete"
    assert status["plan"]["worldSize"] == 2
    assert status["plan"]["gradientAccumulationSteps"] == 1
    assert status["plan"]["totalSteps"] == 3
    assert status["plan"]["train"]["rows"] + status["plan"]["validation"]["rows"] == 40
    assert [stage["name"] for stage in status["stages"]] == ["prepare", "train", "evaluate", "publish"]
    assert all(stage["finished"] >= stage["started"] for stage in status["stages"])
    assert [(attempt["number"], attempt["outcome"]) for attempt in status["attempts"]] == [(1, "Succeeded")]
    assert (status["progress"]["step"], status["progress"]["totalSteps"]) == (3, 3)
    assert float(status["progress"]["loss"]) > 0
    assert float(status["evaluation"]["lossAfter"]) < float(status["evaluation"]["lossBefore"])


def test_usage_tells_startup_from_training(done: Object) -> None:
    usage, (attempt,) = done["status"]["usage"], done["status"]["attempts"]
    assert attempt["running"] <= attempt["firstStep"] <= attempt["finished"]
    assert (usage["lostSeconds"], usage["wastedGpuSeconds"]) == (0, 0)
    assert 0 <= usage["startupSeconds"] <= usage["trainingSeconds"]


def test_the_artifact_is_complete_and_loads(platform: Platform, done: Object, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    artifact = done["status"]["artifact"]
    folder = platform.download(artifact["uri"], tmp_path / "artifact")
    names = {path.name for path in folder.iterdir()}
    assert {
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md", "metrics.jsonl",
        "report.html", "data-report.html", "samples.jsonl", "manifest.json",
    } <= names  # fmt: skip
    [sample] = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert sample["prompt"].endswith("<|im_start|>assistant\n")
    assert sample["before"]["text"]
    assert sample["after"]["text"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["runID"] == done["status"]["runID"]
    assert artifact["files"] == len(manifest["files"]) == len(names) - 1
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "example/tiny"
    base = AutoModelForCausalLM.from_pretrained(platform.download(platform.uri("models/tiny"), tmp_path / "base"))
    adapted = PeftModel.from_pretrained(base, folder)
    learned = [value for name, value in adapted.state_dict().items() if "lora_B" in name]
    assert learned
    assert all(torch.count_nonzero(value) > 0 for value in learned)


def test_the_newest_run_is_pointed_to(platform: Platform, done: Object) -> None:
    uri = f"{platform.uri('artifacts')}/{done['metadata']['namespace']}/good/latest.json"
    assert json.loads(platform.read(uri))["runID"] == done["status"]["runID"]


def test_events_tell_the_transitions_once(platform: Platform, done: Object) -> None:
    events = platform.events_until(done["metadata"]["namespace"], "good", "Published")
    assert [event["reason"] for event in events] == ["Prepared", "Training", "Published"]
    assert {event["reportingController"] for event in events} == {"finetune.dev/finetune-operator"}


def test_nothing_carries_a_finalizer_or_an_annotation_of_ours(platform: Platform, done: Object) -> None:
    namespace = done["metadata"]["namespace"]
    assert "finalizers" not in done["metadata"]
    assert set(done["metadata"]["annotations"]) == {"kubectl.kubernetes.io/last-applied-configuration"}
    for kind in ("jobs", "configmaps", "services", "networkpolicies"):
        children = platform.children(kind, namespace, "good")
        assert children
        assert all("finalizers" not in child["metadata"] for child in children)


def test_pods_have_no_way_into_the_cluster(platform: Platform, done: Object) -> None:
    pods = platform.children("pods", done["metadata"]["namespace"], "good")
    assert len(pods) == 3
    for pod in pods:
        assert pod["spec"]["automountServiceAccountToken"] is False
        tokens = [
            source["serviceAccountToken"]
            for volume in pod["spec"]["volumes"]
            for source in volume.get("projected", {}).get("sources", ())
        ]
        uid = done["metadata"]["uid"]
        assert [token["audience"] for token in tokens] == [f"finetune.dev/{done['metadata']['namespace']}/good/{uid}"]


def test_secrets_appear_nowhere(platform: Platform, done: Object) -> None:
    namespace, key = done["metadata"]["namespace"], platform.store["AWS_SECRET_ACCESS_KEY"]
    seen = [platform.kubectl("get", "ftj,jobs,pods,configmaps,events", "-n", namespace, "-o", "yaml")]
    seen += [
        platform.kubectl("logs", "-n", namespace, pod["metadata"]["name"])
        for pod in platform.children("pods", namespace, "good")
    ]
    seen.append(platform.operator.log.read_text())
    seen += [
        platform.read(f"s3://{platform.bucket}/{name}").decode(errors="replace") for name in _texts(platform, done)
    ]
    assert all(key not in text for text in seen)


def _texts(platform: Platform, done: Object) -> list[str]:
    keys = platform.keys(done["status"]["artifact"]["uri"])
    return [key for key in keys if not key.endswith(".safetensors")]


def test_a_full_fine_tune_on_one_pod_with_two_processes_publishes_a_model(platform: Platform, namespace: str) -> None:
    method = {"tuning": "full", "lora": None}
    platform.submit(
        namespace, "full", method=method, resources={"processesPerNode": 2, "cpu": "2"}, deepspeed={"zeroStage": 3}
    )
    job = platform.wait_finished(namespace, "full")
    assert is_true(job, "Complete"), platform.story(namespace, job)
    assert job["status"]["artifact"]["kind"] == "model"
    names = {key.rpartition("/")[2] for key in platform.keys(job["status"]["artifact"]["uri"])}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names


def test_gpus_of_the_sandbox_are_numbers(platform: Platform, namespace: str) -> None:
    platform.submit(namespace, "gpu", resources={"gpusPerNode": 2, "cpu": "2"})
    job = platform.wait_finished(namespace, "gpu")
    assert is_true(job, "Complete"), platform.story(namespace, job)
    (pod,) = platform.children("pods", namespace, "gpu", "train")
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert condition(job, "Complete")["reason"] == "Published"


def test_the_same_manifest_without_a_cluster_gives_the_same_artifact(
    platform: Platform, done: Object, tmp_path: Path
) -> None:
    bucket = tmp_path / "store" / platform.bucket
    platform.download(platform.uri("models"), bucket / platform.folder / "models")
    platform.download(platform.uri("data"), bucket / platform.folder / "data")
    file = tmp_path / "job.json"
    file.write_text(json.dumps(platform.manifest(done["metadata"]["namespace"], "good", **TWO_PODS)))
    status_file = tmp_path / "status.yaml"
    result = subprocess.run(
        [sys.executable, "-m", "finetune_cli", "run", "--local", str(file), "--store", f"file://{tmp_path / 'store'}",
         "--status-file", str(status_file)],
        env={"PATH": _path_without_a_cluster(), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    local = yaml.safe_load(status_file.read_text())["status"]
    assert local["runID"] == done["status"]["runID"]
    assert local["plan"] == done["status"]["plan"]
    assert local["evaluation"] == done["status"]["evaluation"]
    same = ("uri", "kind", "contentDigest", "files")
    assert [local["artifact"][key] for key in same] == [done["status"]["artifact"][key] for key in same]
    assert _content(json.loads((bucket / _key(local, "manifest.json")).read_text())) == _content(
        json.loads(platform.read(f"{done['status']['artifact']['uri']}/manifest.json"))
    )


def _path_without_a_cluster() -> str:
    """The environment's tools and the system's, without Go."""
    return f"{Path(sys.executable).parent}:/usr/bin:/bin"


def _key(status: Object, name: str) -> str:
    return f"{status['artifact']['uri'].removeprefix('s3://').partition('/')[2]}/{name}"


def _content(manifest: Object) -> dict[str, str]:
    return {file["name"]: file["sha256"] for file in manifest["files"] if file["role"] == "content"}
