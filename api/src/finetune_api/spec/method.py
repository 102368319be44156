"""What is learned, and in which weights."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.base import Document, effective_validations, validations, where_written
from finetune_api.spec.model import AdapterSource, ReferenceModel
from finetune_api.spec.objectives import DpoOptions, KtoOptions, Objective, OrpoOptions, Reference, RewardOptions
from finetune_api.spec.tunings import LoraOptions, PartialOptions, QuantizationOptions, Tuning

_PARTIAL_TOGETHER = "method.partial belongs to method.tuning partial, which needs it; set both or none of them"
_ADAPTS = "self.tuning in ['lora', 'qlora']"

ObjectiveOptions = DpoOptions | OrpoOptions | KtoOptions | RewardOptions


def _option_of(objective: str) -> tuple[str, str]:
    return (
        where_written(f"self.objective == '{objective}' || !has(self.{objective})", "objective"),
        f"method.{objective} is set but method.objective is not {objective}: a job has one objective; remove "
        f"spec.method.{objective} or set spec.method.objective to {objective}",
    )


def _model_reference(objective: str) -> tuple[str, str]:
    return (
        where_written(f"self.{objective}.reference != 'Model' || {_ADAPTS}", f"{objective}.reference", "tuning"),
        f"method.{objective}.reference Model needs an adapter that can be disabled, and tuning full or partial has none"
        f"; set spec.method.{objective}.reference to Precomputed",
    )


def _reference_of_continued(objective: str) -> tuple[str, str]:
    return (
        where_written(
            f"self.{objective}.reference != 'Model' || !has(self.lora) || !has(self.lora.initialAdapter)",
            f"{objective}.reference",
        ),
        f"method.{objective}.reference Model disables the adapter, and without its initialAdapter the model is not "
        f"what it was before its first step; set spec.method.{objective}.reference to Precomputed",
    )


class MethodSpec(Document):
    """What is learned, and in which weights."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            (
                where_written(f"{_ADAPTS} || !has(self.lora)", "tuning"),
                "method.lora is set but method.tuning is not lora: a job has one tuning; remove spec.method.lora or "
                "set spec.method.tuning to lora or qlora",
            ),
            (
                where_written("self.tuning == 'qlora' || !has(self.quantization)", "tuning"),
                "method.quantization is set but method.tuning is not qlora; remove spec.method.quantization or set "
                "spec.method.tuning to qlora",
            ),
            (
                where_written("self.tuning == 'partial' || !has(self.partial)", "tuning"),
                _PARTIAL_TOGETHER,
            ),
            *(_option_of(objective) for objective in ("dpo", "orpo", "kto", "reward")),
            *(_model_reference(objective) for objective in ("dpo", "kto")),
            *(_reference_of_continued(objective) for objective in ("dpo", "kto")),
        )
        | effective_validations(("self.tuning != 'partial' || has(self.partial)", _PARTIAL_TOGETHER))
    }

    objective: Annotated[
        Objective,
        Field(
            default=Objective.SFT,
            description="sft: supervised fine-tuning, cross-entropy on the assistant's turns; dpo, orpo: preference "
            "pairs; kto: completions that are desirable or not; reward: a reward model with a scalar head, from "
            "preference pairs.",
        ),
    ]
    tuning: Annotated[
        Tuning,
        Field(
            default=Tuning.LORA,
            description="lora trains and publishes a low-rank adapter; qlora does so over a base model in 4 bits; "
            "partial trains some of the weights and full all of them, and both publish the whole model.",
        ),
    ]
    lora: Annotated[LoraOptions | None, Field(default=None, description="Options of tuning lora and qlora.")]
    quantization: Annotated[QuantizationOptions | None, Field(default=None, description="Options of tuning qlora.")]
    partial: Annotated[PartialOptions | None, Field(default=None, description="What tuning partial trains.")]
    dpo: Annotated[DpoOptions | None, Field(default=None, description="Options of objective dpo.")]
    orpo: Annotated[OrpoOptions | None, Field(default=None, description="Options of objective orpo.")]
    kto: Annotated[KtoOptions | None, Field(default=None, description="Options of objective kto.")]
    reward: Annotated[RewardOptions | None, Field(default=None, description="Options of objective reward.")]

    @property
    def objective_options(self) -> ObjectiveOptions | None:
        """The options of the objective, or their defaults; sft has none."""
        if self.objective is Objective.SFT:
            return None
        given: ObjectiveOptions | None = getattr(self, self.objective.value)
        return given or _DEFAULTS[self.objective]

    @property
    def tuning_options(self) -> dict[str, Document]:
        """The options of the tuning by the name of their field, or their defaults."""
        found: dict[str, Document] = {}
        if self.tuning.adapts:
            found["lora"] = self.lora or LoraOptions()
        if self.tuning is Tuning.QLORA:
            found["quantization"] = self.quantization or QuantizationOptions()
        if self.partial:
            found["partial"] = self.partial
        return found

    @property
    def reference(self) -> Reference:
        """Where the reference of dpo and kto comes from; None for other objectives."""
        options = self.objective_options
        if not isinstance(options, DpoOptions | KtoOptions):
            return Reference.NONE
        alone = self.tuning.adapts and self.initial_adapter is None and self.reference_model is None
        return options.reference or (Reference.MODEL if alone else Reference.PRECOMPUTED)

    @property
    def reference_model(self) -> ReferenceModel | None:
        """The other model that dpo and kto compare with, where the spec names one."""
        options = self.objective_options
        return options.reference_model if isinstance(options, DpoOptions | KtoOptions) else None

    @property
    def initial_adapter(self) -> AdapterSource | None:
        """The adapter that a tuning with an adapter goes on from, where the spec names one."""
        return self.lora.initial_adapter if self.lora and self.tuning.adapts else None


_DEFAULTS: dict[Objective, ObjectiveOptions] = {
    Objective.DPO: DpoOptions(),
    Objective.ORPO: OrpoOptions(),
    Objective.KTO: KtoOptions(),
    Objective.REWARD: RewardOptions(),
}
