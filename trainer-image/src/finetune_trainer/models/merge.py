"""Adapters merged into the weights that they change.

``W + scaling * B @ A`` (LoRA, https://arxiv.org/abs/2106.09685), with DoRA (https://arxiv.org/abs/2402.09353, eq. 5)
each output's row of it brought to the length that was learned; computed in float32 whatever the weight is stored in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

_ADAPTER = "default"


def adapted_layers(model: PeftModel) -> Iterator[tuple[str, Any]]:
    """Name in ``model`` and layer of every module that the adapter changes."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and _ADAPTER in module.lora_A:
            yield name, module


def merged_weight(layer: Any, weight: torch.Tensor, trained: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """The weight that does alone what the layer does with its adapter, in float32.

    Args:
        layer: a LoRA layer; only its options are read, its tensors may be partitioned.
        weight: of the layer's base, whole and unquantized.
        trained: tensors of the adapter, whole, by parameter name of the model.
        name: of the layer in the model.
    """
    down, up = (trained[f"{name}.{part}.{_ADAPTER}.weight"].float() for part in ("lora_A", "lora_B"))
    change: torch.Tensor = (up @ down) * layer.scaling[_ADAPTER]
    merged: torch.Tensor = weight.float() + (change.T if layer.fan_in_fan_out else change)
    magnitude = trained.get(f"{name}.lora_magnitude_vector.{_ADAPTER}.weight")
    if magnitude is None:
        return merged
    outputs = 1 if layer.fan_in_fan_out else 0
    lengths = torch.linalg.vector_norm(merged, dim=1 - outputs, keepdim=True)
    resized: torch.Tensor = merged * (magnitude.float().reshape(lengths.shape) / lengths)
    return resized


def dequantized(weight: torch.Tensor) -> torch.Tensor:
    """A weight as plain numbers: a 4-bit one is expanded, another returned as it is."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit

    plain: torch.Tensor = dequantize_4bit(weight.data, state)
    return plain


def whole_shape(weight: torch.Tensor) -> tuple[int, ...]:
    """The shape of a weight that may be partitioned (ZeRO-3) or packed (4-bit)."""
    state = getattr(weight, "quant_state", None)
    return tuple(state.shape if state is not None else getattr(weight, "ds_shape", weight.shape))


def merge_into_base(model: PeftModel) -> torch.nn.Module:
    """The base model with the adapter's changes in its own weights, in their own type. Changes ``model``.

    The tensors of ``model`` must be whole, and its base must not be quantized.
    """
    trained = dict(model.named_parameters())
    with torch.no_grad():
        for name, layer in adapted_layers(model):
            base = layer.get_base_layer()
            base.weight.copy_(merged_weight(layer, base.weight, trained, name))
    plain: torch.nn.Module = model.unload()
    return plain
