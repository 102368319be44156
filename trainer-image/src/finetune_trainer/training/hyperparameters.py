"""What a run uses and where each value comes from, and what the trainer refuses."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from finetune_api.base import Document
from finetune_api.plan import RunPlan
from finetune_api.spec import FineTuneJobSpec, MethodSpec, Optimizer, Precision, Tuning
from finetune_api.status import Origin
from finetune_trainer.errors import UserError

_GROUPS = ("method", "hyperparameters", "deepspeed", "evaluation")


def effective_values(spec: FineTuneJobSpec) -> Iterator[tuple[str, object, str]]:
    """Path, value and origin of every field that shapes the training, by the values alone: one that equals the default
    is called one, stated or not. So equal definitions are told in equal words."""
    return _stated_values(spec)


def known_origins(plan: RunPlan) -> Iterator[tuple[str, object, str]]:
    """As :func:`effective_values`, with who gave each value: manifest, profile, default, or why it was adjusted."""
    for path, value, _ in _stated_values(plan.spec):
        origin = plan.origins.get(path, Origin.DEFAULT).value.lower()
        yield path, value, plan.adjustments.get(path, origin)


def _stated_values(spec: FineTuneJobSpec) -> Iterator[tuple[str, object, str]]:
    for group in _GROUPS:
        yield from _values(getattr(spec, group), f"spec.{group}")
    for name, options in _method_options(spec.method).items():
        if getattr(spec.method, name) is None:
            yield from _values(options, f"spec.method.{name}")


def _method_options(method: MethodSpec) -> dict[str, Document]:
    options = dict(method.tuning_options)
    if method.objective_options:
        options[method.objective.value] = method.objective_options
    return options


def _values(document: BaseModel, path: str) -> Iterator[tuple[str, object, str]]:
    for name, field in type(document).model_fields.items():
        value = getattr(document, name)
        where = f"{path}.{field.alias or name}"
        if isinstance(value, BaseModel):
            yield from _values(value, where)
        elif value is not None:
            usual = value == field.get_default(call_default_factory=True)
            yield where, value, "default" if usual else "manifest"


def refuse_unsupported(spec: FineTuneJobSpec) -> None:
    """Checks what would train wrongly, for plans that no API server has validated.

    Raises:
        UserError: bf16 with ZeRO stage 0, Adafactor with another, 4-bit weights or compiled blocks with stage 3,
            compiled blocks of 4-bit weights, or a global batch that the processes cannot share.
    """
    if spec.hyperparameters.precision is Precision.BF16 and spec.deepspeed.zero_stage == 0:
        raise UserError(
            "bf16 with ZeRO stage 0 gives wrong losses in DeepSpeed",
            "set spec.deepspeed.zeroStage to 1 or higher, or spec.hyperparameters.precision to fp32",
        )
    if spec.hyperparameters.optimizer is Optimizer.ADAFACTOR and spec.deepspeed.zero_stage != 0:
        raise UserError(
            "adafactor factors the second moment of whole weight matrices, which ZeRO cuts into flat pieces",
            "set spec.deepspeed.zeroStage to 0 and spec.hyperparameters.precision to fp32, or "
            "spec.hyperparameters.optimizer to adamw8bit",
        )
    if spec.method.tuning is Tuning.QLORA and spec.deepspeed.zero_stage == 3:
        raise UserError(
            "ZeRO stage 3 cannot partition 4-bit weights, which have no place for their quantization state",
            "set spec.deepspeed.zeroStage to 2 or lower or spec.method.tuning to lora",
        )
    _refuse_compiling(spec)
    width = spec.deepspeed.micro_batch_size * spec.resources.world_size
    if spec.hyperparameters.global_batch_size % width:
        raise UserError(
            f"spec.hyperparameters.globalBatchSize {spec.hyperparameters.global_batch_size} is no multiple of {width}",
            "set it to a multiple of spec.deepspeed.microBatchSize times the number of processes",
        )


def _refuse_compiling(spec: FineTuneJobSpec) -> None:
    if not spec.hyperparameters.compile:
        return
    if spec.deepspeed.zero_stage == 3:
        raise UserError(
            "ZeRO stage 3 gathers weights from within the blocks, where compiled code does not look",
            "set spec.hyperparameters.compile to false or spec.deepspeed.zeroStage to 2 or lower",
        )
    if spec.method.tuning is Tuning.QLORA:
        raise UserError(
            "nothing proves that compiled blocks dequantize 4-bit weights right",
            "set spec.hyperparameters.compile to false or spec.method.tuning to lora",
        )
