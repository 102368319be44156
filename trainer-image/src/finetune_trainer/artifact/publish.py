"""Publishing: upload, manifest last, read everything back, and only then point the job's newest run at it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Set
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from finetune_api.layout import MANIFEST, run_prefix
from finetune_api.plan import OUTPUT, RunPlan
from finetune_api.results import Artifact, EvaluationResult, Prepared
from finetune_api.runid import training_definition
from finetune_api.uris import S3Location
from finetune_trainer.artifact.latest import point_latest
from finetune_trainer.artifact.manifest import Kind, Manifest, ManifestFile, artifact_of, describe_files
from finetune_trainer.artifact.verify import (
    Shapes,
    TensorFacts,
    check_adapter,
    check_index,
    check_model,
    check_names,
)
from finetune_trainer.errors import NotSafetensors, StorageError, TrainerError, VerificationFailed
from finetune_trainer.models.modelfiles import ADAPTER_CONFIG, CONFIG, WEIGHTS_INDEX
from finetune_trainer.models.safetensors_header import read_file_header
from finetune_trainer.models.sources import base_model_name
from finetune_trainer.models.tensors import TensorScan
from finetune_trainer.storage.interface import ObjectStore
from finetune_trainer.storage.stores import store_of

logger = logging.getLogger(__name__)

_SAFETENSORS = ".safetensors"
# How often a file is read that comes back damaged.
_READS = 3
_DAMAGED = "check the store, then run the job again"


def publish(
    plan: RunPlan,
    environment: Mapping[str, str],
    folder: Path,
    kind: Kind,
    base_model: Path,
    evaluation: EvaluationResult | None,
    record: Mapping[str, Any],
    streamed: tuple[ManifestFile, ...] = (),
) -> Artifact:
    """Publishes every file of a folder as the artifact of the plan's run, and verifies what arrived.

    ``base_model`` is the folder of the base model on this machine; ``record`` is what the manifest tells of how the
    run was made; ``streamed`` are the files that are in the store already. Publishing the same run again replaces it.

    Raises:
        VerificationFailed: what was read back is not right; then there is no manifest and nobody adopts it.
        StorageError, UserError: the output cannot be written.
    """
    prepared = _prepared(plan)
    store = store_of(plan, OUTPUT, environment)
    prefix = artifact_prefix(plan, prepared)
    files = sorted((*describe_files(folder), *streamed), key=lambda file: file.name)
    manifest = _manifest(plan, prepared, kind, tuple(files), evaluation, record)
    content = json.dumps(manifest.to_wire(), indent=2, ensure_ascii=False).encode()
    # An older manifest must not vouch for a mixture of old and new files.
    store.delete(prefix.child(MANIFEST))
    _upload(store, folder, prefix, manifest, {file.name for file in streamed})
    if not store.put_new(prefix.child(MANIFEST), content):
        raise StorageError(
            f"another process has published {prefix} meanwhile", "run the job again: it adopts the result"
        )
    try:
        verify(store, prefix, manifest, base_shapes(base_model))
        if store.read(prefix.child(MANIFEST)) != content:
            raise VerificationFailed(f"{prefix}/{MANIFEST} was read back with another content", _DAMAGED)
    except VerificationFailed:
        store.delete(prefix.child(MANIFEST))
        raise
    artifact = artifact_of(manifest, content, prefix)
    point_latest(store, plan, artifact, prepared.run_id)
    logger.info("published and verified %s: %d files, %d bytes", prefix, artifact.files, artifact.total_bytes)
    return artifact


def _prepared(plan: RunPlan) -> Prepared:
    if plan.prepared is None:
        raise TrainerError("the plan of an artifact has no prepared run", "run the prepare stage first")
    return plan.prepared


def _manifest(
    plan: RunPlan,
    prepared: Prepared,
    kind: Kind,
    files: tuple[ManifestFile, ...],
    evaluation: EvaluationResult | None,
    record: Mapping[str, Any],
) -> Manifest:
    held_out = prepared.validation.digest if prepared.validation else None
    return Manifest(
        run_id=prepared.run_id,
        kind=kind,
        created=datetime.now(UTC),
        base_model=base_model_name(plan.spec),
        model_digest=prepared.model_digest,
        model_revision=prepared.model_revision,
        definition=training_definition(
            plan.spec,
            prepared.model_digest,
            prepared.train.digest,
            held_out,
            prepared.reference.digest if prepared.reference else None,
        ),
        evaluation=evaluation,
        record=dict(record),
        files=files,
    )


def artifact_prefix(plan: RunPlan, prepared: Prepared) -> S3Location:
    """Where the artifact of a plan's run belongs."""
    return run_prefix(plan.spec.output.destination, plan.job.namespace, plan.job.name, prepared.run_id)


