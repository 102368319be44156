"""The base model in 4 bits, for QLoRA (https://arxiv.org/abs/2305.14314), through bitsandbytes."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BitsAndBytesConfig

from finetune_api.spec import FineTuneJobSpec, QuantizationOptions, Tuning

_REPACKS = "support_avx512bf16_for_cpu"


def quantization_of(spec: FineTuneJobSpec, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that quantize the linear layers but the output head to NF4 on the device.

    Weights are dequantized block by block to ``dtype`` when they are used. Empty for every tuning but qlora.
    """
    if spec.method.tuning is not Tuning.QLORA:
        return {}
    options = spec.method.quantization or QuantizationOptions()
    config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=options.double_quantization,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def keep_exact(model: torch.nn.Module) -> None:
    """Keeps bitsandbytes from repacking 4-bit weights when they are evaluated on a CPU.

    The packed form computes in bfloat16 whatever the precision asked for, and training over it is not possible.
    """
    for module in model.modules():
        if hasattr(module, _REPACKS):
            setattr(module, _REPACKS, False)
