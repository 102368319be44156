"""Manifests of children, compared as a whole with the files in manifests/.

To accept a change: FINETUNE_WRITE_SNAPSHOTS=1 pytest tests/unit/control_plane/test_objects.py, then read the diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.outcomes import Stage
from finetune_api.plan import PLAN_FILE, RunPlan
from finetune_operator.objects import Object, plan_config_map, prepare_objects, run_plan, training_objects
from support.builders import NAME, NAMESPACE, PLATFORM, UID, job, prepared

FOLDER = Path(__file__).parent / "manifests"

VARIANTS: dict[str, dict[str, Any]] = {
    "cpu": {},
    "cpu-two-nodes-with-secrets": {
        "model": {"source": "s3://models/tiny", "s3": {"credentialsSecretRef": {"name": "model-keys"}}},
        "dataset": {
            "train": [
                {"source": "s3://rows/a.jsonl"},
                {"source": "s3://rows/b.jsonl", "s3": {"credentialsSecretRef": {"name": "rows-keys"}}},
            ],
            "validation": {"sources": [{"source": "s3://rows/held-out.jsonl"}]},
        },
        "resources": {"nodes": 2, "processesPerNode": 2, "cpu": 4, "memory": "8Gi"},
        "output": {"s3": {"endpointURL": "http://store.example:8333", "credentialsSecretRef": {"name": "keys"}}},
    },
    "gpu-with-node-selector": {
        "hyperparameters": {"globalBatchSize": 64},
        "resources": {
            "nodes": 4,
            "gpusPerNode": 8,
            "cpu": "64",
            "memory": "512Gi",
            "gpuResourceName": "amd.com/gpu",
            "nodeSelector": {"node.example/pool": "training", "topology.kubernetes.io/zone": "z-1"},
        },
        "deepspeed": {"zeroStage": 3, "microBatchSize": 2},
    },
    "hub-with-token-and-cache": {
        "model": {
            "source": "hf://org/model",
            "revision": "v1",
            "huggingFace": {
                "tokenSecretRef": {"name": "hub", "key": "value"},
                "cacheClaim": "hub-cache",
                "offline": True,
                "endpointURL": "https://hub.example",
            },
        }
    },
    "claims": {
        "model": {"source": "pvc://zoo/models/tiny"},
        "dataset": {
            "train": [{"source": "pvc://rows/train.jsonl"}],
            "validation": {"sources": [{"source": "pvc://rows/held-out.jsonl"}]},
        },
    },
}


def _readable(manifest: Object) -> Object:
    """The manifest with the plan's JSON spelled out, so that a difference can be read."""
    if manifest["kind"] != "ConfigMap":
        return manifest
    return manifest | {"data": {name: json.loads(text) for name, text in manifest["data"].items()}}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_children_are_exactly_these(variant: str, stage: str) -> None:
    asked = job(**VARIANTS[variant])
    objects = (
        prepare_objects(asked, PLATFORM, 1) if stage == "prepare" else training_objects(asked, PLATFORM, 2, prepared())
    )
    built = [_readable(manifest) for manifest in objects]
    file = FOLDER / f"{variant}-{stage}.yaml"
    if os.environ.get("FINETUNE_WRITE_SNAPSHOTS"):
        FOLDER.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump_all(built, sort_keys=False, width=120))
    assert built == list(yaml.safe_load_all(file.read_text()))


def test_no_snapshot_is_left_over() -> None:
    expected = {f"{variant}-{stage}.yaml" for variant in VARIANTS for stage in ("prepare", "train")}
    assert {file.name for file in FOLDER.iterdir()} == expected


def _all_objects() -> list[tuple[str, Object]]:
    return [
        (f"{variant}: {manifest['kind']} {manifest['metadata']['name']}", manifest)
        for variant, changes in VARIANTS.items()
        for manifest in (
            *prepare_objects(job(**changes), PLATFORM, 1),
            *training_objects(job(**changes), PLATFORM, 1, prepared()),
        )
    ]


