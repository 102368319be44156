"""The run plan: stores, claims, world and number of steps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.plan import (
    Device,
    JobReference,
    RunPlan,
    StoreAccess,
    claims_of,
    cluster_stores,
    data_hub,
    environment_prefix,
    gradient_accumulation_steps,
    hub_uses,
    store_uses,
    total_steps,
    world_of,
)
from finetune_api.spec import FineTuneJobSpec
from support.builders import prepared, spec


def _spec(**changes: Any) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate(spec(**changes))


OWN = {"endpointURL": "http://own.example", "credentialsSecretRef": {"name": "own"}}
SHARED = {"endpointURL": "https://shared.example", "region": "eu-1", "credentialsSecretRef": {"name": "shared"}}


def test_every_source_has_a_use_of_its_own() -> None:
    validation = {"sources": [{"source": "s3://rows/v0"}, {"source": "s3://rows/v1"}]}
    sources = [{"source": "s3://rows/t0"}, {"source": "s3://rows/t1"}]
    uses = store_uses(_spec(dataset={"train": sources, "validation": validation}))
    assert list(uses) == ["output", "model", "train-0", "train-1", "validation-0", "validation-1"]


def test_sources_without_access_of_their_own_use_that_of_the_output() -> None:
    dataset = {"train": [{"source": "s3://rows/t0"}, {"source": "s3://rows/t1", "s3": OWN}]}
    uses = store_uses(_spec(dataset=dataset, output={"s3": SHARED}))
    assert uses["model"] == uses["train-0"] == uses["output"]
    assert uses["output"].endpoint_url == "https://shared.example"
    assert uses["train-1"].endpoint_url == "http://own.example"


def test_held_out_fraction_needs_no_store() -> None:
    uses = store_uses(_spec(dataset={"validation": {"fraction": "0.1"}}))
    assert list(uses) == ["output", "model", "train-0"]


def test_credentials_come_by_prefix_only_where_a_secret_is_named() -> None:
    stores = cluster_stores(_spec(model={"s3": {"addressingStyle": "Path"}}, output={"s3": SHARED}))
    assert stores["output"] == StoreAccess(
        endpoint_url="https://shared.example", region="eu-1", environment_prefix="OUTPUT_"
    )
    assert stores["train-0"].environment_prefix == "TRAIN_0_"
    assert stores["model"].to_wire() == {"addressingStyle": "Path", "checksum": "CRC64NVME"}


@pytest.mark.parametrize(
    ("use", "prefix"), [("output", "OUTPUT_"), ("train-0", "TRAIN_0_"), ("validation-12", "VALIDATION_12_")]
)
def test_prefix_of_a_use(use: str, prefix: str) -> None:
    assert environment_prefix(use) == prefix


def test_claims_are_named_once_and_sorted() -> None:
    found = claims_of(
        _spec(
            model={"source": "pvc://zoo/model"},
            dataset={
                "train": [
                    {"source": "pvc://data/a.jsonl"},
                    {"source": "pvc://data/b.jsonl"},
                    {"source": "s3://bucket/c"},
                ],
                "validation": {"sources": [{"source": "pvc://held-out/v.jsonl"}]},
            },
        )
    )
    assert found == ("data", "held-out", "zoo")


def test_data_on_a_hub_is_reached_as_the_model_is_or_in_a_way_of_its_own() -> None:
    model = {"source": "hf://org/name", "huggingFace": {"endpointURL": "https://models.example"}}
    on_hub = {"train": [{"source": "hf://org/rows"}]}
    own = {"huggingFace": {"endpointURL": "https://data.example", "cacheClaim": "data-cache"}}
    assert data_hub(_spec(model=model)) is None
    assert data_hub(_spec(dataset=on_hub)) is None
    as_model, by_itself = data_hub(_spec(model=model, dataset=on_hub)), data_hub(_spec(dataset=on_hub | own))
    assert as_model is not None
    assert by_itself is not None
    assert (as_model.endpoint_url, by_itself.endpoint_url) == ("https://models.example", "https://data.example")
    assert claims_of(_spec(dataset=on_hub | own)) == ("data-cache",)


def test_held_out_data_alone_may_be_on_a_hub() -> None:
    dataset = {"validation": {"sources": [{"source": "hf://org/rows"}]}, "huggingFace": {"offline": False}}
    assert data_hub(_spec(dataset=dataset)) is not None


def test_an_initial_adapter_has_a_store_a_claim_and_a_hub_of_its_own() -> None:
    def on(source: str, **access: Any) -> FineTuneJobSpec:
        initial = {"source": source, **access}
        model = {"source": "hf://org/name", "huggingFace": {"cacheClaim": "cache"}}
        return _spec(model=model, method={"lora": {"initialAdapter": initial}})

    assert store_uses(on("s3://models/b", s3={"region": "eu-9"}))["adapter"].region == "eu-9"
    assert claims_of(on("pvc://zoo/adapter")) == ("cache", "zoo")
    shared, own = hub_uses(on("hf://org/adapter")), hub_uses(on("hf://org/adapter", huggingFace={"cacheClaim": "own"}))
    assert shared["adapter"] == shared["model"]
    assert own["adapter"]
    assert own["adapter"].cache_claim == "own"
    assert "adapter" not in hub_uses(on("s3://models/b"))


def test_hub_cache_is_a_claim() -> None:
    model = {"source": "hf://org/name", "huggingFace": {"cacheClaim": "hub-cache"}}
    assert claims_of(_spec(model=model)) == ("hub-cache",)


def test_no_claims_without_sources_in_claims() -> None:
    assert claims_of(_spec()) == ()


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, (1, 1, 1, Device.CPU)),
        ({"nodes": 2, "processesPerNode": 3, "cpu": "7"}, (2, 3, 2, Device.CPU)),
        ({"nodes": 2, "gpusPerNode": 8, "cpu": "64"}, (2, 8, 8, Device.CUDA)),
        ({"processesPerNode": 4, "cpu": "2"}, (1, 4, 1, Device.CPU)),
        ({"cpu": "500m"}, (1, 1, 1, Device.CPU)),
        ({"cpu": "3900m"}, (1, 1, 3, Device.CPU)),
        ({"cpu": 4}, (1, 1, 4, Device.CPU)),
    ],
)
def test_world(resources: dict[str, Any], expected: tuple[int, int, int, Device]) -> None:
    world = world_of(_spec(resources=resources), "host", 20001)
    assert (world.nodes, world.processes_per_node, world.threads_per_process, world.device) == expected
    assert (world.master_address, world.master_port) == ("host", 20001)
    assert world.size == expected[0] * expected[1]


@pytest.mark.parametrize(
    ("hyperparameters", "rows", "steps"),
    [
        ({"globalBatchSize": 8}, 80, 10),
        ({"globalBatchSize": 8}, 81, 11),
        ({"globalBatchSize": 8}, 3, 1),
        ({"globalBatchSize": 8, "epochs": 3}, 9, 4),
        ({"globalBatchSize": 8, "epochs": 3}, 8, 3),
        ({"globalBatchSize": 8, "maxSteps": 7}, 1000, 7),
    ],
)
def test_total_steps(hyperparameters: dict[str, Any], rows: int, steps: int) -> None:
    assert total_steps(_spec(hyperparameters=hyperparameters), rows) == steps


@given(rows=st.integers(1, 10_000), epochs=st.integers(1, 20), batch=st.integers(1, 512))
def test_every_row_is_seen_in_every_epoch(rows: int, epochs: int, batch: int) -> None:
    steps = total_steps(_spec(hyperparameters={"globalBatchSize": batch, "epochs": epochs}), rows)
    assert steps * batch >= rows * epochs
    assert (steps - 1) * batch < rows * epochs


@pytest.mark.parametrize(
    ("batch", "micro", "resources", "accumulation"),
    [
        (8, 1, {}, 8),
        (8, 2, {"nodes": 2, "processesPerNode": 2}, 1),
        (64, 2, {"nodes": 2, "gpusPerNode": 4}, 4),
    ],
)
def test_gradient_accumulation(batch: int, micro: int, resources: dict[str, Any], accumulation: int) -> None:
    asked = _spec(hyperparameters={"globalBatchSize": batch}, deepspeed={"microBatchSize": micro}, resources=resources)
    assert gradient_accumulation_steps(asked) == accumulation


def test_plan_is_the_same_after_a_round_trip() -> None:
    asked = _spec(dataset={"validation": {"fraction": "0.1"}}, resources={"nodes": 2})
    plan = RunPlan(
        job=JobReference(namespace="ns", name="job", uid="uid"),
        attempt=1,
        spec=asked,
        world=world_of(asked, "host", 20001),
        stores=cluster_stores(asked),
        claims={"data": "/mnt/pvc/data"},
        prepared=prepared(),
    )
    assert RunPlan.model_validate_json(plan.to_json()) == plan
