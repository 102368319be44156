"""Rows that equal or resemble each other, against a plain count in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data import similarity
from finetune_trainer.data.similarity import KeyFiles, Repeats, band_keys, mark_repeats

ROWS = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30)
WORDS = [f"word{number * 7919 % 1000}" for number in range(200)]


@pytest.mark.parametrize("part_keys", [4, 1 << 18], ids=["many parts", "one part"])
@given(rows=ROWS)
def test_repeats_are_those_of_a_plain_count(
    tmp_path_factory: pytest.TempPathFactory, part_keys: int, rows: list[tuple[int, bool]]
) -> None:
    path = tmp_path_factory.mktemp("keys") / "keys"
    np.array([key for key, _ in rows], dtype=np.uint64).tofile(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "_PART_KEYS", part_keys)
        patch.setattr(similarity, "_CHUNK_KEYS", 3)
        flags = np.array([similarity.HELD_OUT * held_out for _, held_out in rows], dtype=np.uint8)
        mark_repeats(path, flags, 2, 4)
    again, leaked = (flags & 2) != 0, (flags & 4) != 0
    trained = [key for key, held_out in rows if not held_out]
    assert list(leaked) == [held_out and key in trained for key, held_out in rows]
    seen: set[int] = set()
    for (key, held_out), found in zip(rows, again, strict=True):
        assert found == (not held_out and key in seen)
        seen |= set() if held_out else {key}


def common_bands(one: str, other: str) -> int:
    keys = band_keys([one, other])
    return int((keys[0] == keys[1]).sum())


def test_case_and_white_space_do_not_count() -> None:
    assert common_bands("Hello  World,\nhow are you?", "hello world, how ARE you?") == similarity.BANDS


def test_short_and_empty_texts_have_keys() -> None:
    assert common_bands("", " \n") == similarity.BANDS
    assert common_bands("a", "b") == 0


def test_most_texts_with_a_tenth_changed_are_found_and_hardly_any_other() -> None:
    random = np.random.default_rng(0)
    found = strangers = 0
    for _ in range(100):
        words = [WORDS[index] for index in random.integers(0, len(WORDS), 120)]
        near = list(words)
        near[random.integers(0, 120)] = "another"
        found += common_bands(" ".join(words), " ".join(near)) > 0
        other = [WORDS[index] for index in random.integers(0, len(WORDS), 120)]
        strangers += common_bands(" ".join(words), " ".join(other)) > 0
    assert (found >= 95, strangers <= 5) == (True, True)


def test_rows_of_both_splits_are_counted(tmp_path: Path) -> None:
    long = " ".join(WORDS)
    with KeyFiles(tmp_path) as keys:
        for key, words, held_out in [
            (1, long, False),
            (1, long, False),
            (2, long + " more", False),
            (3, "something else altogether", False),
            (1, long, True),
            (4, long.upper() + "!", True),
            (5, "not seen before in any other row", True),
        ]:
            keys.add(key, words, held_out)
        assert keys.count() == Repeats(duplicates=1, near_duplicates=1, overlap=1, near_overlap=1)
