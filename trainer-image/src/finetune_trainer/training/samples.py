"""What the model answers to a few held-out prompts, so that a reader sees what the numbers mean.

Always the likeliest token, and the whole text anew for each: no cache has to be kept apart from training's attention,
and a pass has at most the tokens of one micro-batch of an evaluation, so that it needs no more memory than that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from finetune_trainer.data.splits import TokenSequence
from finetune_trainer.data.tokenizer import TextTokenizer
from finetune_trainer.errors import UserError
from finetune_trainer.training.batches import MicroBatch, pad
from finetune_trainer.training.metrics import Sample
from finetune_trainer.training.objectives.interface import Model

logger = logging.getLogger(__name__)

# Tokens of an answer, and seconds for all answers together: what samples may cost whatever the model and the network.
MAX_ANSWER = 64
BUDGET_SECONDS = 30.0

Pause = Callable[[], None]
Clock = Callable[[], float]


class Answering(Model, Protocol):
    """A model that goes on with a text. Collective."""

    def next_tokens(self, batch: MicroBatch) -> torch.Tensor:
        """The likeliest token after each sequence, [sequences]."""
        ...


class HeldOut(Protocol):
    """Rows with an answer that is worth learning."""

    def __len__(self) -> int: ...

    def wanted(self, index: int) -> TokenSequence | None:
        """Tokens and loss mask of a row; None where its answer is no example."""
        ...


class NoSamples(Exception):
    """The model could not be asked; training goes on without."""


@dataclass(frozen=True)
class Prompt:
    """A held-out row until its first answer, and that answer as the data has it; token ids."""

    row: int
    ids: tuple[int, ...]
    expected: tuple[int, ...]


@dataclass
class Answer:
    """The tokens of an answer so far. ``ended`` is set by a token that ends it, or by the longest allowed length."""

    ids: list[int] = field(default_factory=list)
    ended: bool = False
    cut: bool = True

    def add(self, token: int, stop: frozenset[int], most: int) -> None:
        """Appends one token."""
        if token in stop:
            self.ended, self.cut = True, False
            return
        self.ids.append(token)
        self.ended = len(self.ids) >= most


def prompts_of(rows: HeldOut, count: int, longest: int) -> list[Prompt]:
    """The first ``count`` rows that ask for an answer and leave room for one among ``longest`` tokens."""
    found: list[Prompt] = []
    for index in range(len(rows)):
        if len(found) == count:
            break
        sequence = rows.wanted(index)
        prompt = None if sequence is None else _prompt(index, sequence)
        if prompt is not None and len(prompt.ids) < longest:
            found.append(prompt)
    return found


def _prompt(index: int, sequence: TokenSequence) -> Prompt | None:
    ids, mask = sequence
    places = np.flatnonzero(mask)
    if not len(places) or places[0] == 0:
        return None
    first = int(places[0])
    pause = np.flatnonzero(mask[first:] == 0)
    end = first + int(pause[0]) if len(pause) else len(ids)
    return Prompt(index, tuple(ids[:first].tolist()), tuple(ids[first:end].tolist()))


def answers(
    model: Answering,
    prompts: Sequence[Prompt],
    stop: frozenset[int],
    longest: int,
    pause: Pause,
    clock: Clock = time.monotonic,
) -> list[Answer]:
    """An answer to each prompt, as far as the time allows. Collective: rank 0's tokens and clock count.

    ``pause`` is called by all ranks before each token; what it raises ends the sampling.

    Raises:
        NoSamples: a pass failed on some rank.
    """
    deadline = clock() + BUDGET_SECONDS
    size = model.micro_batch_size
    parts = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    with model.evaluating():
        return [
            answer
            for part in parts
            for answer in _together(model, part, stop, longest, pause, lambda: clock() > deadline)
        ]


def _together(
    model: Answering,
    prompts: Sequence[Prompt],
    stop: frozenset[int],
    longest: int,
    pause: Pause,
    over: Callable[[], bool],
) -> list[Answer]:
    found = [Answer() for _ in prompts]
    late = False
    while not late and (going := [pair for pair in zip(prompts, found, strict=True) if not pair[1].ended]):
        pause()
        tokens, late = _agreed(model, [(*prompt.ids, *answer.ids) for prompt, answer in going], over)
        for (prompt, answer), token in zip(going, tokens, strict=True):
            answer.add(token, stop, min(MAX_ANSWER, longest - len(prompt.ids)))
    return found


def _agreed(model: Answering, texts: Sequence[tuple[int, ...]], over: Callable[[], bool]) -> tuple[list[int], bool]:
    """Rank 0's next token of each text, and whether its time is over: no difference in a last bit parts the ranks."""
    failure: Exception | None = None
    tokens = [0] * len(texts)
    try:
        tokens = model.next_tokens(pad([_unmarked(text) for text in texts])).tolist()
    # Whatever it is, the other ranks must hear of it, and training goes on.
    except Exception as error:
        failure = error
    leads = model.rank == 0
    votes = (float(failure is not None), float(leads and over()))
    *agreed, failed, late = model.sum_over_ranks(*(float(token * leads) for token in tokens), *votes)
    if failed:
        raise NoSamples(f"a process could not go on with a text: {failure or 'see the log of the others'}") from failure
    return [int(token) for token in agreed], late > 0


def _unmarked(text: tuple[int, ...]) -> TokenSequence:
    return np.array(text, np.int32), np.zeros(len(text), np.uint8)


class Sampler:
    """Asks the model the same few prompts whenever it is told to."""

    def __init__(self, rows: HeldOut, count: int, longest: int, model_folder: Path) -> None:
        self._prompts = prompts_of(rows, count, longest) if count else []
        self._longest, self._folder = longest, model_folder
        if count and not self._prompts:
            logger.warning("no samples: no held-out row has a prompt that leaves room for an answer")

    def take(self, model: Answering, step: int, pause: Pause) -> list[Sample]:
        """Samples after ``step`` steps; none when the model cannot be asked, which the log tells. Collective."""
        if not self._prompts:
            return []
        try:
            tokenizer = TextTokenizer(self._folder)
            found = answers(model, self._prompts, tokenizer.stop_ids, self._longest, pause)
        except (NoSamples, UserError) as error:
            logger.warning("no samples after step %d, training goes on: %s", step, error)
            return []
        return list(self._told(tokenizer, found, step))

    def _told(self, tokenizer: TextTokenizer, found: Sequence[Answer], step: int) -> Iterator[Sample]:
        for prompt, answer in zip(self._prompts, found, strict=True):
            yield Sample(
                step=step,
                row=prompt.row,
                prompt=tokenizer.text(prompt.ids, special=True),
                expected=tokenizer.text(prompt.expected, special=False),
                answer=tokenizer.text(answer.ids, special=False),
                cut=answer.cut,
            )
