"""Tiny random models of architectures other than Llama, each with what sets it apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
)

from support.tiny_model import tiny_tokenizer

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def architectures() -> dict[str, PretrainedConfig]:
    """A configuration of each kind, by a short name."""
    tokenizer = tiny_tokenizer()
    common = _SIZES | {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return {
        # Biases in the attention.
        "qwen": Qwen2Config(num_key_value_heads=2, tie_word_embeddings=False, **common),
        # A window of attention shorter than the longest row.
        "mistral": MistralConfig(num_key_value_heads=2, sliding_window=16, **common),
        # Tied embeddings, heads of another size, norms around each part, windows in some layers.
        "gemma": Gemma3TextConfig(num_key_value_heads=2, head_dim=16, sliding_window=16, **common),
        # Parallel residuals, one matrix for queries, keys and values, and a head that its files call otherwise.
        "gptneox": GPTNeoXConfig(**common),
    }


def write_architecture(folder: Path, config: PretrainedConfig) -> Path:
    """Writes a model of a configuration, with a tokenizer, into a folder; the same bytes each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
