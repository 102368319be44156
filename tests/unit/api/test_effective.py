"""Effective specs: what a profile gives, what of it is passed over, and where every value comes from."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.applicable import applicable, laid_under
from finetune_api.effective import effective_fields, effective_job, given_by, told_fields
from finetune_api.status import Origin
from support.builders import NAMESPACE, manifest, merged, spec
from support.profiles import profile_spec

PAIRS = {"dataset": {"train": [{"source": "s3://data/x", "format": "preference"}]}}


@pytest.mark.parametrize(
    ("defaults", "written", "result"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {}, {"a": 1}),
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1}, {"a": None}, {"a": 1}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": 1}, {"a": {"b": None, "c": 0}}, {"a": {"c": 0}}),
    ],
    ids=str,
)
def test_what_is_written_lies_over_the_defaults(defaults: Any, written: Any, result: Any) -> None:
    assert laid_under(defaults, written) == result


# Defaults that mean nothing to a job, the job's spec beside the smallest, and what remains of them.
PASSED_OVER: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "adapter of a full tuning": ({"method": {"lora": {"rank": 4}}}, {"method": {"tuning": "full"}}, {"method": {}}),
    "adapter": ({"method": {"lora": {"rank": 4}}}, {}, {"method": {"lora": {"rank": 4}}}),
    "tuning and its options": (
        {"method": {"tuning": "qlora", "quantization": {"doubleQuantization": False}}},
        {},
        {"method": {"tuning": "qlora", "quantization": {"doubleQuantization": False}}},
    ),
    "another objective": ({"method": {"dpo": {"beta": "1"}}}, {}, {"method": {}}),
    "the objective": (
        {"method": {"dpo": {"beta": "1"}}},
        {"method": {"objective": "dpo"}, **PAIRS},
        {"method": {"dpo": {"beta": "1"}}},
    ),
    "hub of a bucket": ({"model": {"revision": "v1", "huggingFace": {}}}, {}, {"model": {}}),
    "store of a claim": ({"model": {"s3": {}}}, {"model": {"source": "pvc://c"}}, {"model": {}}),
    "data's hub without any": ({"dataset": {"huggingFace": {"offline": True}}}, {}, {"dataset": {}}),
    "evaluations without a held-out split": (
        {"evaluation": {"everySteps": 5, "earlyStopping": {"patience": 2}, "publish": "Best"}},
        {},
        {"evaluation": {}},
    ),
    "evaluations": (
        {"evaluation": {"everySteps": 5, "publish": "Best"}, "dataset": {"validation": {"fraction": "0.1"}}},
        {},
        {"evaluation": {"everySteps": 5, "publish": "Best"}, "dataset": {"validation": {"fraction": "0.1"}}},
    ),
    "samples without a held-out split": ({"evaluation": {"samples": 2}}, {}, {"evaluation": {}}),
    "samples of a reward model": (
        {"evaluation": {"samples": 2}},
        {"method": {"objective": "reward"}, "dataset": {"validation": {"fraction": "0.1"}}},
        {"evaluation": {}},
    ),
    "samples": (
        {"evaluation": {"samples": 2}},
        {"dataset": {"validation": {"fraction": "0.1"}}},
        {"evaluation": {"samples": 2}},
    ),
    "epochs beside maxSteps": (
        {"hyperparameters": {"epochs": 3}},
        {"hyperparameters": {"maxSteps": 9}},
        {"hyperparameters": {}},
    ),
    "seconds beside steps": (
        {"checkpoint": {"everySeconds": 3}},
        {"checkpoint": {"everySteps": 9}},
        {"checkpoint": {}},
    ),
    "fraction beside sources": (
        {"dataset": {"validation": {"fraction": "0.1"}}},
        {"dataset": {"validation": {"sources": [{"source": "s3://data/v"}]}}},
        {"dataset": {"validation": {}}},
    ),
    "moments of Adafactor": (
        {"hyperparameters": {"beta2": "0.9"}},
        {"hyperparameters": {"optimizer": "adafactor"}},
        {"hyperparameters": {}},
    ),
    "decay of a cosine": ({"hyperparameters": {"decaySteps": 3}}, {}, {"hyperparameters": {}}),
    "packing of pairs": (
        {"hyperparameters": {"packing": True}},
        {"method": {"objective": "orpo"}, **PAIRS},
        {"hyperparameters": {}},
    ),
    "compiled blocks of stage 3": (
        {"hyperparameters": {"compile": True}},
        {"deepspeed": {"zeroStage": 3}},
        {"hyperparameters": {}},
    ),
    "compiled blocks of qlora": (
        {"hyperparameters": {"compile": True}},
        {"method": {"tuning": "qlora"}},
        {"hyperparameters": {}},
    ),
    "processes of GPUs": (
        {"resources": {"processesPerNode": 2, "gpusPerNode": 1}},
        {},
        {"resources": {"gpusPerNode": 1}},
    ),
    "merged without an adapter": ({"output": {"artifact": "Merged"}}, {"method": {"tuning": "full"}}, {"output": {}}),
}


@pytest.mark.parametrize("case", PASSED_OVER)
def test_defaults_that_mean_nothing_to_a_job_are_passed_over(case: str) -> None:
    defaults, changes, kept = PASSED_OVER[case]
    assert applicable(defaults, spec(**changes)) == kept


def test_a_profile_gives_nodes_storage_and_defaults() -> None:
    profile = profile_spec(
        node={"cpu": "16", "memory": "64Gi", "gpus": 2},
        defaults={"output": {"destination": "s3://out/{namespace}/x"}, "resources": {"cpu": "8"}},
    )
    assert given_by(profile, spec(), NAMESPACE) == {
        "resources": {"cpu": "8", "memory": "64Gi", "gpusPerNode": 2},
        "output": {"destination": f"s3://out/{NAMESPACE}/x"},
    }
    assert given_by(None, spec(), NAMESPACE) == {}


def test_the_effective_job_has_what_the_manifest_leaves_out() -> None:
    profile = profile_spec(defaults={"output": {"destination": "s3://out/{namespace}"}, "backoffLimit": 9})
    job = effective_job(manifest(output=None, backoffLimit=1), profile)
    assert (job.spec.output.destination, job.spec.backoff_limit) == (f"s3://out/{NAMESPACE}", 1)


def _origins(written: dict[str, Any], defaults: dict[str, Any]) -> dict[str, tuple[Any, Origin]]:
    profile = profile_spec(defaults=defaults)
    job = effective_job(merged(manifest(), {"spec": written}), profile)
    whole = spec(**written)
    found = effective_fields(
        whole, given_by(profile, whole, NAMESPACE), job.spec, planned={"spec.deepspeed.microBatchSize"}
    )
    return {item.path: (item.value, item.origin) for item in found}


def test_every_value_has_its_origin() -> None:
    found = _origins(
        {"hyperparameters": {"seed": 1}, "method": {"lora": {"rank": 4}}},
        {"hyperparameters": {"seed": 2, "epochs": 3}, "method": {"lora": {"alpha": 8}}},
    )
    assert found["spec.hyperparameters.seed"] == (1, Origin.MANIFEST)
    assert found["spec.hyperparameters.epochs"] == (3, Origin.PROFILE)
    assert found["spec.hyperparameters.learningRate"] == ("2e-4", Origin.DEFAULT)
    assert found["spec.method.lora.rank"] == (4, Origin.MANIFEST)
    assert found["spec.method.lora.alpha"] == (8, Origin.PROFILE)
    assert found["spec.method.lora.dropout"] == ("0", Origin.DEFAULT)
    assert found["spec.deepspeed.microBatchSize"] == (1, Origin.PLANNED)
    assert found["spec.dataset.train[0].source"][1] is Origin.MANIFEST
    assert found["spec.dataset.train[0].format"] == ("chat", Origin.DEFAULT)


def test_a_status_tells_values_as_text_and_cuts_long_ones() -> None:
    job = effective_job(manifest(dataset={"chatTemplate": "x" * 2000}), None)
    told = {item.path: item.value for item in told_fields(effective_fields(spec(), {}, job.spec))}
    assert told["spec.hyperparameters.packing"] == "false"
    assert told["spec.method.lora.targetModules"] == '["all-linear"]'
    assert len(told["spec.dataset.chatTemplate"]) == 512
