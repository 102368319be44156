"""Base models from an object store, a claim or a hub: found, checked, digested and placed in a folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_api.plan import RunPlan
from finetune_api.results import PinnedWeights
from finetune_api.spec import FineTuneJobSpec
from finetune_api.weights import MODEL
from finetune_trainer.errors import NotSafetensors, UserError
from finetune_trainer.models.modelfiles import (
    CONFIG,
    DEFINING,
    WEIGHTS_INDEX,
    Json,
    check_configs,
    check_names,
    check_size,
    parse_json,
    weight_files,
)
from finetune_trainer.models.modelsource import ModelSource
from finetune_trainer.models.places import find_weights
from finetune_trainer.models.published import Retokenized, StartAdapter, check_manifests
from finetune_trainer.storage.digests import digest_of_files, file_sha256


@dataclass(frozen=True)
class Model:
    """A model whose small files are in ``folder`` and whose weights are still where they were.

    ``adapter`` is one that training starts from.
    """

    source: ModelSource
    folder: Path
    small: tuple[str, ...]
    weights: tuple[str, ...]
    config: Json
    adapter: StartAdapter | None = None

    def digest(self) -> str:
        """Digest of every file that defines the model, those of an adapter on it included."""
        sha256 = {name: file_sha256(self.folder / name) for name in self.small}
        sha256 |= {name: self._weight_sha256(name) for name in self.weights}
        # By names that no file of a model has.
        on_it = self.adapter.sha256().items() if self.adapter else ()
        return digest_of_files({**sha256, **{f"adapter/{name}": value for name, value in on_it}})

    def pinned_adapter(self) -> PinnedWeights | None:
        """The adapter on it, as it was found."""
        if self.adapter is None:
            return None
        return PinnedWeights(digest=digest_of_files(self.adapter.sha256()), revision=self.adapter.files.revision)

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
    check_manifests(plan, environment)
    adapter = StartAdapter.of(plan, environment)
    uri, source = plan.spec.model.source, find_weights(plan, MODEL, environment)
    check_names(uri, source.names)
    if adapter and adapter.retokenizes:
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
    model = Model(source, folder, small, weights, configs[CONFIG], adapter)
    tensors = model.tensor_names()
    if tensors is not None:
        check_size(uri, model.config, len(tensors))
    return model


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
        named = f"{plan.spec.model.source} of spec.model.source"
        if model.adapter and model.pinned_adapter() != plan.prepared.adapter:
            named = model.adapter.named
        raise UserError(
            f"{named} has changed since the job was prepared",
            "create the job again, so that its run ID stands for the model as it is now",
        )
    model.source.place([name for name in model.weights if not (into / name).exists()], into)
    return into


def base_model_name(spec: FineTuneJobSpec) -> str:
    """Public id of the base model, as the adapter and the model card give it."""
    return spec.model.name or spec.model.source.removeprefix("hf://")