ALL = _all_objects()
PODS = [(title, manifest["spec"]["template"]["spec"]) for title, manifest in ALL if manifest["kind"] == "Job"]


@pytest.mark.parametrize(("title", "manifest"), ALL, ids=[title for title, _ in ALL])
def test_every_child_goes_with_its_owner(title: str, manifest: Object) -> None:
    (owner,) = manifest["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == ("FineTuneJob", NAME, UID, True)
    assert manifest["metadata"]["namespace"] == NAMESPACE
    assert manifest["metadata"]["labels"]["finetune.dev/job-uid"] == UID
    assert "finalizers" not in manifest["metadata"]


@pytest.mark.parametrize(("title", "pod"), PODS, ids=[title for title, _ in PODS])
def test_every_pod_is_restricted_and_has_no_access_to_the_api(title: str, pod: Object) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize(("title", "pod"), PODS, ids=[title for title, _ in PODS])
def test_every_mount_has_its_volume(title: str, pod: Object) -> None:
    mounts = [mount["name"] for mount in pod["containers"][0]["volumeMounts"]]
    volumes = [volume["name"] for volume in pod["volumes"]]
    assert sorted(mounts) == sorted(volumes)
    assert len(set(volumes)) == len(volumes)


def test_plan_is_kept_in_a_config_map_that_cannot_change() -> None:
    asked = job()
    plan = run_plan(asked, PLATFORM, Stage.TRAIN, 1, prepared())
    stored = plan_config_map(asked, Stage.TRAIN, 1, plan)
    assert stored["immutable"] is True
    assert RunPlan.model_validate_json(stored["data"][PLAN_FILE]) == plan


def test_the_hub_of_the_data_has_a_token_and_a_cache_of_its_own() -> None:
    access = {"tokenSecretRef": {"name": "rows-hub"}, "cacheClaim": "rows-cache"}
    asked = job(dataset={"train": [{"source": "hf://org/rows"}], "huggingFace": access})
    plan = run_plan(asked, PLATFORM, Stage.PREPARE, 1, None)
    assert plan.hubs.keys() == {"data"}
    assert plan.hubs["data"].token_variable == "DATA_HF_TOKEN"
    assert plan.hubs["data"].cache is not None
    pod = prepare_objects(asked, PLATFORM, 1)[1]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    reference = {"secretKeyRef": {"name": "rows-hub", "key": "token"}}
    assert {"name": "DATA_HF_TOKEN", "valueFrom": reference} in container["env"]
    assert plan.hubs["data"].cache in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_building_twice_gives_the_same_objects() -> None:
    """A second pass must be a no-op: nothing in a manifest may depend on time or chance."""
    assert training_objects(job(), PLATFORM, 1, prepared()) == training_objects(job(), PLATFORM, 1, prepared())


def test_attempts_share_no_name_and_no_port() -> None:
    first, second = (training_objects(job(), PLATFORM, number, prepared()) for number in (1, 2))
    assert {o["metadata"]["name"] for o in first}.isdisjoint(o["metadata"]["name"] for o in second)
    assert first[1]["spec"]["ports"] != second[1]["spec"]["ports"]


def test_service_selects_the_pods_of_its_attempt_only() -> None:
    """While pods of the attempt before are still ending, the host name of rank 0 must not lead to them."""
    _, service, batch = training_objects(job(), PLATFORM, 2, prepared())
    earlier = training_objects(job(), PLATFORM, 1, prepared())[2]["spec"]["template"]["metadata"]["labels"]
    selector = service["spec"]["selector"].items()
    assert selector <= batch["spec"]["template"]["metadata"]["labels"].items()
    assert not selector <= earlier.items()
    assert batch["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]


def test_the_priority_is_that_of_every_pod() -> None:
    for changes, expected in (({"priorityClassName": "urgent"}, "urgent"), ({}, None)):
        children = (
            prepare_objects(job(**changes), PLATFORM, 1)[-1],
            training_objects(job(**changes), PLATFORM, 1, prepared())[-1],
        )
        for manifest in children:
            assert manifest["spec"]["template"]["spec"].get("priorityClassName") == expected
