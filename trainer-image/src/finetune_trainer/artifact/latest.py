"""The small object that names the newest published run of a job."""

from __future__ import annotations

import json

from finetune_api.layout import latest_pointer
from finetune_api.plan import RunPlan
from finetune_api.results import Artifact
from finetune_trainer.storage.interface import ObjectStore


def point_latest(store: ObjectStore, plan: RunPlan, artifact: Artifact, run_id: str) -> None:
    """Points the job's newest run at an artifact."""
    pointer = {"runID": run_id, "uri": artifact.uri, "manifestDigest": artifact.manifest_digest}
    place = latest_pointer(plan.spec.output.destination, plan.job.namespace, plan.job.name)
    store.put(place, json.dumps(pointer, indent=2).encode())
