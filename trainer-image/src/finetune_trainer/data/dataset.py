"""From files of rows to shards: each row checked, rendered, tokenized, cut or refused, held out or not, in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from finetune_trainer.data.chat import ChatTemplate, Rendered
from finetune_trainer.data.datafiles import SourceFiles
from finetune_trainer.data.examples import Conversation, Example, PlainText, RowKey, row_key
from finetune_trainer.data.facts import DataFacts, ExampleFacts, RefusedFacts, SourceFacts
from finetune_trainer.data.formats import columns_of, parse_row
from finetune_trainer.data.heldout import Bounds, copies
from finetune_trainer.data.limits import Limits
from finetune_trainer.data.readers import read_rows
from finetune_trainer.data.rows import Problems
from finetune_trainer.data.shards import ShardWriter
from finetune_trainer.data.similarity import KeyFiles, Repeats
from finetune_trainer.data.tokenizer import TextTokenizer, TokenizedRow
from finetune_trainer.errors import BadRow, UserError

# What the tokenizer gets at a time; what it returns is some fifty times as large.
_BATCH_ROWS, _BATCH_CHARACTERS = 256, 1 << 16
_EXAMPLES, _EXAMPLES_OF_SOURCE, _EXAMPLE_TOKENS = 16, 3, 600
_ANSWERS = ("chosen", "rejected")


class Renderer:
    """Examples as text; the chat template is looked for when the first conversation comes."""

    def __init__(self, tokenizer: TextTokenizer, template: str | None) -> None:
        self._tokenizer, self._given = tokenizer, template

    @cached_property
    def _template(self) -> ChatTemplate:
        return self._tokenizer.chat_template(self._given)

    def render(self, example: Example) -> tuple[Rendered, ...]:
        """The sequences of a row.

        Raises:
            BadRow: the template refuses the row.
            UserError: there is no usable template.
        """
        return tuple(self._sequence(sequence) for sequence in example.sequences)

    def _sequence(self, sequence: Conversation | PlainText) -> Rendered:
        if isinstance(sequence, PlainText):
            return Rendered(sequence.text, ((sequence.prompt, len(sequence.text)),), plain=True)
        return self._template.render(sequence)


@dataclass
class _SourceCounts:
    rows: int = 0
    refused: int = 0
    examples: int = 0


class _Row(NamedTuple):
    """A row on its way; ``number`` counts over all files, ``place`` is file and line."""

    source: SourceFiles
    number: int
    place: str
    key: RowKey
    words: str
    label: bool | None
    rendered: tuple[Rendered, ...]
    held_out: bool


@dataclass
class _Counts:
    """Numbers over both splits, before weights. ``lengths`` is keyed by powers of two."""

    rows: int = 0
    train_rows: int = 0
    held_out_rows: int = 0
    truncated: int = 0
    without_loss: int = 0
    tokens: int = 0
    loss_tokens: int = 0
    lengths: dict[int, int] = field(default_factory=dict)


class Pass:
    """One reading of all data into shards. Memory does not grow with the number of rows.

    ``threshold`` decides which training rows are held out: those whose key is below it.
    """

    def __init__(
        self, tokenizer: TextTokenizer, renderer: Renderer, limits: Limits, threshold: int, scratch: Path
    ) -> None:
        self.problems, self.bounds = Problems(), Bounds()
        self._tokenizer, self._renderer, self._limits = tokenizer, renderer, limits
        self._threshold, self._scratch = threshold, scratch
        self._counts = _Counts()
        self._of_source: dict[str, _SourceCounts] = {}
        self._examples: list[ExampleFacts] = []

    def run(
        self, train: Sequence[SourceFiles], validation: Sequence[SourceFiles], into: tuple[ShardWriter, ShardWriter]
    ) -> DataFacts:
        """Reads everything and writes the shards of both splits.

        Raises:
            DataError: a file is damaged.
            UserError: the model cannot take the rows, or has no template for them.
        """
        with KeyFiles(self._scratch) as keys:
            for sources, held_out in ((train, False), (validation, True)):
                for source in sources:
                    self._of_source[source.field] = _SourceCounts()
                    for row, tokens in self._tokenized(self._rows(source, held_out)):
                        self._keep(row, tokens, keys, into[row.held_out])
            for writer in into:
                writer.close()
            return self._facts((*train, *validation), keys.count())

    def _rows(self, source: SourceFiles, held_out: bool) -> Iterator[_Row]:
        kind, columns, counts = source.source.format, columns_of(source.source), self._of_source[source.field]
        for file in source.files:
            left = None if source.source.limit is None else source.source.limit - counts.rows
            if left == 0:
                return
            for number, content in read_rows(file, self._scratch, left):
                self._counts.rows += 1
                counts.rows += 1
                place = f"{file.uri}:{number}"
                try:
                    if isinstance(content, BadRow):
                        raise content
                    example = parse_row(content, kind, columns)
                    key = row_key(example)
                    row_held_out = held_out or key.place < self._threshold
                    if row_held_out or copies(source.source.weight, key.share):
                        rendered = self._renderer.render(example)
                        words, row_number = example.words(), self._counts.rows
                        yield _Row(source, row_number, place, key, words, example.label, rendered, row_held_out)
                except BadRow as error:
                    self._refuse(source, self._counts.rows, place, error.message)

    def _refuse(self, source: SourceFiles, number: int, place: str, reason: str) -> None:
        self._of_source[source.field].refused += 1
        self.problems.add(number, place, reason)

    def _tokenized(self, rows: Iterator[_Row]) -> Iterator[tuple[_Row, list[TokenizedRow]]]:
        """Rows with their tokens: one batch is tokenized, without Python's lock, while the next one is rendered."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            waiting = None
            for batch in _batches(rows):
                started = pool.submit(self._tokenizer.tokenize, [text for row in batch for text in row.rendered])
                if waiting:
                    yield from _joined(waiting[0], waiting[1].result())
                waiting = batch, started
            if waiting:
                yield from _joined(waiting[0], waiting[1].result())

    def _keep(self, row: _Row, tokens: list[TokenizedRow], keys: KeyFiles, writer: ShardWriter) -> None:
        """Cuts, checks, counts and writes one row, or refuses it."""
        limit, counts = self._limits.max_tokens, self._counts
        longest = max(len(sequence.input_ids) for sequence in tokens)
        if self._limits.refuse_longer and longest > limit:
            self._of_source[row.source.field].refused += 1
            self.problems.add_too_long(row.number, row.place, longest, limit)
            return
        kept = [TokenizedRow(sequence.input_ids[:limit], sequence.loss_mask[:limit]) for sequence in tokens]
        if reason := _without_answer(kept, limit):
            self._refuse(row.source, row.number, row.place, reason)
            return
        for sequence in kept:
            _check_model_takes(row.place, sequence.input_ids, self._limits)
        if row.held_out:
            counts.held_out_rows += 1
        else:
            counts.train_rows += 1
            counts.truncated += longest > limit
        self._count(tokens, kept)
        self.bounds.add(row.key.place, row.held_out)
        keys.add(row.key.place, row.words, row.held_out)
        self._show(row)
        for _ in range(1 if row.held_out else copies(row.source.source.weight, row.key.share)):
            writer.add(kept, row.label, longest > limit)

    def _count(self, tokens: list[TokenizedRow], kept: list[TokenizedRow]) -> None:
        counts = self._counts
        for sequence in tokens:
            bound = 1 << (len(sequence.input_ids) - 1).bit_length() if sequence.input_ids else 0
            counts.lengths[bound] = counts.lengths.get(bound, 0) + 1
        loss_tokens = sum(sequence.loss_mask.count(1) for sequence in kept)
        counts.tokens += sum(len(sequence.input_ids) for sequence in kept)
        counts.loss_tokens += loss_tokens
        counts.without_loss += not loss_tokens

    def _show(self, row: _Row) -> None:
        counts = self._of_source[row.source.field]
        if counts.examples < _EXAMPLES_OF_SOURCE and len(self._examples) < _EXAMPLES:
            counts.examples += 1
            limit = min(self._limits.max_tokens, _EXAMPLE_TOKENS)
            for rendered in row.rendered:
                text, spans, is_cut = self._tokenizer.shown(rendered, limit)
                self._examples.append(ExampleFacts(place=row.place, text=text, spans=spans, cut=is_cut))

    def _facts(self, sources: Sequence[SourceFiles], repeated: Repeats) -> DataFacts:
        counts = self._counts
        return DataFacts(
            sources=tuple(_source_facts(source, self._of_source[source.field]) for source in sources),
            rows=counts.rows,
            refused=self.problems.total,
            refused_too_long=self.problems.too_long,
            refused_rows=tuple(RefusedFacts(place=row.place, reason=row.reason) for row in self.problems.noted),
            train_rows=counts.train_rows,
            held_out_rows=counts.held_out_rows,
            duplicates=repeated.duplicates,
            near_duplicates=repeated.near_duplicates,
            overlap=repeated.overlap,
            near_overlap=repeated.near_overlap,
            truncated=counts.truncated,
            without_loss=counts.without_loss,
            lengths=tuple(sorted(counts.lengths.items())),
            tokens=counts.tokens,
            loss_tokens=counts.loss_tokens,
            examples=tuple(self._examples),
        )


