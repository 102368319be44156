"""Another model to compare with: found as the base model is, pinned, and refused where it cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.layout import MANIFEST
from finetune_api.plan import RunPlan, StoreAccess
from finetune_api.runid import sha256_digest
from finetune_api.spec import ModelSpec, S3Access
from finetune_api.upstream import Upstream
from finetune_trainer.errors import UserError
from finetune_trainer.models.references import fetch_reference
from finetune_trainer.prepare import prepare
from support.run_plans import Place
from support.tiny_model import write_tiny_model

PAIR = {"prompt": "What is one plus one?", "chosen": "Two.", "rejected": "Three."}
FIELD = "spec.method.dpo.referenceModel"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", hidden_size=16, heads=2, key_value_heads=1)


@pytest.fixture
def place(folder_place: Place, tiny: Path, tmp_path: Path) -> Place:
    folder_place.put_folder(tiny, "model")
    folder_place.put("pairs.jsonl", f"{json.dumps(PAIR)}\n".encode())
    other = write_tiny_model(tmp_path / "other", seed=5, hidden_size=32, heads=2, key_value_heads=1)
    folder_place.put_folder(other, "other")
    return folder_place


def plan_of(place: Place, source: str | None = "s3://bucket/other", length: int = 64) -> RunPlan:
    named = {"dpo": {"referenceModel": {"source": source}}} if source else {}
    return place.plan(
        dataset={"train": [{"source": "s3://bucket/pairs.jsonl", "format": "preference"}]},
        method={"objective": "dpo", **named},
        hyperparameters={"maxSequenceLength": length},
    )


def refusal(plan: RunPlan, place: Place) -> UserError:
    with pytest.raises(UserError) as error:
        prepare(plan, place.environment)
    return error.value


def test_its_content_is_part_of_the_run_and_its_place_is_not(place: Place, tmp_path: Path) -> None:
    first = prepare(plan_of(place), place.environment)
    assert first.reference
    assert prepare(plan_of(place, None), place.environment).run_id != first.run_id
    place.put_folder(tmp_path / "other", "copy")
    assert prepare(plan_of(place, "s3://bucket/copy"), place.environment).run_id == first.run_id
    place.put("copy/generation_config.json", b'{"max_new_tokens": 3}')
    changed = prepare(plan_of(place, "s3://bucket/copy"), place.environment)
    assert changed.reference
    assert (changed.reference.digest != first.reference.digest, changed.run_id != first.run_id) == (True, True)
    assert changed.model_digest == first.model_digest


def test_training_places_it_beside_the_model_and_refuses_another_one(place: Place, tmp_path: Path) -> None:
    plan = plan_of(place)
    plan = plan.model_copy(update={"prepared": prepare(plan, place.environment)})
    fetch_reference(plan, place.environment, tmp_path / "reference", tmp_path / "adapter")
    assert (tmp_path / "reference" / "model.safetensors").exists()
    assert not (tmp_path / "adapter").exists()
    place.put("other/generation_config.json", b'{"max_new_tokens": 3}')
    with pytest.raises(UserError) as error:
        fetch_reference(plan, place.environment, tmp_path / "again", tmp_path / "adapter")
    assert error.value.message == f"s3://bucket/other of {FIELD}.source has changed since the job was prepared"


def test_the_adapter_of_a_job_comes_with_its_base_model(place: Place, tmp_path: Path) -> None:
    content = b'{"format": 1}'
    for name, file in {"adapter_config.json": b"{}", "adapter_model.safetensors": b"", MANIFEST: content}.items():
        place.put(f"results/sft/{name}", file)
    upstream = Upstream(
        job="sft",
        run_id="r-" + "0" * 20,
        uri="s3://bucket/results/sft",
        kind="adapter",
        manifest_digest=sha256_digest(content),
        s3=S3Access(),
        model=ModelSpec(source="s3://bucket/other"),
    )
    plan = plan_of(place)
    stores = plan.stores | {"reference-adapter": StoreAccess(endpoint_url=place.endpoint)}
    plan = plan.model_copy(update={"upstreams": {"reference": upstream}, "stores": stores})
    alone, found = prepare(plan_of(place), place.environment), prepare(plan, place.environment)
    assert found.reference
    assert found.reference != alone.reference
    assert found.adapter is None
    plan = plan.model_copy(update={"prepared": found})
    fetch_reference(plan, place.environment, tmp_path / "reference", tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_config.json").read_bytes() == b"{}"
    place.put(f"results/sft/{MANIFEST}", b"{}")
    assert refusal(plan, place).message.startswith("the artifact of the job 'sft' at s3://bucket/results/sft is no lo")


def test_another_vocabulary_is_refused(place: Place, tiny: Path, tmp_path: Path) -> None:
    tokenizer: dict[str, Any] = json.loads((tmp_path / "other" / "tokenizer.json").read_text())
    # The same tokens in the same order: only how texts are cut differs, and rows are cut by the model's tokenizer.
    place.put("other/tokenizer.json", json.dumps(tokenizer, indent=1).encode())
    assert prepare(plan_of(place), place.environment).reference
    vocabulary = tokenizer["model"]["vocab"]
    (first, second), numbers = list(vocabulary)[-2:], list(vocabulary.values())[-2:]
    vocabulary[first], vocabulary[second] = numbers[::-1]
    place.put("other/tokenizer.json", json.dumps(tokenizer).encode())
    error = refusal(plan_of(place), place)
    assert error.message.startswith(f"s3://bucket/other of {FIELD}.source has another vocabulary than the model: ")
    assert "(2 tokens differ)" in error.message


@pytest.mark.parametrize(
    ("source", "length", "message"),
    [
        ("s3://bucket/nowhere", 64, f"s3://bucket/nowhere of {FIELD}.source does not exist or is empty"),
        (
            "s3://bucket/other",
            1024,
            f"the model of {FIELD}.source knows 512 positions, and rows have up to 1024 tokens",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_by_its_field(
    place: Place, tiny: Path, source: str, length: int, message: str
) -> None:
    config = json.loads((tiny / "config.json").read_text()) | {"max_position_embeddings": 4096}
    place.put("model/config.json", json.dumps(config).encode())
    assert refusal(plan_of(place, source, length), place).message == message
