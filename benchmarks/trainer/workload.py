"""Models and rows that all contenders train on."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

PROJECT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(PROJECT / "tests"))

LEARNING_RATE, MAX_GRAD_NORM, SEED = 1e-3, 1.0, 7


@dataclass(frozen=True)
class Workload:
    """What is trained: rows of random tokens, ``batch`` of them per step, in AdamW steps at a constant rate."""

    lengths: tuple[int, ...]
    batch: int
    longest: int
    packing: bool = False
    zero_stage: int = 0
    hidden: int = 256
    layers: int = 4
    vocabulary: int = 8192

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields = json.loads(text)
        return cls(**{**fields, "lengths": tuple(fields["lengths"])})

    def rows(self) -> list[NDArray[np.int32]]:
        """Token ids of each row."""
        random = np.random.default_rng(1)
        return [random.integers(3, self.vocabulary, length).astype(np.int32) for length in self.lengths]

    def order(self) -> list[int]:
        """The rows in the order in which the trainer sees them in the first epoch, without packing."""
        from finetune_trainer.training.epochs import epoch_rows

        return [int(row) for row in epoch_rows(len(self.lengths), SEED, 0, 0, len(self.lengths))]


def chat_lengths(rows: int, longest: int, seed: int = 0) -> tuple[int, ...]:
    """Log-normal lengths as chats have them: median 148, mean 221, 95 % below 650."""
    lengths = np.random.default_rng(seed).lognormal(5.0, 0.9, rows)
    return tuple(int(length) for length in np.clip(lengths, 8, longest))


def write_model(workload: Workload, folder: Path) -> Path:
    """A random Llama with a tokenizer, in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from support.tiny_model import tiny_tokenizer

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=workload.vocabulary,
        hidden_size=workload.hidden,
        intermediate_size=4 * workload.hidden,
        num_hidden_layers=workload.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=workload.longest,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
