"""Datasets as cases of a table: files, what the spec says of them, and what prepare makes of it."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from tokenizers import Tokenizer

from finetune_api.plan import RunPlan
from finetune_api.results import Prepared
from finetune_trainer.data.splits import TokenizedSplit, fetch_splits
from finetune_trainer.errors import DataError, UserError
from finetune_trainer.prepare import prepare
from support.paper_model import byte_tokenizer
from support.run_plans import Place, chat

GOOD = chat("Good?", "Yes.")
TOOL_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALTERNATING_TEMPLATE = (
    "{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
)


@dataclass(frozen=True)
class Data:
    """Files below one folder of the bucket, and the fields of the dataset and of its only training source.

    ``source`` is the file or folder that is named, ``limit_tokens`` is hyperparameters.maxSequenceLength.
    """

    files: Mapping[str, bytes]
    source: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    limit_tokens: int = 256

    def plan(self, place: Place) -> RunPlan:
        """Uploads the files and gives the plan of a job that reads them."""
        for name, content in self.files.items():
            place.put(f"corpus/{name}", content)
        only = next(iter(self.files)) if len(self.files) == 1 else ""
        name = self.source or only
        uri = f"s3://{place.bucket}/corpus/{name}".rstrip("/")
        train = {"source": uri, **self.fields}
        return place.plan(
            dataset={"train": [train], **self.dataset}, hyperparameters={"maxSequenceLength": self.limit_tokens}
        )


def rows(*content: object, name: str = "rows.jsonl", **more: Any) -> Data:
    """One file of JSON lines; strings and bytes are lines as they stand."""
    return Data({name: lines(*content)}, **more)


def lines(*content: object) -> bytes:
    """Rows as JSON lines; strings and bytes are lines as they stand."""
    return b"".join(_line(row) + b"\n" for row in content)


def _line(row: object) -> bytes:
    if isinstance(row, bytes):
        return row
    return (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)).encode()


def parquet(*content: Mapping[str, Any], schema: pyarrow.Schema | None = None, **options: Any) -> bytes:
    """Rows as a Parquet file."""
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(content), schema=schema), sink, **options)
    return sink.getvalue()


COMPRESSED = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: zstandard.ZstdCompressor().compress(content),
}


@dataclass(frozen=True)
class Seen:
    """One sequence as the model sees it: all of its text, and the text of the tokens that carry loss."""

    text: str
    loss: str


def prepared_rows(place: Place, data: Data, folder: Path) -> tuple[Prepared, list[list[Seen]], list[list[Seen]]]:
    """What prepare says, and the training and held-out rows that it leaves; each row is a list of sequences."""
    plan = data.plan(place)
    prepared = prepare(plan, place.environment)
    splits = fetch_splits(plan.model_copy(update={"prepared": prepared}), place.environment, folder)
    return prepared, _seen(splits.train), _seen(splits.validation) if splits.validation else []


def _seen(split: TokenizedSplit) -> list[list[Seen]]:
    tokenizer = Tokenizer.from_str(byte_tokenizer())
    width = len(split.lengths) // len(split)
    found = []
    for number in range(len(split)):
        sequences = [split.row(width * number + index) for index in range(width)]
        found.append(
            [
                Seen(
                    tokenizer.decode(ids.tolist(), skip_special_tokens=False),
                    tokenizer.decode(ids[mask != 0].tolist(), skip_special_tokens=False),
                )
                for ids, mask in sequences
            ]
        )
    return found


def kind(name: str, **fields: str) -> dict[str, Any]:
    """Fields of a source of a format, with names of columns."""
    return {"fields": {"format": name, **({"fields": fields} if fields else {})}}


def refusal(place: Place, data: Data) -> DataError | UserError:
    """The error with which prepare ends."""
    with pytest.raises((DataError, UserError)) as refused:
        prepare(data.plan(place), place.environment)
    assert refused.value.remedy
    return refused.value
