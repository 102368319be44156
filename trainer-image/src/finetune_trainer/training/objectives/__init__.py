"""What is learned: one small module per objective behind one interface, see :mod:`.interface`."""

from __future__ import annotations

from finetune_api.spec import DpoOptions, FineTuneJobSpec, KtoOptions, OrpoOptions, Reference, RewardOptions
from finetune_trainer.data.splits import TokenizedSplit
from finetune_trainer.training.objectives.dpo import DirectPreferenceOptimization
from finetune_trainer.training.objectives.interface import Objective
from finetune_trainer.training.objectives.kto import KahnemanTverskyOptimization
from finetune_trainer.training.objectives.orpo import OddsRatioPreferenceOptimization
from finetune_trainer.training.objectives.reward import RewardModelling
from finetune_trainer.training.objectives.sft import SupervisedFineTuning

__all__ = ["objective_of"]


def objective_of(spec: FineTuneJobSpec, continued: bool = False) -> Objective[TokenizedSplit]:
    """The objective that a spec names, with its options.

    ``continued`` says that the adapter was trained before: the model without it is then no reference.
    """
    options, reference = spec.method.objective_options, spec.method.reference
    if continued and reference is Reference.MODEL:
        reference = Reference.PRECOMPUTED
    if isinstance(options, DpoOptions):
        return DirectPreferenceOptimization(options, reference)
    if isinstance(options, OrpoOptions):
        return OddsRatioPreferenceOptimization(options)
    if isinstance(options, KtoOptions):
        return KahnemanTverskyOptimization(options, reference, spec.hyperparameters.max_sequence_length)
    if isinstance(options, RewardOptions):
        return RewardModelling(options)
    return SupervisedFineTuning()
