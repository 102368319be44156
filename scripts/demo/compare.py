"""Measures base and tuned model again, with plain transformers and PEFT and none of the trainer's code."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

# The label that torch.nn.functional.cross_entropy leaves out.
_NO_LOSS = -100


@dataclass(frozen=True)
class Comparison:
    """Held-out loss in nats per token, and the answers to one question, of both models."""

    rows: int
    base_loss: float
    tuned_loss: float
    base_answer: str
    tuned_answer: str


@dataclass(frozen=True)
class Chat:
    """One row as the model reads it: token ids, and labels that are ids on the answer's tokens only."""

    ids: list[int]
    labels: list[int]


def compare(base: Path, adapter: Path, rows: Path, held_out: Path, question: str) -> Comparison:
    """Loads the base model, then the adapter on top of it, and measures both.

    Args:
        base: folder of the base model.
        adapter: folder of the published adapter.
        rows: the JSONL file that was trained on.
        held_out: the held-out shard of the run; says which rows were held out, and nothing else is read of it.
        question: what both models are asked.
    """
    quiet: Any = logging
    quiet.disable_progress_bar()
    # PEFT asks transformers for a name that it calls deprecated.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    chats = held_out_chats(tokenizer, rows, held_out)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.eval()
    base_loss, base_answer = mean_loss(model, chats), answer(model, tokenizer, question)
    tuned: Any = PeftModel.from_pretrained(model, str(adapter)).eval()
    return Comparison(len(chats), base_loss, mean_loss(tuned, chats), base_answer, answer(tuned, tokenizer, question))


def held_out_chats(tokenizer: Any, rows: Path, held_out: Path) -> list[Chat]:
    """The rows that were held out, tokenized anew from their text."""
    chats = [chat_of(tokenizer, json.loads(line)["messages"]) for line in rows.read_text().splitlines()]
    return list(filter(membership(held_out), chats))


def membership(held_out: Path) -> Callable[[Chat], bool]:
    """Tells of a chat whether it is in a held-out shard, where it may have been truncated."""
    tensors = load_file(held_out)
    ids = tensors["input_ids"].tolist()
    known = {tuple(ids[begin:end]) for begin, end in pairwise(tensors["offsets"].tolist())}
    longest = max(map(len, known))
    return lambda chat: tuple(chat.ids[:longest]) in known


def chat_of(tokenizer: Any, messages: list[dict[str, str]]) -> Chat:
    """A conversation with its labels."""
    ids: list[int] = tokenizer.apply_chat_template(messages, return_dict=False)
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
    # The line feed after the end of the turn belongs to the template, not to the answer.
    end = len(ids) - list(reversed(ids)).index(tokenizer.eos_token_id)
    labels = [token if len(prompt) <= place < end else _NO_LOSS for place, token in enumerate(ids)]
    return Chat(ids, labels)


@torch.inference_mode()
def mean_loss(model: Any, chats: Sequence[Chat]) -> float:
    """Cross-entropy per answer token over all chats, one at a time and so without padding."""
    total, count = 0.0, 0
    for chat in chats:
        logits = model(input_ids=torch.tensor([chat.ids])).logits[0, :-1].float()
        labels = torch.tensor(chat.labels[1:])
        total += torch.nn.functional.cross_entropy(logits, labels, ignore_index=_NO_LOSS, reduction="sum").item()
        count += int((labels != _NO_LOSS).sum())
    return total / count


@torch.inference_mode()
def answer(model: Any, tokenizer: Any, question: str, tokens: int = 64) -> str:
    """The most likely answer, at most ``tokens`` tokens long."""
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    output = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    text: str = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return " ".join(text.split())
