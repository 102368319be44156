"""Tokenized data in the output store: named by everything that it was made from, made once, used by every later run."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from pydantic import ValidationError

from finetune_api.layout import data_prefix
from finetune_api.plan import OUTPUT, RunPlan
from finetune_api.results import DataSummary, SplitSummary
from finetune_api.runid import canonical_json, data_settings, sha256_digest
from finetune_api.spec import DatasetSpec, FineTuneJobSpec, TooLong
from finetune_api.uris import S3Location
from finetune_trainer.data.checks import judge
from finetune_trainer.data.datafiles import Finder, SourceFiles, find_split, split_digest
from finetune_trainer.data.datareport import render_data_report
from finetune_trainer.data.facts import DataFacts
from finetune_trainer.data.heldout import Bounds, threshold_of
from finetune_trainer.data.limits import Limits
from finetune_trainer.data.splitfiles import REPORT_FILE, SUMMARY_FILE, TRAIN, VALIDATION, SplitsSummary
from finetune_trainer.data.tokenizer import FILES, TextTokenizer
from finetune_trainer.errors import DataError, TrainerError
from finetune_trainer.models.modelfiles import longest_context, vocabulary_size
from finetune_trainer.models.sources import Model
from finetune_trainer.storage.digests import DigestMemory, digest_of_files, file_sha256
from finetune_trainer.storage.interface import ObjectStore
from finetune_trainer.storage.stores import store_of

logger = logging.getLogger(__name__)

# Raise it when the same rows become other tokens or another loss mask, or the files another form.
FORMAT = 3


@dataclass(frozen=True)
class PreparedData:
    """Tokenized data in the output store."""

    folder: S3Location
    summary: SplitsSummary

    def report(self) -> DataSummary | None:
        """The part of the data report that fits into a status."""
        facts = self.summary.facts
        if facts is None:
            return None
        return DataSummary(
            report=str(self.folder.child(REPORT_FILE)),
            source_rows=tuple(source.rows for source in facts.sources),
            refused=facts.refused,
            duplicates=facts.duplicates,
            near_duplicates=facts.near_duplicates,
            validation_overlap=facts.overlap,
            without_loss=facts.without_loss,
        )


@dataclass(frozen=True)
class _Inputs:
    """Files of both splits and what they are digested to. A held-out fraction is part of the second digest."""

    train: tuple[SourceFiles, ...]
    validation: tuple[SourceFiles, ...]
    train_digest: str
    validation_digest: str | None


def prepare_data(plan: RunPlan, environment: Mapping[str, str], model: Model, scratch: Path) -> PreparedData:
    """Checks and tokenizes the dataset into the output store, unless that has been done.

    Raises:
        UserError, DataError: the data or the model's chat template cannot be used.
        StorageError: a store cannot be reached.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    inputs = _inputs(plan, environment, scratch)
    limits = _limits(plan.spec, model)
    folder = data_prefix(
        plan.spec.output.destination, plan.job.namespace, _data_digest(plan.spec.dataset, inputs, limits, model)
    )
    store = store_of(plan, OUTPUT, environment)
    known = _existing(store, folder, DigestMemory(plan, environment), plan.stores[OUTPUT].endpoint_url)
    if known and known.facts:
        logger.info("the data is tokenized already: %s", folder)
        with _pointing_at(folder):
            judge(known.facts, plan.spec.dataset.checks)
        return PreparedData(folder, known)
    tokenizer = TextTokenizer(model.folder)
    shards = Shards(store, folder, scratch, tokenizer, limits, plan.spec.dataset)
    return PreparedData(folder, shards.make(inputs))


def _inputs(plan: RunPlan, environment: Mapping[str, str], scratch: Path) -> _Inputs:
    dataset, finder = plan.spec.dataset, Finder(plan, environment, scratch)
    held_out = dataset.validation
    train = find_split(finder, dataset.train, TRAIN)
    validation = find_split(finder, (held_out.sources if held_out else None) or (), VALIDATION)
    digest = split_digest(train)
    if held_out and held_out.fraction:
        share = {"fraction": str(Decimal(held_out.fraction).normalize()), "of": digest}
        return _Inputs(train, validation, digest, sha256_digest(canonical_json(share)))
    return _Inputs(train, validation, digest, split_digest(validation) if validation else None)


def _limits(spec: FineTuneJobSpec, model: Model) -> Limits:
    refuse = spec.dataset.too_long is TooLong.REFUSE
    positions, vocabulary = longest_context(model.config), vocabulary_size(model.config)
    return Limits(spec.hyperparameters.max_sequence_length, refuse, positions, vocabulary)


