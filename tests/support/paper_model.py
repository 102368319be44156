"""A model folder that is right in form and was never trained: for stages that read models without running them.

Written without torch and transformers, so that its tests start fast.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HIDDEN, LAYERS, POSITIONS, VOCABULARY = 8, 2, 512, 320
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": POSITIONS,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": True,
}


@lru_cache
def byte_tokenizer() -> str:
    """tokenizer.json of a small byte-level BPE tokenizer: every text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["What is one plus one? It is two.", "user\nassistant\nsystem\n"], trainer)
    return tokenizer.to_str()


def model_tensors() -> dict[str, NDArray[np.float32]]:
    """Weights by name: an embedding and the attention's projections of each layer."""
    random = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        shapes |= {f"model.layers.{layer}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in ("q", "v")}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_paper_model(folder: Path, **config: Any) -> Path:
    """Writes the folder of a model and returns it; ``config`` changes entries of config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "tokenizer.json").write_text(byte_tokenizer())
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    save_file(model_tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
