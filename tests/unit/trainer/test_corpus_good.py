"""Good but odd datasets: each passes prepare, and these are the rows, as the model sees them, with the text of loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from support.corpus import (
    COMPRESSED,
    GOOD,
    MARKED_TEMPLATE,
    TOOL_TEMPLATE,
    Data,
    Seen,
    lines,
    parquet,
    prepared_rows,
    rows,
)
from support.run_plans import Place, chat

Turn = tuple[str, str]
USER = {"role": "user", "content": "Why?"}


def seen(*turns: Turn, loss: str | None = None) -> Seen:
    """A conversation in the template of the test's model; ``loss`` is that of all answers when it is left out."""
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    answers = "".join(f"{content}<|im_end|>" for role, content in turns if role == "assistant")
    return Seen(text, answers if loss is None else loss)


def talked(question: str, answer: str) -> Seen:
    return seen(("user", question), ("assistant", answer))


def plain(text: str, loss: str | None = None) -> Seen:
    """Text without a template; the token that ends it carries loss."""
    return Seen(f"{text}<|im_end|>", f"{text if loss is None else loss}<|im_end|>")


def kind(name: str, **fields: str) -> dict[str, Any]:
    return {"fields": {"format": name, **({"fields": fields} if fields else {})}}


YES = talked("Good?", "Yes.")
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}
STRUCTS = [{"role": "user", "content": "Good?"}, {"role": "assistant", "content": "Yes."}]
SHAREGPT = [{"from": "human", "value": "Good?"}, {"from": "gpt", "value": "Yes."}]
LARGE_STRINGS = pyarrow.schema([("prompt", pyarrow.large_string()), ("completion", pyarrow.string_view())])

