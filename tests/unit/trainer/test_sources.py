"""Base models are found, checked and digested alike in stores and claims."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from finetune_api.plan import RunPlan
from finetune_api.results import Prepared, SplitSummary
from finetune_api.uris import S3Location
from finetune_trainer.errors import UserError
from finetune_trainer.models.sources import base_model_name, fetch_model, open_model
from finetune_trainer.storage.digests import REMEMBERED_BYTES, DigestMemory, digest_of_files, object_sha256
from finetune_trainer.storage.interface import ObjectStore, StoredObject
from support.paper_model import model_tensors, write_paper_model
from support.run_plans import Place

LAYOUT = (
    "point spec.model.source at a folder in the Hugging Face layout: config.json, tokenizer.json and model.safetensors"
)


def claim_plan(place: Place, folder: Path) -> RunPlan:
    """A plan whose model is in a folder that is mounted as a claim."""
    return place.plan(model={"source": "pvc://models/tiny"}, claims={"models": str(folder)})


@pytest.fixture
def broken(folder_place: Place, tmp_path: Path) -> Callable[..., UserError]:
    """Makes a model, breaks it, opens it, and gives the error."""

    def open_broken(breaking: Callable[[Path], object], **config: object) -> UserError:
        folder = write_paper_model(tmp_path / "claims" / "tiny", **config)
        breaking(folder)
        with pytest.raises(UserError) as refused:
            open_model(claim_plan(folder_place, tmp_path / "claims"), {}, tmp_path / "opened")
        return refused.value

    return open_broken


def remove(*names: str) -> Callable[[Path], None]:
    def breaking(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return breaking


def write(name: str, content: str) -> Callable[[Path], None]:
    def breaking(folder: Path) -> None:
        (folder / name).write_text(content)

    return breaking


def rename(name: str, other: str) -> Callable[[Path], None]:
    def breaking(folder: Path) -> None:
        (folder / name).rename(folder / other)

    return breaking


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (shutil.rmtree, "does not exist or is empty"),
        (remove("config.json"), "is no model: it has no config.json"),
        (
            rename("config.json", "adapter_config.json"),
            "is a PEFT adapter, not a base model: it has no config.json",
        ),
        (
            remove("model.safetensors"),
            "is no model: it has no model.safetensors and no model.safetensors.index.json",
        ),
        (
            rename("model.safetensors", "pytorch_model.bin"),
            "has its weights only as pickle (pytorch_model.bin), which can run code when it is loaded",
        ),
        (remove("tokenizer.json"), "has no tokenizer.json"),
        (
            write("model.safetensors", "these are no weights"),
            "is no model: model.safetensors is no safetensors file: it does not begin with the length of a header",
        ),
        (write("config.json", "[]"), "is no model: config.json is not a JSON object"),
        (write("config.json", "{"), "is no model: config.json is not JSON"),
        (write("config.json", "{}"), "is no model: config.json has no model_type"),
        (write("model.safetensors.index.json", "{}"), "is no model: model.safetensors.index.json has no weight_map"),
        (
            write("model.safetensors.index.json", '{"weight_map": {"a": "model-1.safetensors"}}'),
            "is incomplete: model.safetensors.index.json names model-1.safetensors, which is not there",
        ),
        (
            write("tokenizer_config.json", '{"auto_map": {}}'),
            "wants to run code of its own (auto_map in tokenizer_config.json), which is refused",
        ),
    ],
)
def test_what_is_no_model(broken: Callable[..., UserError], breaking: Callable[[Path], object], message: str) -> None:
    error = broken(breaking)
    assert error.message.startswith(f"pvc://models/tiny of spec.model.source {message}")
    assert error.remedy


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"auto_map": {"AutoModel": "x.Y"}},
            "wants to run code of its own (auto_map in config.json), which is refused",
        ),
        (
            {"architectures": ["BertForMaskedLM"]},
            "is not a causal language model: its architectures are BertForMaskedLM in config.json",
        ),
        (
            {"architectures": None},
            "is not a causal language model: its architectures are not named in config.json",
        ),
    ],
)
def test_models_of_another_kind(broken: Callable[..., UserError], config: dict[str, object], message: str) -> None:
    assert broken(lambda folder: None, **config).message == f"pvc://models/tiny of spec.model.source {message}"


def test_the_remedy_for_a_folder_that_is_no_model(broken: Callable[..., UserError]) -> None:
    assert broken(remove("config.json")).remedy == LAYOUT


def test_a_missing_model_in_a_store(place: Place, tmp_path: Path) -> None:
    plan = place.plan(model={"source": f"s3://{place.bucket}/models/none"})
    with pytest.raises(UserError) as refused:
        open_model(plan, place.environment, tmp_path / "opened")
    assert refused.value.message == (f"s3://{place.bucket}/models/none of spec.model.source does not exist or is empty")


def test_truncated_weights_in_a_store(place: Place, paper_model: Path, tmp_path: Path) -> None:
    place.put("model/model.safetensors", (paper_model / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(UserError) as refused:
        open_model(place.plan(), place.environment, tmp_path / "opened")
    assert "model.safetensors is no safetensors file: its header describes " in refused.value.message


def test_the_digest_is_the_same_wherever_the_model_is(
    folder_place: Place, s3_place: Place, paper_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(paper_model, tmp_path / "claims" / "tiny")
    digests = {
        open_model(folder_place.plan(), folder_place.environment, tmp_path / "1").digest(),
        open_model(s3_place.plan(), s3_place.environment, tmp_path / "2").digest(),
        open_model(claim_plan(folder_place, tmp_path / "claims"), {}, tmp_path / "3").digest(),
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("name", "changes"), [("README.md", False), ("tokenizer_config.json", True), ("generation_config.json", True)]
)
def test_the_digest_is_of_what_defines_the_model(folder_place: Place, tmp_path: Path, name: str, changes: bool) -> None:
    before = open_model(folder_place.plan(), folder_place.environment, tmp_path / "1").digest()
    folder_place.put(f"model/{name}", b"{}")
    after = open_model(folder_place.plan(), folder_place.environment, tmp_path / "2").digest()
    assert (before != after) is changes


def test_a_model_is_fetched_whole(place: Place, tmp_path: Path) -> None:
    place.put("model/onnx/model.onnx", b"not wanted")
    place.put("model/README.md", b"not wanted")
    folder = fetch_model(place.plan(), place.environment, tmp_path / "fetched")
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert load_file(folder / "model.safetensors").keys() == model_tensors().keys()


def test_the_shards_of_the_index_are_the_weights(folder_place: Place, paper_model: Path, tmp_path: Path) -> None:
    content = (paper_model / "model.safetensors").read_bytes()
    folder_place.put("model/model-1.safetensors", content)
    index = {"weight_map": dict.fromkeys(model_tensors(), "model-1.safetensors")}
    folder_place.put("model/model.safetensors.index.json", json.dumps(index).encode())
    model = open_model(folder_place.plan(), folder_place.environment, tmp_path / "opened")
    assert model.weights == ("model-1.safetensors",)


def prepared_with(digest: str) -> Prepared:
    counts = SplitSummary(digest=digest, rows=1, tokens=1, loss_tokens=1, truncated=0)
    return Prepared(run_id="r-" + "0" * 20, model_digest=digest, data_uri="s3://bucket/data", train=counts, steps=1)


def test_a_model_that_changed_since_it_was_prepared_is_not_trained(folder_place: Place, tmp_path: Path) -> None:
    model = open_model(folder_place.plan(), folder_place.environment, tmp_path / "opened")
    plan = folder_place.plan(prepared=prepared_with(model.digest()))
    assert fetch_model(plan, folder_place.environment, tmp_path / "fetched") == tmp_path / "fetched"
    folder_place.put("model/generation_config.json", b"{}")
    with pytest.raises(UserError) as refused:
        fetch_model(plan, folder_place.environment, tmp_path / "again")
    assert refused.value.message == ("s3://bucket/model of spec.model.source has changed since the job was prepared")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ({"source": "hf://org/base"}, "org/base"),
        ({"source": "hf://org/base", "name": "other/name"}, "other/name"),
        ({"source": "s3://bucket/model"}, "s3://bucket/model"),
    ],
)
def test_the_public_name_of_the_base_model(folder_place: Place, model: dict[str, str], name: str) -> None:
    assert base_model_name(folder_place.spec(model=model)) == name


class CountingStore:
    """A store that counts how many objects were read."""

    def __init__(self, store: ObjectStore) -> None:
        self.reads = 0
        self._store = store

    def chunks(self, location: S3Location) -> Iterator[bytes]:
        self.reads += 1
        return self._store.chunks(location)


def test_large_objects_are_read_once_and_again_when_they_change(place: Place) -> None:
    memory, location = DigestMemory(place.plan(), place.environment), S3Location(place.bucket, "weights")
    store = CountingStore(place.store)

    def digest() -> str:
        found: StoredObject | None = place.store.stat(location)
        assert found is not None
        return memory.sha256(store, place.endpoint, found)  # type: ignore[arg-type]

    place.put("weights", b"a" * REMEMBERED_BYTES)
    first = [digest(), digest()]
    assert (len(set(first)), store.reads) == (1, 1)
    place.put("weights", b"b" * REMEMBERED_BYTES)
    assert digest() not in first
    assert store.reads == 2


def test_a_damaged_memory_is_not_believed(folder_place: Place) -> None:
    memory = DigestMemory(folder_place.plan(), folder_place.environment)
    folder_place.put("weights", b"a" * REMEMBERED_BYTES)
    found = folder_place.store.stat(S3Location("bucket", "weights"))
    assert found is not None
    memory.sha256(folder_place.store, None, found)
    [remembered] = folder_place.keys("results/team-a/_digests")
    folder_place.put(remembered, b"{}")
    assert memory.sha256(folder_place.store, None, found) == object_sha256(folder_place.store, found)


def test_a_digest_of_files_does_not_depend_on_their_order() -> None:
    assert digest_of_files({"a": "1", "b": "2"}) == digest_of_files({"b": "2", "a": "1"})
    assert digest_of_files({"a": "1", "b": "2"}) != digest_of_files({"a": "2", "b": "1"})
