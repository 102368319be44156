"""Tiny random models of any architecture of transformers, without tokenizer or files."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 97
WINDOW = 5
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
# Half of the layers see a window only; others have it in all layers, or by a default of their own.
_ALTERNATING = ("qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3_text", "cohere2", "olmo3", "exaone4")
_DIFFERENT: dict[str, dict[str, Any]] = {
    "cohere": {"logit_scale": 0.3},
    "cohere2": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 3.0, "attention_multiplier": 0.3, "residual_multiplier": 0.5},
    "granitemoe": {"logits_scaling": 3.0},
    # Low caps, so that they bite.
    "gemma2": {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 0.5},
    "helium": {"head_dim": 8},
    "hunyuan_v1_dense": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "seed_oss": {"attention_dropout": 0.0, "residual_dropout": 0.0},
}


def tiny_architecture(model_type: str, seed: int = 0, **options: Any) -> PreTrainedModel:
    """A model of four layers in training mode, the same for the same seed. Windows of attention are five tokens."""
    config = AutoConfig.for_model(model_type, **_SIZES, **_DIFFERENT.get(model_type, {}), **options)
    if getattr(config, "sliding_window", None) is not None or model_type in _ALTERNATING:
        config.sliding_window = WINDOW
    if model_type in _ALTERNATING:
        config.use_sliding_window = True
        config.layer_types = ["full_attention", "sliding_attention"] * 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        for parameter in model.parameters():
            # As they are initialised, attention and biases have next to no influence.
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.train()
