"""Names of everything that is written to object storage."""

from __future__ import annotations

from finetune_api.uris import S3Location, parse_destination

MANIFEST = "manifest.json"
LATEST = "latest.json"
# A job cannot have this name: DNS labels hold no underscore.
_DATA = "_data"
_PROBE = "_probe"
_DIGESTS = "_digests"
_CHECKPOINTS = "_checkpoints"


def job_prefix(destination: str, namespace: str, name: str) -> S3Location:
    """Folder of one job: its runs and the pointer to the newest."""
    return parse_destination(destination).child(namespace, name)


def run_prefix(destination: str, namespace: str, name: str, run_id: str) -> S3Location:
    """Folder of one run's artifact; it counts only when its manifest exists."""
    return job_prefix(destination, namespace, name).child(run_id)


def diagnostics_prefix(destination: str, namespace: str, name: str, run_id: str, attempt: int) -> S3Location:
    """Folder of what is kept of an attempt that got stuck."""
    return run_prefix(destination, namespace, name, run_id).child("diagnostics", f"attempt-{attempt}")


def checkpoints_prefix(destination: str, namespace: str, name: str, run_id: str) -> S3Location:
    """Folder of one run's checkpoints. It is the same for every attempt, and for a job that is created again."""
    return job_prefix(destination, namespace, name).child(_CHECKPOINTS, run_id)


def latest_pointer(destination: str, namespace: str, name: str) -> S3Location:
    """Small object that names the newest published run of a job."""
    return job_prefix(destination, namespace, name).child(LATEST)


def data_prefix(destination: str, namespace: str, digest: str) -> S3Location:
    """Folder of tokenized data, named by its content so that jobs of one namespace share it."""
    return parse_destination(destination).child(namespace, _DATA, digest.removeprefix("sha256:"))


def digest_cache(destination: str, namespace: str, key: str) -> S3Location:
    """Remembered content digest of a large object, keyed by what the store says of that object."""
    return parse_destination(destination).child(namespace, _DIGESTS, f"{key}.json")


def probe_object(destination: str, namespace: str, name: str, uid: str) -> S3Location:
    """Object that prepare writes and deletes to prove that the output can be written."""
    return parse_destination(destination).child(namespace, _PROBE, f"{name}-{uid}")
