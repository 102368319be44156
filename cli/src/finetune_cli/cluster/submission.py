"""Changes of jobs on a cluster: submit, suspend, resume and cancel."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from finetune_cli import jobview
from finetune_cli.cluster.calls import JOBS
from finetune_cli.cluster.jobs import change
from finetune_cli.documents import Object, text_at, value_at
from finetune_cli.errors import MissingObjectError, UsageError

if TYPE_CHECKING:
    from finetune_cli.cluster.kube import Kube

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class Change(StrEnum):
    CREATED = "created"
    CONFIGURED = "configured"
    UNCHANGED = "unchanged"


def submitted(kube: Kube, manifest: Object, force: bool, dry_run: bool) -> tuple[Object, Change]:
    """Server-side apply of a manifest: the job as it is then, and what that changed.

    Raises:
        UsageError: the manifest has no name.
        RefusedManifestError: the API server does not take it.
        ClusterError: another manager owns a field of another value, and ``force`` is not set.
    """
    body = _body(manifest, kube.namespace)
    before = _existing(kube, body)
    options = [*([("force", "true")] if force else []), *([("dryRun", "All")] if dry_run else [])]
    after = kube.patch(JOBS, body, APPLY, options)
    if before is None:
        return after, Change.CREATED
    same = value_at(before, "metadata", "generation") == value_at(after, "metadata", "generation")
    return after, Change.UNCHANGED if same else Change.CONFIGURED


def _body(manifest: Object, namespace: str) -> Object:
    """What is sent: without a status, which is the operator's, and with the namespace that is meant."""
    metadata = manifest.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise UsageError("the manifest has no metadata.name")
    named = {"namespace": namespace} | metadata
    # Fields of a copy from a cluster would make the API server take it for an edit of that very object.
    kept = {name: value for name, value in named.items() if name in ("name", "namespace", "labels", "annotations")}
    return {name: value for name, value in manifest.items() if name != "status"} | {"metadata": kept}


def _existing(kube: Kube, body: Object) -> Object | None:
    try:
        return kube.get(JOBS, body["metadata"]["namespace"], body["metadata"]["name"])
    except MissingObjectError:
        return None


def set_suspended(kube: Kube, name: str, suspend: bool) -> str:
    """Suspends or resumes a job, and says what that means for it."""
    job = kube.get(JOBS, kube.namespace, name)
    if jobview.is_final(job):
        return f"{name} is {jobview.state_of(job)} already: there is nothing to {'suspend' if suspend else 'resume'}"
    if bool(value_at(job, "spec", "suspend")) is suspend:
        return f"{name} is {'suspended' if suspend else 'not suspended'} already"
    kube.patch(JOBS, change(job, {"suspend": suspend}), MERGE)
    if manager := jobview.other_manager(job):
        return f"{name} {'suspended' if suspend else 'resumed'}: {manager}, which spec.managedBy names, acts on that"
    if suspend:
        return f"{name} suspended: its pods end and free their resources, until kubectl finetune resume {name}"
    return f"{name} resumed"


def kept_after_cancel(job: Object) -> str:
    """What deleting a job ends, and what stays."""
    destination = text_at(job, "spec", "output", "destination")
    place = f"{destination}/{jobview.namespace_of(job)}/{jobview.name_of(job)}"
    published = text_at(job, "status", "artifact", "uri")
    stays = f"the artifact {published} stays" if published else f"what is in the store below {place} stays"
    return (
        f"cancel deletes {jobview.name_of(job)} ({jobview.state_of(job)}) with its pods, Jobs and ConfigMaps; {stays}, "
        "and the same manifest applied again finds a published result there instead of training anew"
    )
