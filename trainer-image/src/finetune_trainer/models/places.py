"""Weights in an object store, a claim or a hub: the place that the spec names for a use."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from finetune_api.plan import RunPlan
from finetune_api.uris import ClaimLocation, HubModel, JobResult, S3Location, parse_source
from finetune_api.weights import weight_sources, weights_field
from finetune_trainer.errors import TrainerError
from finetune_trainer.models.modelsource import ModelSource
from finetune_trainer.models.safetensors_header import TensorInfo, read_file_header
from finetune_trainer.models.stored import StoredModel
from finetune_trainer.storage.claims import inside
from finetune_trainer.storage.digests import file_sha256


def find_weights(plan: RunPlan, use: str, environment: Mapping[str, str]) -> ModelSource:
    """The place of the weights of a use, see :mod:`finetune_api.weights`.

    Raises:
        UserError: there is no such place.
        StorageError: it cannot be reached.
    """
    match parse_source(weight_sources(plan.spec)[use].source):
        case S3Location() as prefix:
            return StoredModel(plan, environment, prefix, use)
        case ClaimLocation(claim, path):
            named = f"{weights_field(plan.spec, use)}.source"
            return FolderModel(Path(plan.claims[claim]), path, f"pvc://{claim}/{path} of {named}")
        case HubModel(repository):
            # Imported here: the hub's client takes longer to load than prepare may take for an s3:// model.
            from finetune_trainer.models.hub import find_hub_model

            return find_hub_model(plan, environment, repository, use)
        case JobResult() as unresolved:
            raise TrainerError(f"the plan still names {unresolved}", "make the plan from the finished job's status")


class FolderModel:
    """A model in a mounted folder."""

    revision = None

    def __init__(self, claim: Path, path: str, named: str) -> None:
        """``path`` is that of the model's folder in the claim that is mounted at ``claim``."""
        folder = claim / path
        self._claim, self._folder, self._named = claim, folder, named
        files = (path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else ()
        self._names = frozenset(path.name for path in files)

    @property
    def names(self) -> Collection[str]:
        return self._names

    def place(self, names: Collection[str], folder: Path) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(self._file(name))

    def weight_sha256(self, name: str) -> str:
        return file_sha256(self._file(name))

    def weight_header(self, name: str) -> Mapping[str, TensorInfo]:
        return read_file_header(self._file(name))

    def _file(self, name: str) -> Path:
        return inside(self._claim, self._folder / name, f"{name} of {self._named}")
