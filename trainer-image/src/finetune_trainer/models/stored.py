"""Files of a model or an adapter below a prefix of an object store."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from finetune_api.plan import RunPlan
from finetune_api.uris import S3Location
from finetune_trainer.errors import NotSafetensors
from finetune_trainer.models.safetensors_header import HEADER_LENGTH_BYTES, TensorInfo, read_header
from finetune_trainer.storage.digests import DigestMemory
from finetune_trainer.storage.interface import StoredObject
from finetune_trainer.storage.stores import store_of


class StoredModel:
    """A model below a prefix of an object store."""

    revision = None

    def __init__(self, plan: RunPlan, environment: Mapping[str, str], prefix: S3Location, use: str) -> None:
        self._store = store_of(plan, use, environment)
        self._endpoint = plan.stores[use].endpoint_url
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
