"""Reads the FineTuneJobs of a manifest file. I/O: files and standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from finetune_api.profile import PROFILE_KIND, FineTuneProfile
from finetune_cli.errors import InvalidManifestError, UsageError
from finetune_cli.manifests import load_documents, select_jobs
from finetune_cli.output import note
from finetune_cli.validation import read_profile


def job_documents(file: str) -> tuple[dict[str, Any], ...]:
    """The FineTuneJobs of a file; what else is in it is left out with a note.

    Raises:
        UsageError: the file cannot be read, is no YAML, or holds no FineTuneJob.
        InvalidManifestError: a FineTuneJob of another API version.
    """
    try:
        found = select_jobs(load_documents(_read(file)))
    except (UsageError, InvalidManifestError) as error:
        error.args = (f"{file}: {error}",)
        raise
    for remark in found.notes:
        note(f"{file}: {remark}")
    return found.jobs


def one_document(file: str, name: str | None, namespace: str | None) -> dict[str, Any]:
    """The one job of a file that is meant, in the namespace that is meant.

    Raises:
        UsageError: none or several match, or the manifest names another namespace.
    """
    manifests = job_documents(file)
    named = [manifest for manifest in manifests if name is None or name_in(manifest) == name]
    if len(named) != 1:
        names = ", ".join(name_in(manifest) for manifest in manifests)
        raise UsageError(f"{file} has {len(named)} matching FineTuneJobs (it holds: {names}); choose one with --name")
    return in_namespace(named[0], namespace)


def in_namespace(manifest: dict[str, Any], namespace: str | None) -> dict[str, Any]:
    """The manifest with the namespace that an option gives it.

    Raises:
        UsageError: the manifest names another one.
    """
    metadata = manifest.get("metadata")
    if not namespace or not isinstance(metadata, dict):
        return manifest
    declared = metadata.get("namespace")
    if declared and namespace != declared:
        raise UsageError(f"--namespace {namespace}: the manifest says {declared}")
    return manifest | {"metadata": metadata | {"namespace": namespace}}


def profile_of(file: str | None, manifest: dict[str, Any]) -> FineTuneProfile | None:
    """The profile of a file, for a job.

    Raises:
        UsageError: the file does not hold one profile, or the job names another one.
        InvalidManifestError: the profile breaks the rules of its definition.
    """
    spec = manifest.get("spec")
    named = ((spec.get("profileRef") if isinstance(spec, dict) else None) or {}).get("name")
    if file is None:
        if named:
            note(
                f"spec.profileRef names {named!r}, which needs --profile FILE here: its defaults and bounds are unknown"
            )
        return None
    try:
        documents = load_documents(_read(file))
    except UsageError as error:
        raise UsageError(f"--profile {file}: {error}") from error
    found = [item for item in documents if isinstance(item, dict) and item.get("kind") == PROFILE_KIND]
    if len(found) != 1:
        raise UsageError(f"--profile {file} has {len(found)} FineTuneProfiles; it must hold one")
    profile = read_profile(found[0], file)
    if named and named != profile.metadata.name:
        raise UsageError(f"--profile {file} is {profile.metadata.name!r}; spec.profileRef names {named!r}")
    if profile.spec.namespace_selector:
        note(f"{file}: namespaceSelector is not looked at, since labels of namespaces need a cluster")
    return profile


def name_in(manifest: dict[str, Any]) -> str:
    """The name that a manifest gives its job; empty where it gives none."""
    metadata = manifest.get("metadata")
    return str(metadata.get("name", "")) if isinstance(metadata, dict) else ""


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"cannot be read: {reason}") from error
