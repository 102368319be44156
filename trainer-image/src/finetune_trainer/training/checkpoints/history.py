"""The metrics so far, as a checkpoint keeps them: a resumed run's curves begin at the first step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from finetune_trainer.training.checkpoints.slicing import Incompatible
from finetune_trainer.training.metrics import EvaluationMetrics, StepMetrics

_KINDS: dict[str, type[StepMetrics | EvaluationMetrics]] = {"step": StepMetrics, "evaluation": EvaluationMetrics}
_NAMES = {kind: name for name, kind in _KINDS.items()}


@dataclass
class History:
    """What was measured since the first step, by whichever attempt."""

    steps: list[StepMetrics] = field(default_factory=list)
    evaluations: list[EvaluationMetrics] = field(default_factory=list)

    def copy(self) -> History:
        return History(list(self.steps), list(self.evaluations))

    def records(self) -> list[StepMetrics | EvaluationMetrics]:
        """Everything in the order in which it was measured: an evaluation after the step it names."""
        together: list[StepMetrics | EvaluationMetrics] = [*self.steps, *self.evaluations]
        return sorted(together, key=lambda record: (record.step, isinstance(record, EvaluationMetrics)))

    def dump(self) -> bytes:
        """One JSON document per line. Numbers keep all their digits."""
        lines = (json.dumps([_NAMES[type(record)], asdict(record)]) for record in self.records())
        return "".join(f"{line}\n" for line in lines).encode()


def load_history(content: bytes) -> History:
    """The reverse of :meth:`History.dump`.

    Raises:
        Incompatible: it was written by a trainer that measures something else.
    """
    try:
        records = [_KINDS[kind](**fields) for kind, fields in map(json.loads, content.splitlines())]
    except (ValueError, KeyError, TypeError) as error:
        raise Incompatible(f"its metrics are of another version of the trainer: {error}") from error
    return History(
        [record for record in records if isinstance(record, StepMetrics)],
        [record for record in records if isinstance(record, EvaluationMetrics)],
    )
