"""Tokenized data in the output store: named by everything that it was made from, made once, used by every later run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from pydantic import ValidationError

from finetune_api.layout import data_prefix
from finetune_api.plan import OUTPUT, RunPlan
from finetune_api.runid import canonical_json, sha256_digest
from finetune_api.spec import FineTuneJobSpec, TooLong
from finetune_api.uris import S3Location
from finetune_trainer.data.datafiles import DigestedFile, digest_files, find_files, split_digest
from finetune_trainer.data.dataset import Limits, Rows, check_loss, hold_out, read_rows
from finetune_trainer.data.splitfiles import SUMMARY_FILE, TRAIN_FILE, VALIDATION_FILE, SplitsSummary, write_split_file
from finetune_trainer.data.tokenizer import FILES, ChatTokenizer
from finetune_trainer.models.modelfiles import longest_context, vocabulary_size
from finetune_trainer.models.sources import Model
from finetune_trainer.storage.digests import DigestMemory, digest_of_files, file_sha256
from finetune_trainer.storage.interface import ObjectStore
from finetune_trainer.storage.s3 import store_of

logger = logging.getLogger(__name__)

# Raise it when the same rows become other tokens or another loss mask, or the files another form.
FORMAT = 2


@dataclass(frozen=True)
class PreparedData:
    """Tokenized data in the output store."""

    folder: S3Location
    summary: SplitsSummary


@dataclass(frozen=True)
class _Inputs:
    """Files of both splits and what they are digested to. A held-out fraction is part of the second digest."""

    train: tuple[DigestedFile, ...]
    validation: tuple[DigestedFile, ...]
    train_digest: str
    validation_digest: str | None


def prepare_data(plan: RunPlan, environment: Mapping[str, str], model: Model, scratch: Path) -> PreparedData:
    """Checks and tokenizes the dataset into the output store, unless that has been done.

    Raises:
        UserError, DataError: the data or the model's chat template cannot be used.
        StorageError: a store cannot be reached.
    """
    inputs = _inputs(plan, environment)
    limits = _limits(plan.spec, model)
    digest = _data_digest(inputs, limits, model)
    folder = data_prefix(plan.spec.output.destination, plan.job.namespace, digest)
    store = store_of(plan, OUTPUT, environment)
    known = _existing(store, folder, DigestMemory(plan, environment), plan.stores[OUTPUT].endpoint_url)
    if known:
        logger.info("the data is tokenized already: %s", folder)
        return PreparedData(folder, known)
    train, validation = _tokenize(plan.spec, inputs, limits, model)
    summary = _write(store, folder, scratch, inputs, limits.max_tokens, train, validation)
    return PreparedData(folder, summary)


def _inputs(plan: RunPlan, environment: Mapping[str, str]) -> _Inputs:
    train = digest_files(find_files(plan, environment, "train"))
    validation = digest_files(find_files(plan, environment, "validation"))
    digest, held_out = split_digest(train), plan.spec.dataset.validation
    if held_out and held_out.fraction:
        share = {"fraction": str(Decimal(held_out.fraction).normalize()), "of": digest}
        return _Inputs(train, validation, digest, sha256_digest(canonical_json(share)))
    return _Inputs(train, validation, digest, split_digest(validation) if validation else None)


def _limits(spec: FineTuneJobSpec, model: Model) -> Limits:
    refuse = spec.dataset.too_long is TooLong.REFUSE
    positions, vocabulary = longest_context(model.config), vocabulary_size(model.config)
    return Limits(spec.hyperparameters.max_sequence_length, refuse, positions, vocabulary)


def _data_digest(inputs: _Inputs, limits: Limits, model: Model) -> str:
    files = {name: file_sha256(model.folder / name) for name in FILES if name in model.small}
    parts = [FORMAT, inputs.train_digest, inputs.validation_digest, digest_of_files(files)]
    return sha256_digest(
        canonical_json([*parts, limits.max_tokens, limits.refuse_longer, limits.positions, limits.vocabulary])
    )


def _existing(
    store: ObjectStore, folder: S3Location, memory: DigestMemory, endpoint: str | None
) -> SplitsSummary | None:
    """The summary of data that is complete and undamaged, or None."""
    if store.stat(folder.child(SUMMARY_FILE)) is None:
        return None
    try:
        summary = SplitsSummary.model_validate_json(store.read(folder.child(SUMMARY_FILE)))
    except ValidationError:
        logger.warning("%s is damaged: tokenizing again", folder)
        return None
    for name, digest in summary.files.items():
        found = store.stat(folder.child(name))
        if found is None or f"sha256:{memory.sha256(store, endpoint, found)}" != digest:
            logger.warning("%s of %s is damaged: tokenizing again", name, folder)
            return None
    return summary


def _tokenize(spec: FineTuneJobSpec, inputs: _Inputs, limits: Limits, model: Model) -> tuple[Rows, Rows | None]:
    tokenizer = ChatTokenizer(model.folder)
    train = read_rows(inputs.train, tokenizer, limits, "spec.dataset.train")
    validation = None
    if inputs.validation:
        validation = read_rows(inputs.validation, tokenizer, limits, "spec.dataset.validation.sources")
    elif spec.dataset.validation and spec.dataset.validation.fraction:
        train, validation = hold_out(train, spec.dataset.validation.fraction)
    for rows, field in ((train, "spec.dataset.train"), (validation, "spec.dataset.validation")):
        if rows is not None:
            check_loss(rows, field, limits.max_tokens)
            _tell(rows, field)
    return train, validation


def _tell(rows: Rows, field: str) -> None:
    logger.info(
        "%s: %d rows, %d tokens, %d of them with loss, %d rows truncated, %d without loss after that",
        field,
        len(rows),
        len(rows.input_ids),
        rows.loss_tokens,
        rows.truncated,
        rows.without_loss,
    )


def _write(
    store: ObjectStore,
    folder: S3Location,
    scratch: Path,
    inputs: _Inputs,
    capacity: int,
    train: Rows,
    validation: Rows | None,
) -> SplitsSummary:
    scratch.mkdir(parents=True, exist_ok=True)
    splits = {TRAIN_FILE: train} | ({VALIDATION_FILE: validation} if validation else {})
    files: dict[str, str] = {}
    for name, rows in splits.items():
        buffers = (memoryview(buffer) for buffer in (rows.input_ids, rows.loss_mask, rows.offsets))
        write_split_file(scratch / name, *buffers)
        files[name] = f"sha256:{file_sha256(scratch / name)}"
        store.upload(scratch / name, folder.child(name))
    held_out = (
        validation.summary(inputs.validation_digest, capacity) if validation and inputs.validation_digest else None
    )
    summary = SplitsSummary(train=train.summary(inputs.train_digest, capacity), validation=held_out, files=files)
    store.put(folder.child(SUMMARY_FILE), summary.to_json().encode())
    return summary
