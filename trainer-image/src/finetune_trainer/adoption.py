"""Adoption: a run that is published and intact is not trained again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from finetune_api.layout import MANIFEST, run_prefix
from finetune_api.plan import OUTPUT, RunPlan
from finetune_api.results import Artifact, EvaluationResult
from finetune_api.uris import S3Location
from finetune_trainer.digests import DigestMemory
from finetune_trainer.manifest import FORMAT, Manifest, artifact_of
from finetune_trainer.publish import point_latest
from finetune_trainer.storage import store_of
from finetune_trainer.stores import ObjectStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """A published run."""

    artifact: Artifact
    evaluation: EvaluationResult | None


def find_published(plan: RunPlan, environment: Mapping[str, str], run_id: str) -> Published | None:
    """The artifact of a run, when it is published and every file of it is there and unchanged; None otherwise.

    Raises:
        StorageError, UserError: the output cannot be read.
    """
    store = store_of(plan, OUTPUT, environment)
    prefix = run_prefix(plan.spec.output.destination, plan.job.namespace, plan.job.name, run_id)
    if store.stat(prefix.child(MANIFEST)) is None:
        return None
    content = store.read(prefix.child(MANIFEST))
    try:
        manifest = _intact(plan, environment, store, prefix, content, run_id)
    except _NotAdopted as reason:
        logger.warning("%s is published but not adopted, so the run is trained again: %s", prefix, reason)
        return None
    artifact = artifact_of(manifest, content, prefix)
    point_latest(store, plan, artifact, run_id)
    return Published(artifact, manifest.evaluation)


class _NotAdopted(Exception):
    """Why a published run is trained again."""


def _intact(
    plan: RunPlan,
    environment: Mapping[str, str],
    store: ObjectStore,
    prefix: S3Location,
    content: bytes,
    run_id: str,
) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise _NotAdopted(f"{MANIFEST} is not readable") from error
    if manifest.run_id != run_id or manifest.format != FORMAT:
        raise _NotAdopted(f"{MANIFEST} is of run {manifest.run_id}, format {manifest.format}")
    memory, endpoint = DigestMemory(plan, environment), plan.stores[OUTPUT].endpoint_url
    for file in manifest.files:
        found = store.stat(prefix.child(file.name))
        if found is None:
            raise _NotAdopted(f"{file.name} is missing")
        if found.size != file.size or memory.sha256(store, endpoint, found) != file.sha256:
            raise _NotAdopted(f"{file.name} has another content")
    return manifest
