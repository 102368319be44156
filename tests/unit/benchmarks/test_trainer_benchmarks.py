"""Ratios are what they say, and the page quotes the results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.clusters import PROJECT

sys.path.insert(0, str(PROJECT))

from benchmarks.trainer.page import PAGE, cell, render, table
from benchmarks.trainer.results import FOLDER
from benchmarks.trainer.startup import cpu_of_tree
from benchmarks.trainer.statistics import ratio_of
from benchmarks.trainer.workload import Workload, chat_lengths


def test_ratio_of_pairs() -> None:
    ratio = ratio_of([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    assert (ratio.median, ratio.low, ratio.high, ratio.pairs) == (2.0, 2.0, 3.0, 3)


def test_the_interval_narrows_with_more_pairs() -> None:
    few, many = [1.0, 2.0, 3.0], [1.0, 2.0, 3.0] * 30
    wide, narrow = ratio_of(few, [1.0] * len(few)), ratio_of(many, [1.0] * len(many))
    assert wide.low <= narrow.low <= narrow.median <= narrow.high <= wide.high
    assert narrow.high - narrow.low < wide.high - wide.low


def test_measurements_without_partners_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio_of([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"median": 1.5391, "low": 1.5, "high": 1.561, "pairs": 7}, "**1.54** [1.5, 1.56]"),
        (1.4e-6, "1.4e-06"),
        (302.94, "303"),
        (8000, "8,000"),
    ],
)
def test_figures_of_the_page(value: object, expected: str) -> None:
    assert cell(value) == expected


def test_a_table_replaces_what_stood_between_its_marks(tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text('{"ratio": 2.0, "environment": {}}')
    page = "before\n<!-- speed.json -->\nold\n<!-- end -->\nafter\n"
    expected = f"before\n<!-- speed.json -->\n{table({'ratio': 2.0})}\n<!-- end -->\nafter\n"
    assert render(page, tmp_path) == expected


def test_the_page_quotes_every_result() -> None:
    page = PAGE.read_text()
    assert render(page, FOLDER) == page
    ours = {"step_cost", "loss_head", "packing", "leakage", "startup", "prepare"}
    assert all(f"<!-- {name}.json -->" in page for name in ours)


def test_all_contenders_see_the_same_rows_whatever_process_they_are() -> None:
    workload = Workload(lengths=chat_lengths(200, 512), batch=8, longest=512)
    again = Workload.from_json(workload.to_json())
    assert again == workload
    assert [row.tolist() for row in again.rows()] == [row.tolist() for row in workload.rows()]
    assert sorted(workload.order()) == list(range(200))
    assert 100 < sum(workload.lengths) / 200 < 300


def test_cpu_of_a_process_includes_its_children() -> None:
    code = "sum(range(10**7)); print(1, flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        own, whole = cpu_of_tree(child.pid), cpu_of_tree(os.getpid())
    finally:
        child.communicate("\n")
    assert 0 < own < whole
