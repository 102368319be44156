"""Writes a tiny random Llama with a tokenizer and a chat template: a whole model folder in a second, without a hub."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"

# ChatML, as SmolLM2 writes it: a default system turn, no markers for the assistant's turns.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_CORPUS = (
    "system\nYou are a helpful assistant\nuser\nassistant\n",
    "What does ZeRO stage two partition? The optimizer state and the gradients.",
    "How many training pods does a job with two nodes start? Two, one per node.",
    "The adapter is published to the bucket and read back before the job is complete.",
)


def write_tiny_model(
    folder: Path,
    *,
    seed: int = 0,
    hidden_size: int = 32,
    layers: int = 2,
    heads: int = 4,
    key_value_heads: int = 2,
    max_positions: int = 512,
    tie_word_embeddings: bool = True,
) -> Path:
    """Writes config, float32 safetensors, tokenizer and chat template into ``folder`` and returns it.

    The same arguments give the same bytes: the weights come from ``seed``, the tokenizer from a fixed corpus.
    """
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=hidden_size,
                intermediate_size=2 * hidden_size,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=key_value_heads,
                max_position_embeddings=max_positions,
                tie_word_embeddings=tie_word_embeddings,
                bos_token_id=tokenizer.convert_tokens_to_ids(TURN_START),
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_tokenizer(vocabulary_size: int = 384) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on a fixed corpus; any UTF-8 text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=TURN_END, pad_token=END_OF_TEXT, chat_template=CHAT_TEMPLATE
    )


def write_chat_rows(file: Path, rows: int = 24) -> Path:
    """Writes ``rows`` different question-and-answer rows as JSONL and returns the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = (
        {
            "messages": [
                {"role": "user", "content": f"What is {number} plus one?"},
                {"role": "assistant", "content": f"{number} plus one is {number + 1}."},
            ]
        }
        for number in range(rows)
    )
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file