def _data_digest(dataset: DatasetSpec, inputs: _Inputs, limits: Limits, model: Model) -> str:
    files = {name: file_sha256(model.folder / name) for name in FILES if name in model.small}
    parts = [FORMAT, inputs.train_digest, inputs.validation_digest, digest_of_files(files)]
    return sha256_digest(
        canonical_json(
            [
                *parts,
                *(limits.max_tokens, limits.refuse_longer, limits.positions, limits.vocabulary),
                data_settings(dataset),
            ]
        )
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


class Shards:
    """Makes the prepared data of one dataset in a folder of a store."""

    def __init__(
        self,
        store: ObjectStore,
        folder: S3Location,
        scratch: Path,
        tokenizer: TextTokenizer,
        limits: Limits,
        dataset: DatasetSpec,
    ) -> None:
        self._store, self._folder, self._scratch = store, folder, scratch
        self._tokenizer, self._limits, self._dataset = tokenizer, limits, dataset

    def make(self, inputs: _Inputs) -> SplitsSummary:
        """Writes shards, report and summary, and judges what was found.

        Raises:
            UserError, DataError: the data cannot be used, or is not what the spec demands.
            StorageError: a store cannot be reached.
        """
        summary, bounds = self._read(inputs)
        facts = summary.facts
        assert facts is not None
        self._store.put(self._folder.child(REPORT_FILE), render_data_report(facts).encode())
        problem = self._problem(inputs, summary, bounds, facts)
        if problem is None:
            # Written last: with it the data counts.
            self._store.put(self._folder.child(SUMMARY_FILE), summary.to_json().encode())
        with _pointing_at(self._folder):
            judge(facts, self._dataset.checks)
        if problem:
            raise problem
        for split, field in ((summary.train, "spec.dataset.train"), (summary.validation, "spec.dataset.validation")):
            if split:
                _tell(split, field)
        logger.info("%d rows refused, %d without loss after truncation", facts.refused, facts.without_loss)
        return summary

    def _read(self, inputs: _Inputs) -> tuple[SplitsSummary, Bounds]:
        """Reads everything once; a second time where chance left the held-out split of few rows empty."""
        held_out = self._dataset.validation
        fraction = Decimal(held_out.fraction) if held_out and held_out.fraction else Decimal(0)
        threshold = threshold_of(fraction)
        summary, bounds = self._pass(inputs, threshold)
        settled = bounds.settled(fraction) if fraction else threshold
        return (summary, bounds) if settled == threshold else self._pass(inputs, settled)

    def _pass(self, inputs: _Inputs, threshold: int) -> tuple[SplitsSummary, Bounds]:
        # Imported here: numpy is not needed where the data is tokenized already.
        from finetune_trainer.data.dataset import Pass, Renderer
        from finetune_trainer.data.shards import ShardWriter

        folder = self._scratch / "pass"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        renderer = Renderer(self._tokenizer, self._dataset.chat_template)
        reading = Pass(self._tokenizer, renderer, self._limits, threshold, folder)
        train, validation = (ShardWriter(split, self._store, self._folder, folder) for split in (TRAIN, VALIDATION))
        facts = reading.run(inputs.train, inputs.validation, (train, validation))
        digest, capacity = inputs.validation_digest, self._limits.max_tokens
        summary = SplitsSummary(
            train=train.summary(inputs.train_digest, capacity),
            validation=validation.summary(digest, capacity) if digest and validation.rows else None,
            files=train.files | validation.files,
            facts=facts,
        )
        return summary, reading.bounds

    def _problem(
        self, inputs: _Inputs, summary: SplitsSummary, bounds: Bounds, facts: DataFacts
    ) -> TrainerError | None:
        """Why the data cannot be trained on, whatever the thresholds allow."""
        held_out = self._dataset.validation
        wanted = {"spec.dataset.train": inputs.train}
        if inputs.validation:
            wanted["spec.dataset.validation.sources"] = inputs.validation
        for field, sources in wanted.items():
            read = sum(source.rows - source.refused for source in facts.sources if source.split.startswith(field))
            if not read:
                return _no_rows(field, sources, facts)
        if held_out and held_out.fraction and (problem := bounds.problem(held_out.fraction)):
            return problem
        if not summary.train.rows:
            return DataError(
                "the weights of spec.dataset.train leave no row to train on", "raise the weights or add rows"
            )
        splits = (summary.train, "spec.dataset.train"), (summary.validation, "spec.dataset.validation")
        lossless = (field for split, field in splits if split and not split.loss_tokens)
        return next((_no_loss(field, self._limits.max_tokens) for field in lossless), None)


def _no_rows(field: str, sources: tuple[SourceFiles, ...], facts: DataFacts) -> DataError:
    if any(source.rows for source in facts.sources if source.split.startswith(field)):
        return DataError(f"no row of {field} can be used", "correct the rows that the data report names")
    names = ", ".join(file.uri for source in sources for file in source.files)
    return DataError(f"the dataset of {field} is empty: {names} has no rows", "upload data with at least one row")


def _no_loss(field: str, limit: int) -> DataError:
    return DataError(
        f"no row of {field} has a token of the assistant among its first {limit} tokens",
        "raise spec.hyperparameters.maxSequenceLength or shorten the rows",
    )


@contextmanager
def _pointing_at(folder: S3Location) -> Iterator[None]:
    """Errors of the data say where the report is."""
    try:
        yield
    except DataError as error:
        raise DataError(error.message, f"{error.remedy}; the data report is {folder.child(REPORT_FILE)}") from error


def _tell(split: SplitSummary, field: str) -> None:
    logger.info(
        "%s: %d rows, %d tokens, %d of them with loss, %d rows truncated",
        field,
        split.rows,
        split.tokens,
        split.loss_tokens,
        split.truncated,
    )
