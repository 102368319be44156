"""What is learned: one small module per objective behind one interface, see :mod:`.interface`."""

from __future__ import annotations

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.splits import TokenizedSplit
from finetune_trainer.training.objectives.interface import Objective
from finetune_trainer.training.objectives.sft import SupervisedFineTuning

__all__ = ["objective_of"]


def objective_of(spec: FineTuneJobSpec) -> Objective[TokenizedSplit]:
    """The objective that a spec names, with its options."""
    return SupervisedFineTuning()
