"""A trained model as a whole: names, shapes and values of its weights as a checkpoint has them.

For an adapter that is to be merged, the base model's weights with the adapter's changes in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.core_model_loading import WeightConverter, revert_weight_conversion

from finetune_trainer.models.merge import adapted_layers, dequantized, merged_weight, whole_shape
from finetune_trainer.training.engine import Engine

_PEFT_PREFIX = "base_model.model."
_BASE_LAYER = ".base_layer"
# A module that an adapter replaces whole: its own copy counts, and the original does not.
_REPLACEMENT, _ORIGINAL = ".modules_to_save.default", ".original_module"


def plain_model(model: torch.nn.Module) -> PreTrainedModel:
    """The transformers model, below an adapter if there is one."""
    plain: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(plain, PreTrainedModel)
    return plain


def checkpoint_shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of the whole model's weights by the names that its checkpoint gives them, in the order of
    :func:`checkpoint_tensors`."""
    saved = saved_names(model)
    found = {saved[name]: whole_shape(value) for name, value in model.named_parameters() if name in saved}
    return found | {saved[name]: tuple(value.shape) for name, value in _buffers(model).items()}


def checkpoint_tensors(engine: Engine, model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and whole value of each weight, one at a time. Collective: every rank takes all of them."""
    saved = saved_names(model)
    trained = dict(engine.master_weights()) if isinstance(model, PeftModel) else {}
    layers = dict(adapted_layers(model)) if isinstance(model, PeftModel) else {}
    for name, value in engine.whole_weights(lambda name: name in saved):
        plain = dequantized(value)
        layer = name.removesuffix(".base_layer.weight")
        if layer != name and layer in layers:
            plain = merged_weight(layers[layer], plain, trained, layer)
        yield saved[name], plain
    for name, buffer in _buffers(model).items():
        yield saved[name], buffer


def saved_names(model: torch.nn.Module) -> Mapping[str, str]:
    """By parameter or persistent buffer of the model, the name that a checkpoint gives it.

    Some architectures call their weights otherwise in memory than in files. Where they are also computed from those in
    files, the name is that in memory.
    """
    names = [name for name, _ in model.named_parameters() if _is_saved(name)]
    plain = {name: _plain_name(name) for name in (*names, *_buffers(model))}
    if computes_its_weights(model):
        return plain
    nothing = torch.empty(0, device="meta")
    return {name: next(iter(as_in_files(model, {known: nothing}))) for name, known in plain.items()}


def computes_its_weights(model: torch.nn.Module) -> bool:
    """Whether the architecture's weights in memory are computed from those in files, as where experts are stacked."""
    conversions = getattr(plain_model(model), "_weight_conversions", None) or ()
    return any(isinstance(conversion, WeightConverter) for conversion in conversions)


def as_in_files(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights by their names in memory, in names and form of the files."""
    reverted: dict[str, torch.Tensor] = revert_weight_conversion(plain_model(model), state)
    return reverted


def _is_saved(name: str) -> bool:
    return ".lora_" not in name and _ORIGINAL not in name


def _plain_name(name: str) -> str:
    """The name that the base model alone gives a parameter."""
    return name.removeprefix(_PEFT_PREFIX).replace(_BASE_LAYER, "").replace(_REPLACEMENT, "")


def _buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Buffers that a checkpoint holds. Those of quantized layers describe a form that is not saved."""
    kept = set(model.state_dict())
    return {
        name: value
        for name, value in model.named_buffers()
        if name in kept and value.is_floating_point() and _is_saved(name) and _BASE_LAYER not in name
    }
