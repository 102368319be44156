"""Base models from an object store, a claim or a hub: found, checked, digested and placed in a folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finetune_api.plan import RunPlan
from finetune_api.spec import FineTuneJobSpec
from finetune_api.uris import ClaimLocation, HubModel, JobResult, S3Location, parse_source
from finetune_trainer.errors import NotSafetensors, TrainerError, UserError
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
from finetune_trainer.models.modelsource import ModelSource
from finetune_trainer.models.published import PublishedAdapter, Retokenized, check_manifest
from finetune_trainer.models.safetensors_header import TensorInfo, read_file_header
from finetune_trainer.models.stored import StoredModel
from finetune_trainer.storage.digests import digest_of_files, file_sha256


@dataclass(frozen=True)
class Model:
    """A model whose small files are in ``folder`` and whose weights are still where they were.

    ``adapter`` has the hexadecimal SHA-256 of each file of an adapter on it, by a name that no file of a model has.
    """

    source: ModelSource
    folder: Path
    small: tuple[str, ...]
    weights: tuple[str, ...]
    config: Json
    adapter: Mapping[str, str] = field(default_factory=dict)

    def digest(self) -> str:
        """Digest of every file that defines the model, those of an adapter on it included."""
        sha256 = {name: file_sha256(self.folder / name) for name in self.small}
        sha256 |= {name: self._weight_sha256(name) for name in self.weights}
        return digest_of_files({**sha256, **self.adapter})

    def tensor_names(self) -> frozenset[str] | None:
        """Names of all tensors; None where only the whole files would tell."""
        headers = [self.source.weight_header(name) for name in self.weights]
        known = [header for header in headers if header is not None]
        return frozenset(name for header in known for name in header) if len(known) == len(headers) else None

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
    check_manifest(plan, environment)
    adapter = PublishedAdapter.of(plan, environment)
    uri, source = plan.spec.model.source, find_model(plan, environment)
    check_names(uri, source.names)
    if adapter:
        source = Retokenized(source, adapter)
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
    return Model(source, folder, small, weights, configs[CONFIG], adapter.digests() if adapter else {})


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
        case JobResult() as unresolved:
            raise TrainerError(f"the plan still names {unresolved}", "make the plan from the finished job's status")


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
