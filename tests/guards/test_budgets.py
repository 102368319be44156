"""Sizes that keep the code readable: small functions, small files, every return annotated."""

from __future__ import annotations

from statistics import median

from support.clusters import PROJECT
from support.sources import PACKAGES, functions, source_files

MAX_FILE = 500
MAX_FUNCTION = 60
LONG_FUNCTION = 50
MAX_LONG_SHARE = 0.05
MAX_MEDIAN = 10

ALL = [function for path in source_files() for function in functions(path)]


def test_every_package_was_looked_at() -> None:
    seen = {str(path.relative_to(PROJECT)).split("/src/")[0] + "/src" for path in source_files()}
    assert seen == set(PACKAGES)
    assert len(ALL) > 300


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(PROJECT)): len(path.read_text().splitlines()) for path in source_files()}
    assert {name: length for name, length in lengths.items() if length > MAX_FILE} == {}


def test_functions_are_short() -> None:
    assert [function.place for function in ALL if function.lines > MAX_FUNCTION] == []


def test_almost_no_function_is_long() -> None:
    long = [function.place for function in ALL if function.lines > LONG_FUNCTION]
    assert len(long) <= MAX_LONG_SHARE * len(ALL), long


def test_median_function_is_small() -> None:
    assert median(function.lines for function in ALL) < MAX_MEDIAN


def test_every_return_is_annotated() -> None:
    assert [function.place for function in ALL if not function.annotated] == []
