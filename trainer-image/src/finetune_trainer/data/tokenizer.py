"""A model's tokenizer and chat template, without the transformers library: tokens and loss mask of rows."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Encoding, Tokenizer

from finetune_trainer.data.chat import MODEL_FIELD, ChatTemplate, Rendered, Span
from finetune_trainer.errors import UserError
from finetune_trainer.models.modelfiles import TOKENIZER

TEMPLATE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE_FIELD = "spec.dataset.chatTemplate"
GENERATION_CONFIG = "generation_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
# Files that decide which tokens a conversation becomes, and which of them carry loss.
FILES = (TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS, TEMPLATE, GENERATION_CONFIG)
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


# Named tuples are made in a fifth of a frozen dataclass's time, and each row needs one.
class TokenizedRow(NamedTuple):
    """Token ids and loss mask of one sequence, each [tokens]."""

    input_ids: list[int]
    loss_mask: bytearray


class TextTokenizer:
    """Turns text into tokens as transformers does, and says which of them carry loss.

    Raises:
        UserError: there is no usable tokenizer in the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._config = _json_file(folder / TOKENIZER_CONFIG)
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
        self._named = named_tokens(_json_file(folder / SPECIAL_TOKENS) | self._config)

    def chat_template(self, given: str | None = None) -> ChatTemplate:
        """The template that renders conversations: one that is given, else the model's own.

        Raises:
            UserError: there is none, or it cannot be used for training.
        """
        added = self._tokenizer.get_added_tokens_decoder().values()
        return ChatTemplate(
            given or template_source(self._folder, self._config),
            self._named,
            {token.content for token in added if token.special} | set(self._named.values()),
            self._stop_tokens(_json_file(self._folder / GENERATION_CONFIG)),
            TEMPLATE_FIELD if given else MODEL_FIELD,
        )

    def _stop_tokens(self, generation: dict[str, Any]) -> set[str]:
        found = generation.get("eos_token_id")
        ids = found if isinstance(found, list) else [found]
        tokens = (self._tokenizer.id_to_token(one) for one in ids if isinstance(one, int))
        return {token for token in (*tokens, self._named.get("eos_token")) if token}

    @cached_property
    def end_of_text(self) -> int:
        """The token that ends plain text.

        Raises:
            UserError: the tokenizer names none.
        """
        name = self._named.get("eos_token")
        found = self._tokenizer.token_to_id(name) if name else None
        if found is None:
            raise UserError(
                "the tokenizer of spec.model.source has no eos_token, so that text would never end",
                f"name one in its {TOKENIZER_CONFIG}, or use a format that the chat template renders",
            )
        return found

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        names = self._stop_tokens(_json_file(self._folder / GENERATION_CONFIG))
        found = (self._tokenizer.token_to_id(name) for name in names)
        return frozenset(token for token in found if token is not None)

    def text(self, ids: Sequence[int], special: bool) -> str:
        """The text of some tokens, with or without special ones."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=not special)

    def tokenize(self, rows: Sequence[Rendered]) -> list[TokenizedRow]:
        """Tokens of rendered rows, in order, computed on all cores that the process may use."""
        found: list[TokenizedRow | None] = [None] * len(rows)
        for plain in {row.plain for row in rows}:
            places = [index for index, row in enumerate(rows) if row.plain is plain]
            texts = [rows[index].text for index in places]
            for index, encoding in zip(
                places, self._tokenizer.encode_batch(texts, add_special_tokens=plain), strict=True
            ):
                found[index] = self._row(encoding, rows[index])
        return [row for row in found if row is not None]

    def shown(self, row: Rendered, limit: int) -> tuple[str, tuple[Span, ...], bool]:
        """A row as the model sees it: the text of its first ``limit`` tokens, the characters of it that carry loss,
        and whether there is more."""
        encoding = self._tokenizer.encode(row.text, add_special_tokens=row.plain)
        tokens = self._row(encoding, row)
        end = max((stop for _, stop in encoding.offsets[:limit]), default=0)
        marked = [place for place, carries in zip(encoding.offsets[:limit], tokens.loss_mask, strict=False) if carries]
        spans: list[Span] = []
        for begin, stop in marked:
            if spans and begin <= spans[-1][1]:
                spans[-1] = spans[-1][0], max(stop, spans[-1][1])
            elif stop > begin:
                spans.append((begin, stop))
        return row.text[:end], tuple(spans), len(tokens.input_ids) > limit

    def _row(self, encoding: Encoding, row: Rendered) -> TokenizedRow:
        ids = encoding.ids
        if not row.plain:
            return TokenizedRow(ids, _quick_loss_mask(encoding, row.spans) or loss_mask(encoding.offsets, row.spans))
        # Special tokens around the text cover no characters: those before it carry no loss, the one that ends it does.
        special = encoding.special_tokens_mask
        content = [place for place, token in enumerate(special) if not token]
        first, end = (content[0], content[-1] + 1) if content else (len(ids), len(ids))
        mask = (
            bytearray(first) + loss_mask(encoding.offsets[first:end], row.spans) + bytearray(b"\x01") * (len(ids) - end)
        )
        if ids and ids[-1] == self.end_of_text:
            return TokenizedRow(ids, mask)
        return TokenizedRow([*ids, self.end_of_text], mask + b"\x01")


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


def _quick_loss_mask(encoding: Encoding, spans: Sequence[Span]) -> bytearray | None:
    """What :func:`loss_mask` returns, or None where it has to be asked: getting all offsets takes long."""
    mask = bytearray(len(encoding))
    for start, stop in spans:
        first, last = _token_at(encoding, start), _token_at(encoding, stop)
        if first is None or last is None:
            return None
        mask[first:last] = b"\x01" * (last - first)
    return mask


def _token_at(encoding: Encoding, place: int) -> int | None:
    """The one token that begins at a character and covers it, if no token without characters lies there too."""
    token = encoding.char_to_token(place)
    if token is None or _begin(encoding, token) != place or (token and _begin(encoding, token - 1) == place):
        return None
    return token


def _begin(encoding: Encoding, token: int) -> int:
    """The first character of a token; of one that stands for none, what no place is."""
    characters = encoding.token_to_chars(token)
    return characters[0] if characters else -1


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
            f"use an instruction-tuned model, set {TEMPLATE_FIELD}, or add {TEMPLATE} beside its {TOKENIZER}",
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
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path.name} of spec.model.source is not JSON: {reason}", "copy the model again") from error
    return content if isinstance(content, dict) else {}
