"""The run ID: what changes it, and what must not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.runid import canonical_json, run_id, sha256_digest, training_definition
from finetune_api.spec import FineTuneJobSpec
from support.builders import digest, spec


def _id(fields: dict[str, Any] | None = None, model: str = "a", train: str = "b", validation: str | None = "c") -> str:
    """Run ID of the smallest spec with changes, for digests that are one letter repeated."""
    asked = FineTuneJobSpec.model_validate(spec(**fields or {}))
    held_out = digest(validation) if validation else None
    return run_id(training_definition(asked, digest(model), digest(train), held_out))


CHANGING: dict[str, dict[str, Any]] = {
    "merging the adapter": {"output": {"destination": "s3://results/team", "artifact": "Merged"}},
    "early stopping": {"evaluation": {"everySteps": 7, "earlyStopping": {"patience": 2}}},
    "publishing the best weights": {"evaluation": {"everySteps": 7, "publish": "Best"}},
    "base model's public name": {"model": {"name": "org/other"}},
    "truncation": {"dataset": {"tooLong": "Refuse"}},
    "format": {"dataset": {"train": [{"source": "s3://data/train.jsonl", "format": "completion"}]}},
    "columns": {"dataset": {"train": [{"source": "s3://data/train.jsonl", "fields": {"messages": "talk"}}]}},
    "weight": {"dataset": {"train": [{"source": "s3://data/train.jsonl", "weight": "2"}]}},
    "limit": {"dataset": {"train": [{"source": "s3://data/train.jsonl", "limit": 7}]}},
    "held-out limit": {"dataset": {"validation": {"sources": [{"source": "s3://data/held-out.jsonl", "limit": 7}]}}},
    "chat template": {"dataset": {"chatTemplate": "{{ messages }}"}},
    "tuning": {"method": {"tuning": "full"}},
    "rank": {"method": {"lora": {"rank": 4}}},
    "alpha": {"method": {"lora": {"alpha": 8}}},
    "dropout": {"method": {"lora": {"dropout": "0.1"}}},
    "modules": {"method": {"lora": {"targetModules": ["q_proj"]}}},
    "epochs": {"hyperparameters": {"epochs": 2}},
    "steps": {"hyperparameters": {"maxSteps": 2}},
    "learning rate": {"hyperparameters": {"learningRate": "1e-3"}},
    "schedule": {"hyperparameters": {"schedule": "linear"}},
    "decay": {"hyperparameters": {"schedule": "wsd", "decaySteps": 2}},
    "optimizer": {"hyperparameters": {"optimizer": "adamw8bit"}},
    "beta1": {"hyperparameters": {"beta1": "0.8"}},
    "beta2": {"hyperparameters": {"beta2": "0.99"}},
    "epsilon": {"hyperparameters": {"epsilon": "1e-6"}},
    "packing": {"hyperparameters": {"packing": True}},
    "compiled blocks": {"hyperparameters": {"compile": True}},
    "warmup": {"hyperparameters": {"warmupSteps": 1}},
    "weight decay": {"hyperparameters": {"weightDecay": "0.1"}},
    "clipping": {"hyperparameters": {"maxGradNorm": "0"}},
    "batch": {"hyperparameters": {"globalBatchSize": 16}},
    "length": {"hyperparameters": {"maxSequenceLength": 64}},
    "precision": {"hyperparameters": {"precision": "fp32"}},
    "seed": {"hyperparameters": {"seed": 1}},
    "evaluation": {"evaluation": {"everySteps": 2}, "dataset": {"validation": {"fraction": "0.5"}}},
}

KEEPING: dict[str, dict[str, Any]] = {
    "place of a model of another objective": {"method": {"dpo": {"referenceModel": {"source": "s3://models/x"}}}},
    "place of an adapter": {"method": {"lora": {"initialAdapter": {"source": "s3://models/adapter"}}}},
    "model's place": {"model": {"source": "pvc://claim/elsewhere"}},
    "model's access": {"model": {"s3": {"region": "eu-1"}}},
    "data's place": {"dataset": {"train": [{"source": "pvc://claim/rows"}]}},
    "how many files": {"dataset": {"train": [{"source": "s3://rows/a"}, {"source": "s3://rows/b"}]}},
    "data's revision": {"dataset": {"train": [{"source": "hf://org/rows", "revision": "v1", "files": "*.jsonl"}]}},
    "data's checksum": {"dataset": {"train": [{"source": "https://host/rows.jsonl", "sha256": "0" * 64}]}},
    "data's hub": {"dataset": {"huggingFace": {"endpointURL": "https://hub.example"}}},
    "data's checks": {"dataset": {"checks": {"maxRefusedRows": 3, "maxTruncatedFraction": "0.5"}}},
    "nodes": {"resources": {"nodes": 4}},
    "GPUs": {"resources": {"gpusPerNode": 8}},
    "processes": {"resources": {"processesPerNode": 2}},
    "CPU and memory": {"resources": {"cpu": "7", "memory": "9Gi"}},
    "node selector": {"resources": {"nodeSelector": {"zone": "a"}}},
    "ZeRO stage": {"deepspeed": {"zeroStage": 3}},
    "micro-batch": {"deepspeed": {"microBatchSize": 2}},
    "destination": {"output": {"destination": "s3://other/place"}},
    "output's access": {"output": {"s3": {"credentialsSecretRef": {"name": "s"}}}},
    "suspend": {"suspend": True},
    "backoff limit": {"backoffLimit": 0},
    "samples": {"evaluation": {"samples": 2}},
    "divergence": {"evaluation": {"divergence": {"maxLoss": "10"}}},
    "publishing the last weights, written out": {"evaluation": {"publish": "Last"}},
    "defaults written out": {
        "method": {"objective": "sft", "tuning": "lora", "lora": {"rank": 16, "targetModules": ["all-linear"]}},
        "hyperparameters": {"learningRate": "2e-4", "seed": 42},
    },
}


@pytest.mark.parametrize("what", CHANGING)
def test_what_defines_the_result_changes_the_run_id(what: str) -> None:
    assert _id(CHANGING[what]) != _id()


def test_no_two_of_these_changes_give_the_same_run_id() -> None:
    assert len({_id(changes) for changes in CHANGING.values()}) == len(CHANGING)


def test_content_changes_the_run_id() -> None:
    identifiers = {_id(), _id(model="9"), _id(train="9"), _id(validation="9"), _id(validation=None)}
    assert len(identifiers) == 5


@pytest.mark.parametrize("what", KEEPING)
def test_names_places_and_resources_do_not_change_the_run_id(what: str) -> None:
    assert _id(KEEPING[what]) == _id()


def test_run_id_is_stable_across_versions() -> None:
    """A published artifact is found again by this name: it may change only together with RECIPE_VERSION."""
    assert _id() == "r-263e6b585e3aa1d9bb44"


def test_lora_options_are_no_part_of_a_full_tuning() -> None:
    asked = FineTuneJobSpec.model_validate(spec(method={"tuning": "full"}))
    assert training_definition(asked, digest("a"), digest("b"), None)["method"]["lora"] is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    )
)
def test_canonical_json_does_not_depend_on_the_order_of_keys(document: Any) -> None:
    def backwards(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: backwards(value[key]) for key in reversed(list(value))}
        return [backwards(item) for item in value] if isinstance(value, list) else value

    assert canonical_json(document) == canonical_json(backwards(document))


def test_canonical_json_is_utf8_without_spaces() -> None:
    assert canonical_json({"b": [1, 2], "a": "é"}) == '{"a":"é","b":[1,2]}'.encode()


def test_digest_names_its_algorithm() -> None:
    assert sha256_digest(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
