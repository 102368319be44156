"""The plan of a local run is that of the operator, but for places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_api.job import FineTuneJob
from finetune_api.plan import Device, RunPlan, StoreAccess, cluster_stores, world_of
from finetune_cli.errors import UnsupportedHereError, UsageError
from finetune_cli.local.planning import (
    Places,
    check_places,
    local_stores,
    parse_claims,
    parse_store_url,
    prepare_plan,
    secret_names,
)
from finetune_cli.validation import read_job
from support.job_manifests import edited


def job(changes: dict[str, Any] | None = None) -> FineTuneJob:
    return read_job(edited(changes or {}), "job.yaml")


def places(store: str | None = None, **claims: Path) -> Places:
    return Places(store_url=store, claims=claims, hub_token=False)


def test_the_whole_prepare_plan() -> None:
    plan = prepare_plan(job({"spec/resources": {"nodes": 2, "cpu": "3"}}), places("file:///data"), 4242)

    store = StoreAccess(endpoint_url="file:///data")
    assert plan == RunPlan.model_validate(
        {
            "job": {"namespace": "default", "name": "tiny", "uid": ""},
            "attempt": 0,
            "spec": plan.spec.to_wire(),
            "world": {
                "nodes": 2,
                "processesPerNode": 1,
                "threadsPerProcess": 3,
                "device": Device.CPU,
                "masterAddress": "127.0.0.1",
                "masterPort": 4242,
            },
            "stores": dict.fromkeys(("output", "model", "train-0"), store.to_wire()),
        }
    )


def test_world_and_threads_are_those_of_the_cluster() -> None:
    spec = job({"spec/resources": {"nodes": 2, "processesPerNode": 2, "cpu": 4}}).spec

    here = prepare_plan(job({"spec/resources": {"nodes": 2, "processesPerNode": 2, "cpu": 4}}), places(), 1).world

    there = world_of(spec, "tiny-train-1-0.tiny-train-1", 2)
    same = {"nodes", "processes_per_node", "threads_per_process", "device"}
    assert here.model_dump(include=same) == there.model_dump(include=same)


def test_without_a_store_option_the_manifests_endpoint_stays_and_the_secret_goes() -> None:
    access = {"endpointURL": "http://store:9000", "region": "eu-1", "credentialsSecretRef": {"name": "keys"}}
    spec = job({"spec/output/s3": access}).spec

    stores = local_stores(spec, None)

    assert stores["train-0"] == StoreAccess(endpoint_url="http://store:9000", region="eu-1")
    assert cluster_stores(spec)["train-0"].environment_prefix == "TRAIN_0_"
    assert secret_names(spec) == ("keys",)


def test_claims_take_the_place_of_mounts(tmp_path: Path) -> None:
    changes = {"spec/model": {"source": "pvc://team/model"}}

    plan = prepare_plan(job(changes), places(team=tmp_path), 1)

    assert plan.claims == {"team": str(tmp_path)}


def test_a_hub_cache_is_a_claim_too(tmp_path: Path) -> None:
    changes = {"spec/model": {"source": "hf://org/name", "huggingFace": {"cacheClaim": "cache", "offline": True}}}

    plan = prepare_plan(job(changes), places(cache=tmp_path), 1)

    assert plan.hubs["model"].cache == str(tmp_path)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8333", "https://store", "file:///data/store"])
def test_store_urls(url: str) -> None:
    assert parse_store_url(f"{url}/") == url


@pytest.mark.parametrize("url", ["", "data", "/data", "file://relative", "s3://bucket", "http://", "ftp://host"])
def test_other_store_urls_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="use http://host:port, https://host or file:///absolute/folder"):
        parse_store_url(url)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["team"], "--pvc team: use --pvc CLAIM=FOLDER"),
        (["team=/", "team=/"], "--pvc team is given twice"),
        (["team=/no/such/folder"], "--pvc team=/no/such/folder: /no/such/folder is no folder"),
    ],
)
def test_claim_options_that_cannot_be_used(options: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_claims(options)

    assert str(caught.value) == message


def test_a_claim_without_a_folder_names_the_option() -> None:
    with pytest.raises(UsageError, match="say where it is, --pvc team=FOLDER"):
        check_places(job({"spec/model": {"source": "pvc://team/model"}}), places())


def test_a_folder_for_a_claim_that_is_not_read_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--pvc team: the job reads no such claim \(it reads: none\)"):
        check_places(job(), places(team=tmp_path))


def test_a_suspended_job_is_not_run() -> None:
    with pytest.raises(UnsupportedHereError, match=r"spec\.suspend is true"):
        check_places(job({"spec/suspend": True}), places())
