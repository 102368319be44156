"""A model's tokenizer and chat template, without the transformers library: tokens and loss mask of conversations."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from finetune_trainer.data.chat import ChatTemplate, Rendered, Span
from finetune_trainer.errors import UserError
from finetune_trainer.models.modelfiles import TOKENIZER

TEMPLATE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
# Files that decide which tokens a conversation becomes, and which of them carry loss.
FILES = (TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS, TEMPLATE, GENERATION_CONFIG)
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class TokenizedRow:
    """Token ids and loss mask of one conversation, each [tokens]."""

    input_ids: list[int]
    loss_mask: bytearray


class ChatTokenizer:
    """Turns conversations into tokens as ``apply_chat_template`` of transformers does.

    Raises:
        UserError: there is no usable tokenizer or chat template in the folder.
    """

    def __init__(self, folder: Path) -> None:
        config = _json_file(folder / TOKENIZER_CONFIG)
        source = template_source(folder, config)
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        # The library raises bare exceptions with the parser's words.
        except Exception as error:
            raise UserError(
                f"{TOKENIZER} of spec.model.source is not readable: {error}",
                "write it again: AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)",
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        named = named_tokens(_json_file(folder / SPECIAL_TOKENS) | config)
        added = self._tokenizer.get_added_tokens_decoder().values()
        self.template = ChatTemplate(
            source,
            named,
            {token.content for token in added if token.special} | set(named.values()),
            self._stop_tokens(named, _json_file(folder / GENERATION_CONFIG)),
        )

    def _stop_tokens(self, named: dict[str, str], generation: dict[str, Any]) -> set[str]:
        found = generation.get("eos_token_id")
        ids = found if isinstance(found, list) else [found]
        tokens = (self._tokenizer.id_to_token(one) for one in ids if isinstance(one, int))
        return {token for token in (*tokens, named.get("eos_token")) if token}

    def tokenize(self, rows: Sequence[Rendered]) -> Iterator[TokenizedRow]:
        """Tokens of rendered conversations, computed on all cores."""
        encodings: list[Encoding] = self._tokenizer.encode_batch([row.text for row in rows], add_special_tokens=False)
        for row, encoding in zip(rows, encodings, strict=True):
            yield TokenizedRow(encoding.ids, loss_mask(encoding.offsets, row.spans))


def loss_mask(offsets: Sequence[Span], spans: Sequence[Span]) -> bytearray:
    """1 for each token that covers a character of a span, [tokens].

    ``offsets`` are the first character of each token and the one after its last; both never decrease.
    """
    begin, end = itemgetter(0), itemgetter(1)
    mask = bytearray(len(offsets))
    for start, stop in spans:
        # A token of trimmed white space may cover no character at all: it lies where it begins.
        first = min(bisect_left(offsets, start, key=begin), bisect_right(offsets, start, key=end))
        last = bisect_left(offsets, stop, key=begin)
        mask[first:last] = bytes([1]) * (last - first)
    return mask


def template_source(folder: Path, config: dict[str, Any]) -> str:
    """The chat template: the file of its own, else the entry of the tokenizer's configuration.

    Raises:
        UserError: the model has none.
    """
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):
        found = {entry.get("name"): entry.get("template") for entry in found}.get("default")
    if not isinstance(found, str):
        raise UserError(
            "the model of spec.model.source has no chat template",
            f"use an instruction-tuned model, or add {TEMPLATE} beside its {TOKENIZER}",
        )
    return found


def named_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Texts of the named special tokens; a configuration holds them as strings or as objects."""
    values = {name: config.get(name) for name in _NAMED_TOKENS}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in values.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _json_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path.name} of spec.model.source is not JSON: {error}", "copy the model again") from error
    return content if isinstance(content, dict) else {}
