"""What a user means by an artifact: a job's name, an s3:// folder, or a folder of this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.spec import AddressingStyle
from finetune_api.uris import S3Location
from finetune_cli import jobview
from finetune_cli.documents import Object, text_at
from finetune_cli.errors import MissingObjectError, UsageError
from finetune_cli.store.artifact import PublishedArtifact, find_artifact, location_of
from finetune_cli.store.folder import FolderStore
from finetune_cli.store.interface import Access, Store

FindJob = Callable[[str], Object]


@dataclass(frozen=True)
class Reference:
    """Where an artifact is, and what is known of it from its job.

    Attributes:
        title: what to call it.
        location: its folder, or that of its job.
        access: how the store is reached.
        digest: ``status.artifact.manifestDigest`` of the job; None when no job was asked.
    """

    title: str
    location: S3Location
    access: Access
    digest: str | None = None

    def place(self, artifact: PublishedArtifact) -> str:
        """Where an artifact is, in the user's terms: its URI, or the folder of this machine."""
        local = not is_job_name(self.title) and "://" not in self.title
        return self.title if local else str(artifact.location)


def is_job_name(text: str) -> bool:
    """Whether a reference names a job. A folder of this machine has a slash or a dot in it."""
    return "://" not in text and "/" not in text and not text.startswith(".")


def resolve(text: str, store_url: str | None, find_job: FindJob) -> Reference:
    """Reads a reference.

    Args:
        text: a job's name, ``s3://bucket/prefix`` or a path.
        store_url: endpoint or ``file:///folder`` in place of the job's endpoint.
        find_job: gives the job of a name.

    Raises:
        UsageError: it is none of them, or there is no such folder.
        MissingObjectError: the job has published nothing.
    """
    if is_job_name(text):
        return _of_job(find_job(text), store_url)
    if "://" in text:
        return Reference(text, location_of(text), Access(store_url))
    folder = Path(text).resolve()
    if not folder.is_dir():
        raise UsageError(f"{text}: there is no such folder")
    return Reference(text, S3Location(folder.name, ""), Access(f"file://{folder.parent}"))


def _of_job(job: Object, store_url: str | None) -> Reference:
    name, uri = jobview.name_of(job), text_at(job, "status", "artifact", "uri")
    if not uri:
        raise MissingObjectError(
            f"{name} has published nothing: it is {jobview.state_of(job)}; kubectl finetune describe {name} says why"
        )
    return Reference(
        name, location_of(uri), access_of(job, store_url), text_at(job, "status", "artifact", "manifestDigest")
    )


def access_of(job: Object, store_url: str | None) -> Access:
    """How the output of a job is reached."""
    styles: dict[str, Any] = {style.value: style for style in AddressingStyle}
    style = styles.get(text_at(job, "spec", "output", "s3", "addressingStyle"), AddressingStyle.AUTO)
    endpoint, region = (text_at(job, "spec", "output", "s3", name) or None for name in ("endpointURL", "region"))
    return Access(store_url or endpoint, region, style)


def open_store(access: Access) -> Store:
    """Opens a store; nothing is asked of it before the first call."""
    if access.endpoint and access.endpoint.startswith("file://"):
        return FolderStore(Path(access.endpoint.removeprefix("file://")))
    # Imported here: the S3 client is the heaviest library of the command line.
    from finetune_cli.store.s3 import S3Store

    return S3Store(access)


def opened(reference: Reference) -> tuple[Store, PublishedArtifact]:
    """The store and the artifact of a reference.

    Raises:
        StoreError: it cannot be read, or nothing is published there.
    """
    store = open_store(reference.access)
    return store, find_artifact(store, reference.location)
