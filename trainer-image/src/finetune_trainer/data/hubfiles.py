"""Data files of a dataset repository on a Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from finetune_api.plan import RunPlan
from finetune_api.uris import HubFiles
from finetune_trainer.data.filekinds import kind_in_folder
from finetune_trainer.models.hub import HubSource, find_hub_data
from finetune_trainer.storage.digests import file_sha256
from finetune_trainer.storage.interface import CHUNK_BYTES


@dataclass(frozen=True)
class HubFile:
    """A file of a repository. It is on this machine's disk only while it is read."""

    hub: HubSource
    repository: str
    name: str
    folder: Path

    @property
    def uri(self) -> str:
        return f"hf://{self.repository}/{self.name}"

    def sha256(self) -> str:
        known = self.hub.weight_sha256(self.name)
        if known:
            return known
        path = self._placed()
        try:
            return file_sha256(path)
        finally:
            path.unlink()

    def chunks(self) -> Iterator[bytes]:
        path = self._placed()
        try:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        finally:
            path.unlink(missing_ok=True)

    def _placed(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.hub.place([self.name], self.folder)
        return self.folder / self.name


class FoundOnHub(NamedTuple):
    """What a location of a repository stands for, at one commit."""

    exact: HubFile | None
    below: Mapping[str, HubFile]
    revision: str


def hub_files(
    plan: RunPlan,
    environment: Mapping[str, str],
    location: HubFiles,
    revision: str | None,
    field: str,
    scratch: Path,
) -> FoundOnHub:
    """The file that a location names, or else the files below it by name, and the commit.

    Raises:
        UserError, StorageError: see :func:`finetune_trainer.models.hub.find_hub_data`.
    """
    hub = find_hub_data(plan, environment, location.repository, revision, field)
    files = {name: HubFile(hub, location.repository, name, scratch / "hub") for name in hub.names}
    if location.path in files:
        return FoundOnHub(files[location.path], {}, hub.revision)
    prefix = f"{location.path}/" if location.path else ""
    below = {name.removeprefix(prefix): file for name, file in files.items() if name.startswith(prefix)}
    return FoundOnHub(None, {name: file for name, file in below.items() if kind_in_folder(name)}, hub.revision)
