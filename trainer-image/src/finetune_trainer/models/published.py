"""The result of another job, as ``job://`` names it: checked against what that job's status says, and an adapter laid
over its base model."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

from finetune_api.layout import MANIFEST
from finetune_api.plan import ADAPTER, MODEL, RunPlan
from finetune_api.uris import parse_destination
from finetune_trainer.errors import UserError
from finetune_trainer.models.modelfiles import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TOKENIZER_FILES
from finetune_trainer.models.modelsource import ModelSource
from finetune_trainer.models.safetensors_header import TensorInfo
from finetune_trainer.models.stored import StoredModel
from finetune_trainer.storage.s3 import store_of


def check_manifest(plan: RunPlan, environment: Mapping[str, str]) -> None:
    """Checks that the artifact of the job that ``job://`` named is the one of that job's status.

    Raises:
        UserError: it is gone, or another one.
        StorageError: its store cannot be reached.
    """
    upstream = plan.upstream
    if upstream is None:
        return
    store = store_of(plan, ADAPTER if upstream.is_adapter else MODEL, environment)
    place = parse_destination(upstream.uri).child(MANIFEST)
    found = hashlib.sha256(store.read(place)).hexdigest() if store.stat(place) else None
    if f"sha256:{found}" != upstream.manifest_digest:
        raise UserError(
            f"the artifact of the job {upstream.job!r} at {upstream.uri} is no longer what that job published",
            f"run the job {upstream.job!r} again, then this one under another name",
        )


class PublishedAdapter:
    """The adapter that another job published."""

    def __init__(self, files: StoredModel, uri: str) -> None:
        absent = [name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if name not in files.names]
        if absent:
            raise UserError(f"{uri} is no adapter: it has no {absent[0]}", "run the job that published it again")
        self.files = files

    @classmethod
    def of(cls, plan: RunPlan, environment: Mapping[str, str]) -> PublishedAdapter | None:
        """The adapter of a plan; None when it starts from none.

        Raises:
            UserError: it is not there.
            StorageError: its store cannot be reached.
        """
        upstream = plan.upstream
        if upstream is None or not upstream.is_adapter:
            return None
        return cls(StoredModel(plan, environment, parse_destination(upstream.uri), ADAPTER), upstream.uri)

    def digests(self) -> dict[str, str]:
        """Hexadecimal SHA-256 of the files that make the adapter."""
        return {f"adapter/{name}": self.files.weight_sha256(name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)}

    def place(self, folder: Path) -> None:
        """Puts the adapter, alone, into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.files.place([ADAPTER_CONFIG, ADAPTER_WEIGHTS], folder)


class Retokenized:
    """A base model with the tokenizer and chat template that an adapter was trained with."""

    def __init__(self, base: ModelSource, adapter: PublishedAdapter) -> None:
        self._base, self._adapter = base, adapter.files
        self._own = frozenset(name for name in adapter.files.names if name in TOKENIZER_FILES)

    @property
    def revision(self) -> str | None:
        return self._base.revision

    @property
    def names(self) -> Collection[str]:
        return self._own | {name for name in self._base.names if name not in TOKENIZER_FILES}

    def place(self, names: Collection[str], folder: Path) -> None:
        self._adapter.place([name for name in names if name in self._own], folder)
        self._base.place([name for name in names if name not in self._own], folder)

    def weight_sha256(self, name: str) -> str | None:
        return self._base.weight_sha256(name)

    def weight_header(self, name: str) -> Mapping[str, TensorInfo] | None:
        return self._base.weight_header(name)
