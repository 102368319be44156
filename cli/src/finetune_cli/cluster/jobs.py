"""What the commands ask of a cluster, in terms of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune_api import API_VERSION, GROUP, KIND
from finetune_cli.cluster.calls import EVENTS, PODS
from finetune_cli.documents import Object, object_at, text_at
from finetune_cli.errors import ClusterError
from finetune_cli.jobview import event_time

if TYPE_CHECKING:
    from finetune_cli.cluster.kube import Kube

# The operator labels what belongs to a job with its name and uid: a job of that name from before is another one.
JOB_LABEL, UID_LABEL = f"{GROUP}/job", f"{GROUP}/job-uid"


def events_of(kube: Kube, job: Object) -> list[Object] | None:
    """Events about a job, oldest first; None when they may not be read, which is no reason to show nothing else."""
    metadata = object_at(job, "metadata")
    try:
        found = kube.list(EVENTS, text_at(metadata, "namespace"))
    except ClusterError:
        return None
    about = [event for event in found if text_at(event, "regarding", "uid") == text_at(metadata, "uid")]
    return sorted(about, key=lambda event: str(event_time(event) or ""))


def pods_of(kube: Kube, job: Object) -> list[Object]:
    """Pods of a job that still exist, of all its stages and attempts."""
    metadata = object_at(job, "metadata")
    selector = f"{JOB_LABEL}={text_at(metadata, 'name')},{UID_LABEL}={text_at(metadata, 'uid')}"
    return kube.list(PODS, text_at(metadata, "namespace"), selector)


def change(job: Object, spec: Object) -> Object:
    """A merge patch of a job's spec that holds for this very object, not for another one of its name."""
    metadata = {name: text_at(job, "metadata", name) for name in ("name", "namespace", "uid")}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}
