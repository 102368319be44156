"""The metrics so far, as a checkpoint keeps them: a resumed run's curves begin at the first step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from finetune_trainer.training.checkpoints.slicing import Incompatible
from finetune_trainer.training.metrics import AttemptStarted, CheckpointSaved, EvaluationMetrics, Sample, StepMetrics

Record = StepMetrics | EvaluationMetrics | AttemptStarted | CheckpointSaved | Sample
_KINDS: dict[str, type[Record]] = {
    "step": StepMetrics,
    "evaluation": EvaluationMetrics,
    "attempt": AttemptStarted,
    "checkpoint": CheckpointSaved,
    "sample": Sample,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_CHECKS: dict[str, TypeAdapter[Record]] = {name: TypeAdapter(kind) for name, kind in _KINDS.items()}


@dataclass
class History:
    """What was measured since the first step, by whichever attempt, which attempts and checkpoints led here, and what
    the model answered at the start and with the weights that are to be published.

    An attempt that left no checkpoint is not among them.
    """

    steps: list[StepMetrics] = field(default_factory=list)
    evaluations: list[EvaluationMetrics] = field(default_factory=list)
    attempts: list[AttemptStarted] = field(default_factory=list)
    checkpoints: list[CheckpointSaved] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    # Lines of earlier dumps, shared by all copies: what a checkpoint costs must not grow with each step before it.
    _lines: dict[tuple[str, int], str] = field(default_factory=dict, repr=False, compare=False)

    def copy(self) -> History:
        lists = list(self.steps), list(self.evaluations), list(self.attempts), list(self.checkpoints)
        return History(*lists, list(self.samples), self._lines)

    def records(self) -> list[StepMetrics | EvaluationMetrics]:
        """Everything in the order in which it was measured: an evaluation after the step it names."""
        together: list[StepMetrics | EvaluationMetrics] = [*self.steps, *self.evaluations]
        return sorted(together, key=lambda record: (record.step, isinstance(record, EvaluationMetrics)))

    def dump(self) -> bytes:
        """One JSON document per line. Numbers keep all their digits."""
        measured = (self._line(record) for record in self.records())
        told = (*map(_line, self.attempts), *measured, *map(_line, self.checkpoints), *map(_line, self.samples))
        return "".join(told).encode()

    def _line(self, record: StepMetrics | EvaluationMetrics) -> str:
        key = _NAMES[type(record)], record.step
        if key not in self._lines:
            self._lines[key] = _line(record)
        return self._lines[key]


def _line(record: Record) -> str:
    return json.dumps([_NAMES[type(record)], asdict(record)]) + "\n"


def _record(kind: str, fields: dict[str, Any]) -> Record:
    # The first refuses names that are none of its own, the second values of another type.
    made = _KINDS[kind](**fields)
    _CHECKS[kind].validate_python(fields)
    return made


def load_history(content: bytes) -> History:
    """The reverse of :meth:`History.dump`.

    Raises:
        Incompatible: it was written by a trainer that measures something else.
    """
    try:
        records = [_record(kind, fields) for kind, fields in map(json.loads, content.splitlines())]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Incompatible(f"its metrics are of another version of the trainer: {error}") from error
    return History(
        [record for record in records if isinstance(record, StepMetrics)],
        [record for record in records if isinstance(record, EvaluationMetrics)],
        [record for record in records if isinstance(record, AttemptStarted)],
        [record for record in records if isinstance(record, CheckpointSaved)],
        [record for record in records if isinstance(record, Sample)],
    )
