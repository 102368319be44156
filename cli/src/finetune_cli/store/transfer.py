"""Downloads and verifies artifacts: every byte against the SHA-256 in manifest.json."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from finetune_api.layout import MANIFEST
from finetune_cli.errors import DamagedArtifactError, StoreError, UsageError
from finetune_cli.store.artifact import ArtifactFile, PublishedArtifact
from finetune_cli.store.interface import CHUNK_BYTES, NotThere, Store

# Beside the file it becomes, so that a download that broke off goes on where it was.
_PARTIAL = ".partial"

Moved = Callable[[int], None]


def verify(store: Store, artifact: PublishedArtifact, moved: Moved) -> dict[str, str]:
    """Reads every file of an artifact again; what is wrong with each that is not as listed.

    Args:
        store: where it is.
        artifact: what should be there.
        moved: called with the number of bytes each time some have been read.
    """
    found = {file.name: _fault(store, artifact, file, moved) for file in artifact.files}
    return {name: fault for name, fault in found.items() if fault}


def _fault(store: Store, artifact: PublishedArtifact, file: ArtifactFile, moved: Moved) -> str:
    digest, size = hashlib.sha256(), 0
    try:
        for chunk in store.chunks(artifact.location.child(file.name)):
            digest.update(chunk)
            size += len(chunk)
            moved(len(chunk))
    except NotThere:
        return "is missing"
    if size != file.size:
        return f"has {size} bytes instead of {file.size}"
    return "" if digest.hexdigest() == file.sha256 else "has another SHA-256 than the manifest says"


def download(store: Store, artifact: PublishedArtifact, folder: Path, moved: Moved) -> int:
    """Copies an artifact into a folder, manifest last. What is there already and intact is not fetched again; a file
    that broke off goes on where it was.

    Returns:
        Bytes that were fetched.

    Raises:
        UsageError: the folder holds something else.
        DamagedArtifactError: a file is not what the manifest says.
    """
    _check_folder(folder, artifact)
    fetched = sum(_fetch(store, artifact, file, folder / file.name, moved) for file in artifact.files)
    (folder / MANIFEST).write_bytes(artifact.content)
    return fetched


def _check_folder(folder: Path, artifact: PublishedArtifact) -> None:
    """Files of two artifacts in one folder would pass for one."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is no folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be made: {error.strerror}; name another with --output") from error
    known = folder / MANIFEST
    if known.exists() and known.read_bytes() != artifact.content:
        raise UsageError(f"{folder} holds another artifact; name an empty folder with --output")


def _fetch(store: Store, artifact: PublishedArtifact, file: ArtifactFile, target: Path, moved: Moved) -> int:
    if target.is_file() and target.stat().st_size == file.size and _sha256(target) == file.sha256:
        moved(file.size)
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + _PARTIAL)
    partial.touch()
    if partial.stat().st_size > file.size:
        partial.write_bytes(b"")
    start = partial.stat().st_size
    moved(start)
    _complete(store, artifact, file, partial, moved)
    if _sha256(partial) != file.sha256:
        partial.unlink()
        raise DamagedArtifactError(
            f"{artifact.location.child(file.name)} is not what its manifest says; run the command again to fetch that "
            "file anew, and kubectl finetune artifacts verify to check the artifact"
        )
    partial.replace(target)
    return file.size - start


def _complete(store: Store, artifact: PublishedArtifact, file: ArtifactFile, partial: Path, moved: Moved) -> None:
    """Fetches what a partial file lacks. A connection that breaks is made again as long as each brings something."""
    while (start := partial.stat().st_size) < file.size:
        try:
            _append(store, artifact, file, partial, moved)
        except NotThere:
            raise
        except StoreError:
            if partial.stat().st_size == start:
                raise
        else:
            return


def _append(store: Store, artifact: PublishedArtifact, file: ArtifactFile, partial: Path, moved: Moved) -> None:
    with partial.open("ab") as output:
        for chunk in store.chunks(artifact.location.child(file.name), output.tell()):
            output.write(chunk)
            moved(len(chunk))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