def _upload(store: ObjectStore, folder: Path, prefix: S3Location, manifest: Manifest, there: Set[str]) -> None:
    wanted = {prefix.child(file.name): folder / file.name for file in manifest.files}
    # What an attempt that died left behind is no part of this artifact.
    for stray in [found.location for found in store.objects(prefix) if found.location not in wanted]:
        store.delete(stray)
    for location, path in wanted.items():
        if path.name not in there:
            store.upload(path, location)
    # Last, since an upload goes on with what an attempt that died had sent of the same file.
    store.abort_uploads(prefix)


def base_shapes(folder: Path) -> Shapes:
    """Shapes of the base model's tensors by name, from the headers of its files."""
    return {
        name: tensor.shape
        for path in sorted(folder.glob(f"*{_SAFETENSORS}"))
        for name, tensor in read_file_header(path).items()
    }


def verify(store: ObjectStore, prefix: S3Location, manifest: Manifest, base: Shapes) -> None:
    """Reads every file of an artifact back and checks it; see :mod:`finetune_trainer.artifact.verify`.

    Raises:
        VerificationFailed: it is not what was trained.
    """
    tensors: dict[str, TensorFacts] = {}
    places: dict[str, str] = {}
    documents: dict[str, Any] = {}
    adapter = manifest.kind is Kind.ADAPTER
    check_names([file.name for file in manifest.files], adapter)
    for file in manifest.files:
        location = prefix.child(file.name)
        if file.name.endswith(_SAFETENSORS):
            facts = _tensor_facts(_read_back(store, location, file, partial(TensorScan, file.size)), file.name)
            tensors |= facts
            places |= dict.fromkeys(facts, file.name)
        elif file.name in (ADAPTER_CONFIG, CONFIG, WEIGHTS_INDEX):
            documents[file.name] = json.loads(_read_back(store, location, file, _Document).content)
        else:
            _read_back(store, location, file, _Passing)
    if adapter:
        check_adapter(tensors, documents[ADAPTER_CONFIG], base, manifest.base_model)
        return
    check_model(tensors, documents[CONFIG], base)
    if WEIGHTS_INDEX in documents:
        check_index(documents[WEIGHTS_INDEX], places)


class _Passing:
    """A file of which nothing but its digest is wanted."""

    def feed(self, content: bytes) -> None:
        """Takes the next bytes."""


class _Document(_Passing):
    """A small file that is wanted whole."""

    def __init__(self) -> None:
        self.content = bytearray()

    def feed(self, content: bytes) -> None:
        self.content += content


_Taker = TypeVar("_Taker", bound=_Passing | TensorScan)


def _read_back(store: ObjectStore, location: S3Location, file: ManifestFile, begin: Callable[[], _Taker]) -> _Taker:
    """Reads a file in pieces, checks it, and gives what was made of the pieces."""
    found = store.stat(location)
    if found is None or found.size != file.size:
        what = "is not there" if found is None else f"has {found.size} bytes instead of {file.size}"
        raise VerificationFailed(f"the published file {location} {what}", _DAMAGED)
    for left in reversed(range(_READS)):
        taker, digest = begin(), hashlib.sha256()
        try:
            for chunk in store.chunks(location):
                digest.update(chunk)
                taker.feed(chunk)
        except StorageError:
            # What was read wrong may be right the next time.
            if not left:
                raise
            continue
        if digest.hexdigest() == file.sha256:
            return taker
    raise VerificationFailed(f"the published file {location} was read back with another SHA-256", _DAMAGED)


def _tensor_facts(scan: TensorScan, name: str) -> dict[str, TensorFacts]:
    try:
        return {key: TensorFacts(seen.info.shape, seen.finite, seen.zero) for key, seen in scan.tensors().items()}
    except NotSafetensors as error:
        raise VerificationFailed(f"the published {name} is damaged: {error.reason}", _DAMAGED) from error
