"""``samples.jsonl``: each prompt with the answers before and after. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from finetune_trainer.training.metrics import Sample


@dataclass(frozen=True)
class Text:
    """An answer; ``cut`` says that it would go on."""

    text: str
    cut: bool


@dataclass(frozen=True)
class Answered:
    """A prompt of the held-out split (row from 0), the answer in the data, and those of the model before the first step
    and with the weights that are published; None where it was not asked."""

    row: int
    prompt: str
    expected: str
    before: Text | None
    after: Text | None

    def line(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


def answered(samples: Sequence[Sample]) -> list[Answered]:
    """The samples by prompt, in the order of the rows."""
    before = {sample.row: sample for sample in samples if sample.step == 0}
    after = {sample.row: sample for sample in samples if sample.step > 0}
    return [
        Answered(row, known.prompt, known.expected, _text(before.get(row)), _text(after.get(row)))
        for row, known in sorted((before | after).items())
    ]


def _text(sample: Sample | None) -> Text | None:
    return None if sample is None else Text(sample.answer, sample.cut)