def _batches(rows: Iterator[_Row]) -> Iterator[list[_Row]]:
    """Rows in groups that are bounded in number and in size, as far as a single row allows."""
    batch: list[_Row] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += sum(len(rendered.text) for rendered in row.rendered)
        if len(batch) == _BATCH_ROWS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _joined(rows: Iterable[_Row], tokens: Iterable[TokenizedRow]) -> Iterator[tuple[_Row, list[TokenizedRow]]]:
    following = iter(tokens)
    for row in rows:
        yield row, list(islice(following, len(row.rendered)))


def _without_answer(sequences: Sequence[TokenizedRow], limit: int) -> str | None:
    """Why a pair cannot be compared: one of its answers was cut off as a whole."""
    if len(sequences) < 2:
        return None
    for name, sequence in zip(_ANSWERS, sequences, strict=True):
        if 1 not in sequence.loss_mask:
            return f"no token of the {name} answer is among the first {limit}"
    return None


def _source_facts(source: SourceFiles, counts: _SourceCounts) -> SourceFacts:
    return SourceFacts(
        split=source.field,
        uri=source.source.source,
        revision=source.revision,
        format=source.source.format.value,
        weight=source.source.weight,
        files=len(source.files),
        rows=counts.rows,
        refused=counts.refused,
    )


def _check_model_takes(place: str, input_ids: Sequence[int], limits: Limits) -> None:
    if limits.positions is not None and len(input_ids) > limits.positions:
        raise UserError(
            f"{place}: {len(input_ids)} tokens, but the model has {limits.positions} positions",
            f"set spec.hyperparameters.maxSequenceLength to at most {limits.positions}",
        )
    if limits.vocabulary is not None and max(input_ids, default=0) >= limits.vocabulary:
        raise UserError(
            f"the tokenizer of spec.model.source does not fit its model: {place} has the token {max(input_ids)}, "
            f"the vocabulary ends at {limits.vocabulary - 1}",
            "use the tokenizer that belongs to the model, or resize the model's embedding",
        )
