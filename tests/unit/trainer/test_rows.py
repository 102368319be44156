"""Lines of a file as rows, and what is noted of those that cannot be used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.rows import MAX_LINE_BYTES, Problems, json_object, lines
from finetune_trainer.errors import BadRow


@given(st.lists(st.binary(max_size=8)), st.integers(1, 5))
def test_lines_do_not_depend_on_how_the_file_is_cut(parts: list[bytes], size: int) -> None:
    content = b"\n".join(parts)
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    expected = content.split(b"\n")
    assert list(lines(pieces)) == (expected if expected[-1] else expected[:-1])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"messages": [}', "not valid JSON: Expecting value at column 15"),
        (b'{"messages": []', "not valid JSON: Expecting ',' delimiter at column 16"),
        (b"\xff", "not UTF-8: invalid start byte at byte 1"),
        ("\ufeff{}".encode("utf-16-le"), "not UTF-8, but UTF-16"),
        (b"[" * 100_000, "not valid JSON: nested too deeply"),
        (b'[{"messages": []}]', "not a JSON object, but a list: write one object per line"),
        (b"7", "not a JSON object"),
        (b'{"a": NaN}', "not valid JSON: NaN"),
        (b'{"a": -Infinity}', "not valid JSON: -Infinity"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not valid JSON: a number of too many digits"),
        (b'{"a": 1, "a": 2}', 'the key "a" is there twice in one object'),
        (b'{"b": [{"a": 1, "a": 1}]}', 'the key "a" is there twice in one object'),
        (b'{"a": "' + b"x" * MAX_LINE_BYTES + b'"}', "longer than 16 MiB"),
    ],
    ids=range(13),
)
def test_lines_that_are_no_rows(line: bytes, reason: str) -> None:
    with pytest.raises(BadRow) as refused:
        json_object(line)
    assert refused.value.message == reason


def test_a_line_that_never_ends_is_not_kept_in_memory() -> None:
    pieces = (b"x" * (1 << 20) for _ in range(40))
    [line, last] = lines([*pieces, b"\nlast"])
    assert (len(line), last) == (MAX_LINE_BYTES + 1, b"last")


def test_the_first_hundred_problems_are_noted_in_order() -> None:
    problems = Problems()
    for number in [*range(2, 200), 1]:
        problems.add(number, f"f:{number}", "bad")
    assert problems.total == 199
    assert [row.row for row in problems.noted] == [*range(2, 102)]


def test_long_reasons_do_not_fill_the_memory() -> None:
    problems = Problems()
    for number in range(100):
        problems.add(number, "s3://bucket/" + "x" * 5000, "bad")
    assert (problems.total, len(problems.noted)) == (100, 9)


def test_rows_that_are_too_long_are_counted() -> None:
    problems = Problems()
    problems.add_too_long(1, "f:1", 300, 256)
    assert [str(row) for row in problems.noted] == [
        "f:1: 300 tokens, more than spec.hyperparameters.maxSequenceLength 256"
    ]
    assert problems.too_long == 1
