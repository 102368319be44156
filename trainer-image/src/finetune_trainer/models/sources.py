"""Base models from an object store, a claim or a hub: found, checked, digested and placed in a folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from finetune_api.plan import MODEL, RunPlan
from finetune_api.spec import FineTuneJobSpec
from finetune_api.uris import ClaimLocation, HubModel, S3Location, parse_source
from finetune_trainer.errors import NotSafetensors, UserError
from finetune_trainer.models.modelfiles import (
    CONFIG,
    DEFINING,
    WEIGHTS_INDEX,
    Json,
    check_configs,
    check_names,
    parse_json,
    weight_files,
)
from finetune_trainer.models.safetensors_header import HEADER_LENGTH_BYTES, TensorInfo, read_file_header, read_header
from finetune_trainer.storage.digests import DigestMemory, digest_of_files, file_sha256
from finetune_trainer.storage.interface import StoredObject
from finetune_trainer.storage.s3 import store_of


class ModelSource(Protocol):
    """Where a model's files are. Names are of files directly in the model's folder."""

    @property
    def revision(self) -> str | None:
        """Commit of a hub's model, None elsewhere."""

    @property
    def names(self) -> Collection[str]:
        """Every file that is there."""

    def place(self, names: Collection[str], folder: Path) -> None:
        """Puts files, or links to them, into an existing folder."""

    def weight_sha256(self, name: str) -> str | None:
        """Hexadecimal SHA-256 of a large file without placing it; None when that takes its content."""

    def weight_header(self, name: str) -> Mapping[str, TensorInfo] | None:
        """Header of a safetensors file without placing it, or None when that takes its content.

        Raises:
            NotSafetensors: it is no complete safetensors file.
        """


@dataclass(frozen=True)
class Model:
    """A model whose small files are in ``folder`` and whose weights are still where they were."""

    source: ModelSource
    folder: Path
    small: tuple[str, ...]
    weights: tuple[str, ...]
    config: Json

    def digest(self) -> str:
        """Digest of every file that defines the model."""
        sha256 = {name: file_sha256(self.folder / name) for name in self.small}
        return digest_of_files(sha256 | {name: self._weight_sha256(name) for name in self.weights})

    def _weight_sha256(self, name: str) -> str:
        known = self.source.weight_sha256(name)
        if known is None:
            self.source.place([name], self.folder)
            known = file_sha256(self.folder / name)
        return known


def open_model(plan: RunPlan, environment: Mapping[str, str], folder: Path) -> Model:
    """Finds the base model, places its small files in a folder and checks everything that can be known of it.

    Raises:
        UserError: there is no usable model; the message names the field.
        StorageError: its place cannot be reached.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uri, source = plan.spec.model.source, find_model(plan, environment)
    check_names(uri, source.names)
    small = tuple(name for name in DEFINING if name in source.names)
    source.place(small, folder)
    index = (folder / WEIGHTS_INDEX).read_bytes() if WEIGHTS_INDEX in small else None
    configs = {
        name: parse_json(uri, name, (folder / name).read_bytes())
        for name in (CONFIG, "tokenizer_config.json")
        if name in small
    }
    check_configs(uri, configs)
    weights = weight_files(uri, source.names, index)
    _check_weights(uri, source, weights)
    return Model(source, folder, small, weights, configs[CONFIG])


def _check_weights(uri: str, source: ModelSource, weights: Collection[str]) -> None:
    for name in weights:
        try:
            source.weight_header(name)
        except NotSafetensors as error:
            raise UserError(
                f"{uri} of spec.model.source is no model: {name} is no safetensors file: {error.reason}",
                "copy the model again, whole",
            ) from error


def fetch_model(plan: RunPlan, environment: Mapping[str, str], into: Path) -> Path:
    """Places the whole base model in a folder, from which ``from_pretrained`` can load it, and returns the folder.

    Raises:
        UserError: there is no usable model, or it is no longer the one that was prepared.
        StorageError: its place cannot be reached.
    """
    model = open_model(plan, environment, into)
    if plan.prepared and model.digest() != plan.prepared.model_digest:
        raise UserError(
            f"{plan.spec.model.source} of spec.model.source has changed since the job was prepared",
            "create the job again, so that its run ID stands for the model as it is now",
        )
    model.source.place([name for name in model.weights if not (into / name).exists()], into)
    return into


def base_model_name(spec: FineTuneJobSpec) -> str:
    """Public id of the base model, as the adapter and the model card give it."""
    return spec.model.name or spec.model.source.removeprefix("hf://")


def find_model(plan: RunPlan, environment: Mapping[str, str]) -> ModelSource:
    """The place that ``spec.model.source`` names."""
    match parse_source(plan.spec.model.source):
        case S3Location() as prefix:
            return StoredModel(plan, environment, prefix)
        case ClaimLocation(claim, path):
            return FolderModel(Path(plan.claims[claim]) / path)
        case HubModel(repository):
            # Imported here: the hub's client takes longer to load than prepare may take for an s3:// model.
            from finetune_trainer.models.hub import find_hub_model

            return find_hub_model(plan, environment, repository)


class StoredModel:
    """A model below a prefix of an object store."""

    revision = None

    def __init__(self, plan: RunPlan, environment: Mapping[str, str], prefix: S3Location) -> None:
        self._store = store_of(plan, MODEL, environment)
        self._endpoint = plan.stores[MODEL].endpoint_url
        self._memory = DigestMemory(plan, environment)
        self._objects: dict[str, StoredObject] = {}
        for found in self._store.objects(prefix):
            name = found.location.key.removeprefix(prefix.key).lstrip("/")
            if "/" not in name:
                self._objects[name] = found

    @property
    def names(self) -> Collection[str]:
        return self._objects.keys()

    def place(self, names: Collection[str], folder: Path) -> None:
        for name in names:
            self._store.download(self._objects[name].location, folder / name)

    def weight_sha256(self, name: str) -> str:
        return self._memory.sha256(self._store, self._endpoint, self._objects[name])

    def weight_header(self, name: str) -> Mapping[str, TensorInfo]:
        found = self._objects[name]
        if found.size < HEADER_LENGTH_BYTES:
            # A range beyond the end of an object is an error of its own.
            raise NotSafetensors("it does not begin with the length of a header")
        return read_header(lambda start, length: self._store.read(found.location, start, length), found.size)


class FolderModel:
    """A model in a mounted folder."""

    revision = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        files = (path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else ()
        self._names = frozenset(path.name for path in files)

    @property
    def names(self) -> Collection[str]:
        return self._names

    def place(self, names: Collection[str], folder: Path) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to((self._folder / name).resolve())

    def weight_sha256(self, name: str) -> str:
        return file_sha256(self._folder / name)

    def weight_header(self, name: str) -> Mapping[str, TensorInfo]:
        return read_file_header(self._folder / name)
