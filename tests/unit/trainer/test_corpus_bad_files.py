"""Bad files, settings and models: each is refused by prepare with its reason, word for word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from support.corpus import COMPRESSED, GOOD, Data, kind, lines, parquet, refusal, rows
from support.paper_model import write_paper_model
from support.run_plans import Place, chat

ROW = "s3://bucket/corpus/rows.jsonl"
CHAT_OF_STRUCTS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
PARQUET: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "text as bytes": (
        parquet({"text": "a"}, {"text": "b"}, schema=pyarrow.schema([("text", pyarrow.binary())])),
        kind("completion"),
        '2 of 2 rows cannot be used:\n{file}:1: "text" is not a string\n{file}:2: "text" is not a string',
    ),
    "text as numbers": (
        parquet({"text": 1}),
        kind("completion"),
        '1 of 1 row cannot be used:\n{file}:1: "text" is not a string',
    ),
    "null among texts": (
        parquet({"text": "a"}, {"text": None}),
        kind("completion"),
        '1 of 2 rows cannot be used:\n{file}:2: "text" is not a string',
    ),
    "no such column": (
        parquet({"prompt": "a"}),
        {},
        "1 of 1 row cannot be used:\n{file}:1: no \"messages\" (found 'prompt')",
    ),
    "null among messages": (
        parquet({"messages": CHAT_OF_STRUCTS}, {"messages": None}),
        {},
        '1 of 2 rows cannot be used:\n{file}:2: "messages" is not a list',
    ),
    "messages as one struct": (
        parquet({"messages": {"role": "user", "content": "a"}}),
        {},
        '1 of 1 row cannot be used:\n{file}:1: "messages" is not a list',
    ),
    "content that some messages lack": (
        parquet({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]}),
        {},
        "1 of 1 row cannot be used:\n{file}:1: the content of messages[1] is not a string",
    ),
    "messages as a map": (
        parquet(
            {"messages": [[("role", "user"), ("content", "a")]]},
            schema=pyarrow.schema([("messages", pyarrow.list_(pyarrow.map_(pyarrow.string(), pyarrow.string())))]),
        ),
        {},
        "1 of 1 row cannot be used:\n{file}:1: messages[0] is not an object",
    ),
    "label as text": (
        parquet({"prompt": "a", "completion": "b", "label": "true"}),
        kind("unpaired"),
        '1 of 1 row cannot be used:\n{file}:1: "label" is neither true nor false',
    ),
    "label as NaN": (
        parquet({"prompt": "a", "completion": "b", "label": float("nan")}),
        kind("unpaired"),
        '1 of 1 row cannot be used:\n{file}:1: "label" is neither true nor false',
    ),
    "no rows": (
        parquet(schema=pyarrow.schema([("messages", pyarrow.string())])),
        {},
        "the dataset of spec.dataset.train is empty: {file} has no rows",
    ),
    "no Parquet": (
        lines(GOOD),
        {},
        "{file} is no readable Parquet file: Parquet magic bytes not found in footer. Either the file is corrupted or "
        "this is not a parquet file.",
    ),
}


@pytest.mark.parametrize("case", PARQUET)
def test_bad_parquet(folder_place: Place, case: str) -> None:
    content, settings, message = PARQUET[case]
    error = refusal(folder_place, Data({"rows.parquet": content}, **settings))
    assert error.message == message.replace("{file}", "s3://bucket/corpus/rows.parquet")


def test_a_parquet_file_that_ends_in_the_middle(folder_place: Place) -> None:
    error = refusal(folder_place, Data({"rows.parquet": parquet({"text": "a"})[:-20]}, **kind("completion")))
    assert error.message.startswith("s3://bucket/corpus/rows.parquet is no readable Parquet file: ")


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_a_compressed_file_that_ends_in_the_middle(folder_place: Place, suffix: str) -> None:
    content = COMPRESSED[suffix](lines(*[chat(f"Question {number}?", "Yes.") for number in range(50)]))
    error = refusal(folder_place, Data({f"rows.jsonl.{suffix}": content[: len(content) // 2]}))
    assert error.message == f"s3://bucket/corpus/rows.jsonl.{suffix} is damaged: it ends in the middle"


@pytest.mark.parametrize(
    ("suffix", "reason"),
    [
        ("gz", "Not a gzipped file (b'{\"')"),
        ("bz2", "Invalid data stream"),
        ("xz", "Input format not supported by decoder"),
        ("zst", "zstd decompressor error: Unknown frame descriptor"),
    ],
)
def test_a_file_that_is_not_compressed_as_its_name_says(folder_place: Place, suffix: str, reason: str) -> None:
    error = refusal(folder_place, Data({f"rows.jsonl.{suffix}": lines(GOOD)}))
    assert error.message == f"s3://bucket/corpus/rows.jsonl.{suffix} is not a .{suffix} file: {reason}"


FILES = {"rows.jsonl": lines(GOOD), "more/rows.parquet": parquet({"messages": CHAT_OF_STRUCTS}), "README.md": b"# x"}
LONG = chat("Why?", "word " * 50)
SETTINGS: dict[str, tuple[Data, str]] = {
    "table of values": (
        Data({"rows.csv": b"a,b\n"}),
        "s3://bucket/corpus/rows.csv of spec.dataset.train[0].source is no file of rows: its name must end in .jsonl "
        "or .parquet",
    ),
    "archive": (
        Data({"rows.tar.gz": b"x"}),
        "s3://bucket/corpus/rows.tar.gz of spec.dataset.train[0].source is no file of rows: its name must end in "
        ".jsonl or .parquet",
    ),
    "two kinds of files": (
        Data(FILES),
        "s3://bucket/corpus of spec.dataset.train[0].source has files of more than one kind: more/rows.parquet and "
        "rows.jsonl",
    ),
    "pattern that fits nothing": (
        Data(FILES, fields={"files": "train-*.parquet"}),
        "s3://bucket/corpus of spec.dataset.train[0].source does not exist: there is no such file, and no .jsonl or "
        ".parquet file below it that fits 'train-*.parquet'",
    ),
    "folder without rows": (
        Data({"README.md": b"", "info.json": b"{}"}),
        "s3://bucket/corpus of spec.dataset.train[0].source does not exist: there is no such file, and no .jsonl or "
        ".parquet file below it",
    ),
    "blank lines only": (
        rows("", " "),
        "the dataset of spec.dataset.train is empty: s3://bucket/corpus/rows.jsonl has no rows",
    ),
    "more bad rows than allowed": (
        rows(GOOD, "{", "[]", dataset={"checks": {"maxRefusedRows": 1}}),
        f"2 of 3 rows cannot be used, more than spec.dataset.checks.maxRefusedRows 1:\n{ROW}:2: not valid JSON: "
        f"Expecting property name enclosed in double quotes at column 2\n{ROW}:3: not a JSON object, but a list: write "
        "one object per line",
    ),
    "only bad rows, all allowed": (
        rows("{", dataset={"checks": {"maxRefusedRows": 9}}),
        "no row of spec.dataset.train can be used",
    ),
    "duplicates": (
        rows(GOOD, GOOD, chat("a", "b"), dataset={"checks": {"maxDuplicateFraction": "0.3"}}),
        "1 of 3 training rows equal an earlier one (33.3%), more than spec.dataset.checks.maxDuplicateFraction '0.3' "
        "allows",
    ),
    "near duplicates": (
        rows(
            chat("Tell me a story.", "Once upon a time there was a king who had three sons and a daughter."),
            chat("Tell me a story.", "ONCE upon a time there was a king who had three sons  and a daughter."),
            dataset={"checks": {"maxNearDuplicateFraction": "0"}},
        ),
        "1 of 2 training rows nearly equal an earlier one (50.0%), more than "
        "spec.dataset.checks.maxNearDuplicateFraction '0' allows",
    ),
    "held-out rows that are trained on": (
        Data(
            {"rows.jsonl": lines(GOOD, chat("a", "b")), "held/out.jsonl": lines(chat("c", "d"), GOOD)},
            source="rows.jsonl",
            dataset={
                "validation": {"sources": [{"source": "s3://bucket/corpus/held/out.jsonl"}]},
                "checks": {"maxValidationOverlap": "0"},
            },
        ),
        "1 of 2 held-out rows are training rows too (50.0%), more than spec.dataset.checks.maxValidationOverlap '0' "
        "allows",
    ),
    "too much is cut off": (
        rows(GOOD, LONG, dataset={"checks": {"maxTruncatedFraction": "0.1"}}, limit_tokens=40),
        "1 of 2 training rows are truncated (50.0%), more than spec.dataset.checks.maxTruncatedFraction '0.1' allows",
    ),
    "every answer is cut off": (
        rows(chat("word " * 50, "So."), limit_tokens=40),
        "no row of spec.dataset.train has a token of the assistant among its first 40 tokens",
    ),
    "weights that leave nothing": (
        rows(GOOD, fields={"weight": "0.000001"}),
        "the weights of spec.dataset.train leave no row to train on",
    ),
    "fraction that leaves nothing to hold out": (
        rows(GOOD, chat("a", "b"), dataset={"validation": {"fraction": "0.01"}}),
        "spec.dataset.validation.fraction '0.01' of 2 rows leaves nothing to hold out",
    ),
    "fraction of equal rows": (
        rows(GOOD, GOOD, dataset={"validation": {"fraction": "1"}}),
        "spec.dataset.validation.fraction '1' of 2 rows leaves nothing to train on",
    ),
    "template that is not valid": (
        rows(GOOD, dataset={"chatTemplate": "{% for"}),
        "the chat template of spec.dataset.chatTemplate is not valid: unexpected 'end of template'",
    ),
    "template that never ends a turn": (
        rows(GOOD, dataset={"chatTemplate": "{% for message in messages %}{{ message.content }}\n{% endfor %}"}),
        "the chat template of spec.dataset.chatTemplate does not end the assistant's turn with a special token, so "
        "that the model would never learn to stop",
    ),
    "template that refuses everything": (
        rows(GOOD, dataset={"chatTemplate": "{{ raise_exception('no') }}"}),
        "the chat template of spec.dataset.chatTemplate cannot render a question with its answer: the chat template "
        "refuses it: no",
    ),
    "template that leaves the sandbox": (
        rows(GOOD, dataset={"chatTemplate": "{{ messages.__class__.__mro__ }}"}),
        "the chat template of spec.dataset.chatTemplate cannot render a question with its answer: the chat template "
        "refuses it: access to attribute '__class__' of 'list' object is unsafe.",
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_bad_files_and_settings(folder_place: Place, case: str) -> None:
    data, message = SETTINGS[case]
    assert refusal(folder_place, data).message == message


def put_model(place: Place, folder: Path, **tokenizer_config: Any) -> None:
    """Another model in place of the usual one, with other named tokens and no chat template."""
    shutil.rmtree(Path(place.endpoint.removeprefix("file://")) / place.bucket / "model")
    write_paper_model(folder)
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    place.put_folder(folder, "model")


def test_a_base_model_has_no_template_for_chat(folder_place: Place, tmp_path: Path) -> None:
    put_model(folder_place, tmp_path / "base", eos_token="<|endoftext|>")
    assert refusal(folder_place, rows(GOOD)).message == "the model of spec.model.source has no chat template"


def test_text_needs_a_token_that_ends_it(folder_place: Place, tmp_path: Path) -> None:
    put_model(folder_place, tmp_path / "base")
    assert refusal(folder_place, rows({"text": "a"}, **kind("completion"))).message == (
        "the tokenizer of spec.model.source has no eos_token, so that text would never end"
    )


def test_the_corpus_is_large_enough() -> None:
    assert len(PARQUET) + len(SETTINGS) >= 30
