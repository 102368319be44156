"""Publishing: everything uploaded, the manifest last, read back, and withdrawn when it is not right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from finetune_api.results import Artifact
from finetune_api.runid import sha256_digest
from finetune_api.uris import S3Location
from finetune_trainer.artifact import publish as publishing
from finetune_trainer.artifact.manifest import Kind, Manifest, Role
from finetune_trainer.artifact.publish import artifact_prefix, publish
from finetune_trainer.artifact.weights import StreamedWeights
from finetune_trainer.errors import StorageError, TrainerError, VerificationFailed
from finetune_trainer.storage.interface import ObjectStore, StoredObject
from finetune_trainer.storage.stores import store_of
from support.artifacts import DIGEST, EVALUATION, RECORD, adapter_tensors, prepared_of, write_adapter
from support.paper_model import model_tensors, write_paper_model
from support.run_plans import Place


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "artifact")


def published(place: Place, folder: Path, base: Path, kind: Kind = Kind.ADAPTER) -> Artifact:
    return publish(place.plan(prepared=prepared_of(place)), place.environment, folder, kind, base, EVALUATION, RECORD)


def run_folder(place: Place) -> str:
    return f"results/team-a/haiku/{prepared_of(place).run_id}"


def objects_of(place: Place) -> list[str]:
    return place.keys("")


def read_json(place: Place, key: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(place.store.read(S3Location(place.bucket, key)))
    return found


def test_an_adapter_is_published_with_its_manifest(place: Place, artifact: Path, paper_model: Path) -> None:
    found = published(place, artifact, paper_model)
    names = ["README.md", "adapter_config.json", "adapter_model.safetensors", "metrics.jsonl"]
    assert sorted(place.keys(run_folder(place))) == sorted(
        f"{run_folder(place)}/{name}" for name in [*names, "manifest.json"]
    )
    content = place.store.read(S3Location(place.bucket, f"{run_folder(place)}/manifest.json"))
    manifest = Manifest.model_validate_json(content)
    assert [(file.name, file.role) for file in manifest.files] == [
        (name, Role.RECORD if name == "metrics.jsonl" else Role.CONTENT) for name in names
    ]
    assert found == Artifact(
        uri=f"s3://{place.bucket}/{run_folder(place)}",
        kind="adapter",
        manifest_digest=sha256_digest(content),
        content_digest=manifest.content_digest,
        files=4,
        total_bytes=sum((artifact / name).stat().st_size for name in names),
    )
    assert manifest.evaluation == EVALUATION
    assert manifest.record == RECORD
    assert manifest.base_model == "example/tiny"
    assert manifest.definition["data"]["train"] == DIGEST


def test_the_newest_run_is_pointed_at(place: Place, artifact: Path, paper_model: Path) -> None:
    found = published(place, artifact, paper_model)
    assert read_json(place, "results/team-a/haiku/latest.json") == {
        "runID": prepared_of(place).run_id,
        "uri": found.uri,
        "manifestDigest": found.manifest_digest,
    }


def test_publishing_again_gives_the_same_and_removes_what_others_left(
    place: Place, artifact: Path, paper_model: Path
) -> None:
    place.put(f"{run_folder(place)}/checkpoint.pt", b"left by an attempt that died")
    first = published(place, artifact, paper_model)
    second = published(place, artifact, paper_model)
    assert first.content_digest == second.content_digest
    assert len(place.keys(run_folder(place))) == 5


def test_records_do_not_change_the_content_digest(folder_place: Place, artifact: Path, paper_model: Path) -> None:
    first = published(folder_place, artifact, paper_model)
    (artifact / "metrics.jsonl").write_text('{"step": 2}\n')
    second = published(folder_place, artifact, paper_model)
    (artifact / "README.md").write_text("# another card\n")
    third = published(folder_place, artifact, paper_model)
    assert first.content_digest == second.content_digest != third.content_digest
    assert first.manifest_digest != second.manifest_digest


def test_a_full_model_is_published(place: Place, tmp_path: Path, paper_model: Path) -> None:
    found = published(place, write_paper_model(tmp_path / "trained"), paper_model, Kind.MODEL)
    assert (found.kind, found.files) == ("model", 5)


def test_weights_that_were_streamed_are_published_with_the_rest(
    place: Place, artifact: Path, paper_model: Path
) -> None:
    expected = published(place, artifact, paper_model)
    prepared, weights = prepared_of(place), artifact / "adapter_model.safetensors"
    plan = place.plan(prepared=prepared)
    streamed = StreamedWeights(place.store, artifact_prefix(plan, prepared))
    with streamed.writing(weights.name, weights.stat().st_size) as target:
        target.write(weights.read_bytes())
    # From now on nobody takes what is there for the run's result.
    assert f"{run_folder(place)}/manifest.json" not in objects_of(place)
    weights.unlink()
    found = publish(plan, place.environment, artifact, Kind.ADAPTER, paper_model, EVALUATION, RECORD, streamed.files)
    assert (found.content_digest, found.files) == (expected.content_digest, expected.files)
    assert len(place.keys(run_folder(place))) == 5


def test_two_that_publish_at_once_do_not_mix(
    folder_place: Place, artifact: Path, paper_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish_meanwhile(*arguments: Any) -> None:
        monkeypatch.undo()
        published(folder_place, artifact, paper_model)

    monkeypatch.setattr(publishing, "_upload", publish_meanwhile)
    with pytest.raises(StorageError, match=r"another process has published s3://bucket/results/\S+ meanwhile"):
        published(folder_place, artifact, paper_model)
    assert f"{run_folder(folder_place)}/manifest.json" in objects_of(folder_place)


def zero_adapter() -> dict[str, NDArray[np.float32]]:
    return {name: tensor * ("lora_A" in name) for name, tensor in adapter_tensors().items()}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "the adapter is empty"),
        (zero_adapter(), "the adapter is zero: training has changed nothing"),
        ({name: tensor * np.nan for name, tensor in adapter_tensors().items()}, "holds NaN or infinity"),
    ],
    ids=["empty", "zero", "NaN"],
)
def test_a_wrong_adapter_is_withdrawn(
    place: Place, tmp_path: Path, paper_model: Path, tensors: dict[str, NDArray[np.float32]], message: str
) -> None:
    with pytest.raises(VerificationFailed, match=message):
        published(place, write_adapter(tmp_path / "artifact", tensors), paper_model)
    assert not [key for key in place.keys("results") if key.endswith(("manifest.json", "latest.json"))]


def test_a_failed_publication_withdraws_the_one_before(
    folder_place: Place, tmp_path: Path, artifact: Path, paper_model: Path
) -> None:
    published(folder_place, artifact, paper_model)
    with pytest.raises(VerificationFailed):
        published(folder_place, write_adapter(tmp_path / "artifact", zero_adapter()), paper_model)
    assert f"{run_folder(folder_place)}/manifest.json" not in objects_of(folder_place)


def test_a_model_that_lacks_a_tensor_is_withdrawn(folder_place: Place, tmp_path: Path, paper_model: Path) -> None:
    folder = write_paper_model(tmp_path / "trained")
    tensors = model_tensors()
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(VerificationFailed, match=r"lacks the base model's tensor model.norm.weight"):
        published(folder_place, folder, paper_model, Kind.MODEL)
    assert f"{run_folder(folder_place)}/manifest.json" not in objects_of(folder_place)


def test_an_artifact_without_its_configuration_is_withdrawn(
    folder_place: Place, artifact: Path, paper_model: Path
) -> None:
    (artifact / "adapter_config.json").unlink()
    with pytest.raises(VerificationFailed, match=r"the artifact has no adapter_config.json"):
        published(folder_place, artifact, paper_model)
    assert f"{run_folder(folder_place)}/manifest.json" not in objects_of(folder_place)


class ForgetfulStore:
    """A store that damages one object on its way back."""

    def __init__(self, store: ObjectStore, name: str, damage: bytes | None) -> None:
        self._store, self._name, self._damage = store, name, damage

    def stat(self, location: S3Location) -> StoredObject | None:
        lost = self._damage is None and location.key.endswith(self._name)
        return None if lost else self._store.stat(location)

    def objects(self, prefix: S3Location) -> Iterator[StoredObject]:
        return self._store.objects(prefix)

    def chunks(self, location: S3Location) -> Iterator[bytes]:
        damaged = location.key.endswith(self._name) and self._damage is not None
        return iter([self._damage or b""]) if damaged else self._store.chunks(location)

    def read(self, location: S3Location, start: int = 0, length: int | None = None) -> bytes:
        return self._store.read(location, start, length)

    def upload(self, path: Path, location: S3Location) -> None:
        self._store.upload(path, location)

    def put(self, location: S3Location, content: bytes) -> None:
        self._store.put(location, content)

    def put_new(self, location: S3Location, content: bytes) -> bool:
        return self._store.put_new(location, content)

    def abort_uploads(self, prefix: S3Location) -> int:
        return self._store.abort_uploads(prefix)

    def delete(self, location: S3Location) -> None:
        self._store.delete(location)


@pytest.mark.parametrize(
    ("damage", "message"), [(b"x" * 1000, "was read back with another SHA-256"), (None, "is not there")]
)
def test_what_the_store_loses_is_noticed(
    folder_place: Place,
    artifact: Path,
    paper_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: bytes | None,
    message: str,
) -> None:
    plan = folder_place.plan(prepared=prepared_of(folder_place))
    store = ForgetfulStore(store_of(plan, "output", folder_place.environment), "adapter_model.safetensors", damage)
    monkeypatch.setattr(publishing, "store_of", lambda *arguments: store)
    with pytest.raises(VerificationFailed) as failed:
        publish(plan, folder_place.environment, artifact, Kind.ADAPTER, paper_model, None, RECORD)
    assert failed.value.message == (
        f"the published file s3://bucket/{run_folder(folder_place)}/adapter_model.safetensors {message}"
    )
    assert f"{run_folder(folder_place)}/manifest.json" not in objects_of(folder_place)


def test_a_plan_that_was_not_prepared_cannot_be_published(
    folder_place: Place, artifact: Path, paper_model: Path
) -> None:
    with pytest.raises(TrainerError, match="has no prepared run"):
        publish(folder_place.plan(), folder_place.environment, artifact, Kind.ADAPTER, paper_model, None, RECORD)