ONE: dict[str, tuple[Data, list[Seen]]] = {
    "byte order mark": (rows(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()), [YES]),
    "Windows line ends": (Data({"rows.jsonl": lines(GOOD, GOOD).replace(b"\n", b"\r\n")}), [YES, YES]),
    "no line end at the end": (Data({"rows.jsonl": lines(GOOD)[:-1]}), [YES]),
    "blank lines between rows": (rows("", GOOD, "  ", GOOD, ""), [YES, YES]),
    "white space around a row": (rows(f"  {json.dumps(GOOD)}\t"), [YES]),
    "escapes": (
        rows(r'{"messages": [{"role": "user", "content": "é"}, {"role": "assistant", "content": "😀"}]}'),
        [talked("é", "😀")],
    ),
    "separators of Unicode in a string": (
        rows(chat("a\u2028b\u2029c\x85d", "e")),
        [talked("a\u2028b\u2029c\x85d", "e")],
    ),
    "every plane and direction": (
        rows(chat("שלום 你好 🙂", "\u200fنعم\u202e!")),
        [talked("שלום 你好 🙂", "\u200fنعم\u202e!")],
    ),
    "white space of an answer": (rows(chat("a", "  b \n")), [talked("a", "  b \n")]),
    "special tokens in the text": (
        rows(chat("What ends a turn?", "The token <|im_end|> does.")),
        [talked("What ends a turn?", "The token <|im_end|> does.")],
    ),
    "markup and templates in the text": (
        rows(chat("{{ messages }} {% raw %}", "<script>alert(1)</script>")),
        [talked("{{ messages }} {% raw %}", "<script>alert(1)</script>")],
    ),
    "answers that repeat each other": (
        rows({"messages": [*chat("a", "a")["messages"], *chat("a", "a")["messages"]]}),
        [seen(("user", "a"), ("assistant", "a"), ("user", "a"), ("assistant", "a"))],
    ),
    "other columns": (rows({**GOOD, "id": 7, "score": None, "meta": {"a": [1]}}), [YES]),
    "keys in another order": (
        rows({"messages": [{"content": "Good?", "role": "user"}, {"content": "Yes.", "role": "assistant"}]}),
        [YES],
    ),
    "system turn without text": (
        rows({"messages": [{"role": "system", "content": ""}, *GOOD["messages"]]}),
        [seen(("system", ""), ("user", "Good?"), ("assistant", "Yes."))],
    ),
    "the assistant speaks first": (
        rows({"messages": [{"role": "assistant", "content": "Hello"}, *GOOD["messages"]]}),
        [seen(("assistant", "Hello"), ("user", "Good?"), ("assistant", "Yes."))],
    ),
    "the user speaks last": (
        rows({"messages": [*GOOD["messages"], USER]}),
        [seen(("user", "Good?"), ("assistant", "Yes."), ("user", "Why?"))],
    ),
    "two answers in turn": (
        rows({"messages": [*GOOD["messages"], {"role": "assistant", "content": "Sure."}]}),
        [seen(("user", "Good?"), ("assistant", "Yes."), ("assistant", "Sure."))],
    ),
    "parts of text": (
        rows({"messages": [{"role": "user", "content": [{"type": "text", "text": "Good?"}]}, GOOD["messages"][1]]}),
        [YES],
    ),
    "tool fields that are empty": (
        rows({"messages": [{**GOOD["messages"][0], "tool_calls": None}, GOOD["messages"][1]], "tools": []}),
        [YES],
    ),
    "ShareGPT": (
        rows({"conversations": SHAREGPT}, **kind("chat", messages="conversations", role="from", content="value")),
        [YES],
    ),
    "template with marks": (rows(GOOD, dataset={"chatTemplate": MARKED_TEMPLATE}), [YES]),
    "tools and their calls": (
        rows(
            {
                "messages": [
                    USER,
                    {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    {"role": "tool", "content": "2", "tool_call_id": "c1"},
                    {"role": "assistant", "content": "So."},
                ],
                "tools": [TOOL],
            },
            dataset={"chatTemplate": TOOL_TEMPLATE},
        ),
        [
            seen(
                ("system", json.dumps([TOOL])),
                ("user", "Why?"),
                ("assistant", '<call>{"name": "add", "arguments": {"a": 1}}</call>'),
                ("tool", "2"),
                ("assistant", "So."),
            )
        ],
    ),
    "instruction with an input": (
        rows({"instruction": "Add.", "input": "1 and 1", "output": "2"}, **kind("instruction")),
        [talked("Add.\n\n1 and 1", "2")],
    ),
    "instruction with an empty input": (
        rows({"instruction": "Hi", "input": "", "output": "Yo"}, **kind("instruction")),
        [talked("Hi", "Yo")],
    ),
    "prompt of several turns": (
        rows(
            {"prompt": [*GOOD["messages"], USER], "completion": [{"role": "assistant", "content": "So."}]},
            **kind("instruction"),
        ),
        [seen(("user", "Good?"), ("assistant", "Yes."), ("user", "Why?"), ("assistant", "So."), loss="So.<|im_end|>")],
    ),
    "prompt of several turns and a template with marks": (
        rows(
            {"prompt": [*GOOD["messages"], USER], "completion": "So."},
            **kind("instruction"),
            dataset={"chatTemplate": MARKED_TEMPLATE},
        ),
        [seen(("user", "Good?"), ("assistant", "Yes."), ("user", "Why?"), ("assistant", "So."), loss="So.<|im_end|>")],
    ),
    "text": (rows({"text": "Once upon a time"}, **kind("completion")), [plain("Once upon a time")]),
    "text that ends already": (
        rows({"text": "The end<|im_end|>"}, **kind("completion")),
        [Seen("The end<|im_end|>", "The end<|im_end|>")],
    ),
    "Parquet of structs": (Data({"rows.parquet": parquet({"messages": STRUCTS})}), [YES]),
    "Parquet of strings of every width": (
        Data(
            {"rows.parquet": parquet({"prompt": "Good?", "completion": "Yes."}, schema=LARGE_STRINGS)},
            **kind("instruction"),
        ),
        [YES],
    ),
    "Parquet with a dictionary and Zstandard": (
        Data(
            {"rows.parquet": parquet(*[{"text": "a"}] * 3, compression="zstd", use_dictionary=True)},
            **kind("completion"),
        ),
        [plain("a")] * 3,
    ),
    "Parquet of many row groups": (
        Data({"rows.parquet": parquet(*[{"text": str(n)} for n in range(5)], row_group_size=2)}, **kind("completion")),
        [plain(str(number)) for number in range(5)],
    ),
    "Parquet whose messages have tool fields": (
        Data({"rows.parquet": parquet({"messages": [{**turn, "tool_calls": None, "name": None} for turn in STRUCTS]})}),
        [YES],
    ),
    "JSON lines in a .json file": (Data({"rows.json": lines(GOOD, GOOD)}), [YES, YES]),
    "file without a suffix": (Data({"rows": lines(GOOD)}), [YES]),
    "suffix in capitals": (Data({"ROWS.JSONL": lines(GOOD)}), [YES]),
    "folder in the order of names": (
        Data(
            {
                "b.jsonl": lines(chat("b", "b")),
                "a/2.jsonl": lines(chat("a2", "a2")),
                "a/10.jsonl.gz": COMPRESSED["gz"](lines(chat("a10", "a10"))),
                "README.md": b"# Rows",
                "dataset_info.json": b"{}",
            }
        ),
        [talked("a10", "a10"), talked("a2", "a2"), talked("b", "b")],
    ),
    "one split of a folder": (
        Data(
            {"data/train-0.parquet": parquet({"text": "a"}), "data/test-0.parquet": parquet({"text": "b"})},
            fields={"format": "completion", "files": "*train-*"},
        ),
        [plain("a")],
    ),
    "gzip of several members": (
        Data({"rows.jsonl.gz": COMPRESSED["gz"](lines(GOOD)) + COMPRESSED["gz"](lines(GOOD))}),
        [YES, YES],
    ),
    "Zstandard of several frames": (
        Data({"rows.jsonl.zst": COMPRESSED["zst"](lines(GOOD)) + COMPRESSED["zst"](lines(GOOD))}),
        [YES, YES],
    ),
    "first rows only": (
        rows(*[chat(str(number), "a") for number in range(9)], "{", fields={"limit": 2}),
        [talked("0", "a"), talked("1", "a")],
    ),
    "every row twice": (rows(GOOD, chat("a", "b"), fields={"weight": "2"}), [YES, YES, *[talked("a", "b")] * 2]),
    "bad rows that are allowed": (
        rows("{", GOOD, {"messages": []}, dataset={"checks": {"maxRefusedRows": 2}}),
        [YES],
    ),
    "long row cut to its first tokens": (
        rows(chat("Why?", "word " * 50), limit_tokens=24),
        [Seen("<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nword word wor", "word word wor")],
    ),
}

PAIRS: dict[str, tuple[dict[str, Any], tuple[Seen, Seen]]] = {
    "strings": ({"prompt": "Good?", "chosen": "Yes.", "rejected": "No."}, (YES, talked("Good?", "No."))),
    "lists with the prompt in them": (
        {
            "prompt": "Good?",
            "chosen": GOOD["messages"],
            "rejected": [GOOD["messages"][0], {"role": "assistant", "content": "No."}],
        },
        (YES, talked("Good?", "No.")),
    ),
    "prompt in the answers only": (
        {"chosen": GOOD["messages"], "rejected": [GOOD["messages"][0], {"role": "assistant", "content": "No."}]},
        (YES, talked("Good?", "No.")),
    ),
    "plain text": (
        {"chosen": "Human: Good?\n\nAssistant: Yes.", "rejected": "Human: Good?\n\nAssistant: No."},
        (
            plain("Human: Good?\n\nAssistant: Yes.", " Yes."),
            plain("Human: Good?\n\nAssistant: No.", " No."),
        ),
    ),
}


@pytest.mark.parametrize("case", ONE)
def test_good_rows(folder_place: Place, tmp_path: Path, case: str) -> None:
    data, expected = ONE[case]
    prepared, found, held_out = prepared_rows(folder_place, data, tmp_path / "fetched")
    assert [sequence for [sequence] in found] == expected
    assert (prepared.train.rows, held_out) == (len(expected), [])


@pytest.mark.parametrize("case", PAIRS)
def test_good_preferences(folder_place: Place, tmp_path: Path, case: str) -> None:
    row, expected = PAIRS[case]
    _, found, _ = prepared_rows(folder_place, rows(row, **kind("preference")), tmp_path / "fetched")
    assert [tuple(pair) for pair in found] == [expected]


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_every_compression_gives_the_same_rows(folder_place: Place, tmp_path: Path, suffix: str) -> None:
    content = lines(*[chat(str(number), "a") for number in range(300)])
    packed = Data({f"rows.jsonl.{suffix}": COMPRESSED[suffix](content)})
    _, found, _ = prepared_rows(folder_place, packed, tmp_path / "fetched")
    assert [sequence for [sequence] in found] == [talked(str(number), "a") for number in range(300)]


def test_the_corpus_is_large_enough() -> None:
    assert len(ONE) + len(PAIRS) >= 40
