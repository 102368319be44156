"""Models and datasets on a Hugging Face hub, through huggingface_hub. The only module that imports it.

A cache claim is a folder that was HF_HOME somewhere: its ``hub`` folder is read, never written.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import disable_progress_bars

from finetune_api.plan import DATA, HubPlace, RunPlan, data_hub, hub_uses
from finetune_api.weights import MODEL, weight_sources, weights_field
from finetune_trainer.errors import StorageError, TrainerError, UserError
from finetune_trainer.models.safetensors_header import TensorInfo, read_file_header
from finetune_trainer.storage.claims import inside
from finetune_trainer.storage.digests import file_sha256

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class HubFields:
    """Kind of a repository, and the fields of the spec that name it, its revision and how the hub is reached."""

    kind: str
    source: str
    revision: str
    access: str


_MODEL = HubFields("model", "spec.model.source", "spec.model.revision", "spec.model.huggingFace")
_NO_PLACE = HubPlace()


@dataclass(frozen=True)
class Hub:
    """How to reach one repository of a hub, and where the files of a cache claim are."""

    repository: str
    endpoint: str | None
    token: str | None
    cache: Path | None
    fields: HubFields = _MODEL

    def cached(self, name: str, commit: str) -> Path | None:
        """A file of the cache claim, or None.

        Raises:
            UserError: it is a link that leads out of the cache.
        """
        if self.cache is None:
            return None
        found = try_to_load_from_cache(
            self.repository, name, cache_dir=self.cache, revision=commit, repo_type=self.fields.kind
        )
        what = f"{name} of hf://{self.repository} in {self.fields.access}.cacheClaim"
        return inside(self.cache, Path(found), what) if isinstance(found, str) else None

    def cached_folder(self, revision: str) -> Path:
        """Snapshot folder of a branch, tag or commit in the cache claim; its name is the commit.

        Raises:
            LocalEntryNotFoundError: it is not there.
        """
        try:
            found = snapshot_download(
                self.repository,
                repo_type=self.fields.kind,
                revision=revision,
                cache_dir=self.cache,
                local_files_only=True,
            )
        except IncompleteSnapshotError as partial:
            # What is missing may be a README. A missing file that matters is named later.
            found = str(partial.snapshot_path)
        return Path(found)


class HubSource:
    """A repository of a hub at one commit."""

    def __init__(self, hub: Hub, commit: str, lfs_sha256: Mapping[str, str | None]) -> None:
        self._hub = hub
        self._commit = commit
        self._lfs_sha256 = lfs_sha256

    @property
    def revision(self) -> str:
        return self._commit

    @property
    def names(self) -> Collection[str]:
        return self._lfs_sha256.keys()

    def place(self, names: Collection[str], folder: Path) -> None:
        wanted = []
        for name in names:
            cached = self._hub.cached(name, self._commit)
            if cached is None:
                wanted.append(name)
                continue
            (folder / name).unlink(missing_ok=True)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(cached)
        if wanted:
            self._download(wanted, folder)

    def _download(self, names: Collection[str], folder: Path) -> None:
        hub = self._hub
        with _words(hub, self._commit):
            snapshot_download(
                hub.repository,
                repo_type=hub.fields.kind,
                revision=self._commit,
                endpoint=hub.endpoint,
                token=hub.token,
                local_dir=folder,
                allow_patterns=[glob.escape(name) for name in names],
            )
        # When the hub does not answer, snapshot_download is content with whatever the folder holds.
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise _unreachable(hub, f"{absent[0]} could not be downloaded")

    def weight_sha256(self, name: str) -> str | None:
        known = self._lfs_sha256[name]
        cached = self._hub.cached(name, self._commit)
        if known or cached is None:
            return known
        # A cache names the content of large files by its SHA-256.
        return cached.name if _SHA256.fullmatch(cached.name) else file_sha256(cached)

    def weight_header(self, name: str) -> Mapping[str, TensorInfo] | None:
        cached = self._hub.cached(name, self._commit)
        return read_file_header(cached) if cached else None


def find_hub_model(plan: RunPlan, environment: Mapping[str, str], repository: str, use: str = MODEL) -> HubSource:
    """Resolves the revision of the hf:// weights of a use to a commit and lists their files.

    Raises:
        UserError: there is no such model, revision or cached copy, or the token does not open it.
        StorageError: the hub cannot be reached.
    """
    weights, path = weight_sources(plan.spec)[use], weights_field(plan.spec, use)
    own = f"{path}.huggingFace" if weights.hugging_face else "spec.model.huggingFace"
    fields = HubFields("model", f"{path}.source", f"{path}.revision", own)
    known = plan.prepared.revision(use) if plan.prepared else None
    return _open(plan, use, environment, repository, known or weights.revision, fields)


def find_hub_data(
    plan: RunPlan, environment: Mapping[str, str], repository: str, revision: str | None, field: str
) -> HubSource:
    """Resolves the revision of an hf:// dataset to a commit and lists its files; ``field`` is that of the source.

    Raises:
        UserError, StorageError: as :func:`find_hub_model`.
    """
    shared = not plan.spec.dataset.hugging_face and data_hub(plan.spec)
    own = "spec.model.huggingFace" if shared else "spec.dataset.huggingFace"
    fields = HubFields("dataset", f"{field}.source", f"{field}.revision", own)
    return _open(plan, DATA, environment, repository, revision, fields)


def _open(
    plan: RunPlan, use: str, environment: Mapping[str, str], repository: str, revision: str | None, fields: HubFields
) -> HubSource:
    access, place = hub_uses(plan.spec).get(use), plan.hubs.get(use, _NO_PLACE)
    token = environment.get(place.token_variable) if place.token_variable else None
    cache = Path(place.cache) / "hub" if place.cache else None
    hub = Hub(repository, access.endpoint_url if access else None, token, cache, fields)
    return open_hub(hub, revision or "main", bool(access and access.offline))


def open_hub(hub: Hub, revision: str, offline: bool) -> HubSource:
    """Resolves a revision to a commit and lists the files.

    Raises:
        UserError, StorageError: as :func:`find_hub_model`.
    """
    disable_progress_bars()
    with _words(hub, revision):
        return _offline(hub, revision) if offline else _online(hub, revision)


def _offline(hub: Hub, revision: str) -> HubSource:
    folder = hub.cached_folder(revision)
    files = (path for path in folder.rglob("*") if path.is_file())
    return HubSource(hub, folder.name, {path.relative_to(folder).as_posix(): None for path in files})


def _online(hub: Hub, revision: str) -> HubSource:
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    kind = hub.fields.kind
    info = api.repo_info(hub.repository, repo_type=kind, revision=revision, timeout=_TIMEOUT_SECONDS)
    commit = str(info.sha)
    # A model is the top folder of its repository; a dataset has its files anywhere.
    entries = api.list_repo_tree(hub.repository, repo_type=kind, revision=commit, recursive=kind == "dataset")
    files = [entry for entry in entries if isinstance(entry, RepoFile)]
    for file in files:
        _check_path(hub, file.path)
    return HubSource(hub, commit, {file.path: file.lfs.sha256 if file.lfs else None for file in files})


def _check_path(hub: Hub, path: str) -> None:
    """Names of a hub become paths on this machine."""
    if path.startswith("/") or ".." in path.split("/"):
        raise UserError(
            f"hf://{hub.repository} of {hub.fields.source} has a file with the name {path[:200]!r}, which is refused",
            f"correct {hub.fields.source}, or {hub.fields.access}.endpointURL",
        )


@contextmanager
def _words(hub: Hub, revision: str) -> Iterator[None]:
    try:
        yield
    except (HTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise _translated(error, hub, revision) from error


def _translated(error: Exception, hub: Hub, revision: str) -> TrainerError:
    name, where, fields = f"hf://{hub.repository}", hub.endpoint or "the public hub", hub.fields
    match error:
        case GatedRepoError():
            return UserError(
                f"{name} of {fields.source} is gated, and the token in use does not open it",
                f"accept the {fields.kind}'s terms on the hub and name a token in {fields.access}.tokenSecretRef",
            )
        case RepositoryNotFoundError() | HFValidationError():
            return UserError(
                f"{name} of {fields.source} does not exist at {where}, or is private",
                f"correct {fields.source}, or name a token in {fields.access}.tokenSecretRef",
            )
        case RevisionNotFoundError():
            return UserError(
                f"{name} has no revision {revision!r}", f"correct {fields.revision}: a branch, a tag or a full commit"
            )
        case LocalEntryNotFoundError():
            return UserError(
                f"{name} at revision {revision!r} is not in the cache claim, and huggingFace.offline is true",
                f"fill the claim of {fields.access}.cacheClaim, or set {fields.access}.offline to false",
            )
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            return UserError(
                f"{where} refuses the token for {name} (HTTP {error.response.status_code})",
                f"correct the Secret of {fields.access}.tokenSecretRef",
            )
    return _unreachable(hub, str(error) or type(error).__name__)


def _unreachable(hub: Hub, reason: str) -> StorageError:
    access = hub.fields.access
    return StorageError(
        f"{hub.endpoint or 'the public hub'} cannot be reached for hf://{hub.repository}: {reason}",
        f"check the network policy and {access}.endpointURL, or use its cacheClaim with offline: true",
    )
