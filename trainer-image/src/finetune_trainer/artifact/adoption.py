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
from finetune_trainer.artifact.latest import point_latest
from finetune_trainer.artifact.manifest import FORMAT, Manifest, artifact_of
from finetune_trainer.storage.digests import DigestMemory
from finetune_trainer.storage.interface import ObjectStore
from finetune_trainer.storage.stores import store_of

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
    manifest = _parsed(content)
    why: str | None = "its manifest is not readable"
    if manifest:
        why = _mismatch(plan, environment, store, prefix, manifest, run_id)
    if manifest is None or why:
        logger.warning("%s is published but not adopted, so the run is trained again: %s", prefix, why)
        return None
    artifact = artifact_of(manifest, content, prefix)
    point_latest(store, plan, artifact, run_id)
    return Published(artifact, manifest.evaluation)


def _parsed(content: bytes) -> Manifest | None:
    try:
        return Manifest.model_validate_json(content)
    except ValidationError:
        return None


def _mismatch(
    plan: RunPlan,
    environment: Mapping[str, str],
    store: ObjectStore,
    prefix: S3Location,
    manifest: Manifest,
    run_id: str,
) -> str | None:
    """Why the manifest and what is stored do not fit, in words; None when they do."""
    if manifest.run_id != run_id or manifest.format != FORMAT:
        return f"its manifest is of run {manifest.run_id}, format {manifest.format}"
    memory, endpoint = DigestMemory(plan, environment), plan.stores[OUTPUT].endpoint_url
    for file in manifest.files:
        found = store.stat(prefix.child(file.name))
        if found is None:
            return f"{file.name} is missing"
        if found.size != file.size or memory.sha256(store, endpoint, found) != file.sha256:
            return f"{file.name} has another content"
    return None
