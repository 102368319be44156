"""Measures on held-out pairs what preference tuning changed, with plain transformers and PEFT only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from scripts.demo.compare import Chat, chat_of, membership
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass(frozen=True)
class Preferences:
    """Held-out pairs, and how the tuned model sees them beside the model that it began as.

    Attributes:
        pairs: how many there are.
        accuracy: share of them whose chosen answer became more likely, compared with the rejected one.
        margin: by how many nats, in the mean.
    """

    pairs: int
    accuracy: float
    margin: float


def compare_preferences(base: Path, before: Path, after: Path, pairs: Path, held_out: Path) -> Preferences:
    """Loads both adapters over the base model and measures them.

    Args:
        base: folder of the base model.
        before: folder of the adapter that preference tuning went on from.
        after: folder of the adapter that it published.
        pairs: the JSONL file that was trained on.
        held_out: the held-out shard of the run; says which pairs were held out, and nothing else is read of it.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    chosen = held_out_pairs(tokenizer, pairs, held_out)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(before), adapter_name="before").eval()
    model.load_adapter(str(after), adapter_name="after")
    margins = {}
    for name in ("before", "after"):
        model.set_adapter(name)
        margins[name] = [log_likelihood(model, good) - log_likelihood(model, bad) for good, bad in chosen]
    changes = [new - old for old, new in zip(margins["before"], margins["after"], strict=True)]
    return Preferences(len(changes), sum(change > 0 for change in changes) / len(changes), sum(changes) / len(changes))


def held_out_pairs(tokenizer: Any, pairs: Path, held_out: Path) -> list[tuple[Chat, Chat]]:
    """The pairs that were held out, tokenized anew from their text."""
    is_held_out = membership(held_out)
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    found = [(_answered(tokenizer, row, "chosen"), _answered(tokenizer, row, "rejected")) for row in rows]
    return [pair for pair in found if all(map(is_held_out, pair))]


def _answered(tokenizer: Any, row: dict[str, str], answer: str) -> Chat:
    turns = {"user": row["prompt"], "assistant": row[answer]}
    return chat_of(tokenizer, [{"role": role, "content": content} for role, content in turns.items()])


@torch.inference_mode()
def log_likelihood(model: Any, chat: Chat) -> float:
    """Sum of the log-probabilities of the answer's tokens, in nats."""
    logits = model(input_ids=torch.tensor([chat.ids])).logits[0, :-1].float()
    labels = torch.tensor(chat.labels[1:])
    return -torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
