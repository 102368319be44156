"""Answers of the model to held-out prompts: which prompts, how an answer ends, and what stops nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune_trainer.artifact.samples import Answered, Text, answered
from finetune_trainer.data.splits import SplitArrays, TokenizedSplit, write_split
from finetune_trainer.data.tokenizer import TextTokenizer
from finetune_trainer.errors import Preempted
from finetune_trainer.training.batches import MicroBatch
from finetune_trainer.training.checkpoints.history import History, load_history
from finetune_trainer.training.metrics import Sample
from finetune_trainer.training.samples import (
    BUDGET_SECONDS,
    MAX_ANSWER,
    Answer,
    NoSamples,
    Prompt,
    Sampler,
    answers,
    prompts_of,
)
from support.tiny_model import TURN_END, write_tiny_model

STOP = frozenset({99})
SAMPLE = Sample(step=0, row=2, prompt="What?", expected="This.", answer="Tha", cut=True)


def split_of(tmp_path: Path, *rows: tuple[Sequence[int], Sequence[int]], **more: object) -> TokenizedSplit:
    ids = [token for row, _ in rows for token in row]
    mask = [mark for _, marks in rows for mark in marks]
    offsets = np.cumsum([0, *(len(row) for row, _ in rows)])
    arrays = SplitArrays(np.array(ids, np.int32), np.array(mask, np.uint8), offsets.astype(np.int64))
    write_split(tmp_path / "rows", replace(arrays, **more))  # type: ignore[arg-type]
    return TokenizedSplit(tmp_path / "rows")


class TestPrompts:
    def test_a_prompt_ends_where_the_first_answer_begins(self, tmp_path: Path) -> None:
        rows = split_of(tmp_path, ([5, 6, 7, 8, 9, 4], [0, 0, 1, 1, 0, 1]))
        assert prompts_of(rows, 3, 64) == [Prompt(0, (5, 6), (7, 8))]

    def test_rows_without_a_prompt_an_answer_or_room_are_passed_over(self, tmp_path: Path) -> None:
        rows = split_of(
            tmp_path,
            ([5, 6], [1, 1]),
            ([5, 6], [0, 0]),
            ([1, 2, 3, 4], [0, 0, 0, 1]),
            ([8, 9], [0, 1]),
            ([8, 7], [0, 1]),
        )
        assert prompts_of(rows, 1, 3) == [Prompt(3, (8,), (9,))]
        assert [prompt.row for prompt in prompts_of(rows, 8, 4)] == [2, 3, 4]

    def test_of_a_pair_the_chosen_answer_is_expected(self, tmp_path: Path) -> None:
        rows = split_of(tmp_path, ([5, 6], [0, 1]), ([5, 7], [0, 1]), ([8, 1], [0, 1]), ([8, 2], [0, 1]), paired=True)
        assert prompts_of(rows, 8, 64) == [Prompt(0, (5,), (6,)), Prompt(1, (8,), (1,))]

    def test_an_undesirable_answer_is_no_example(self, tmp_path: Path) -> None:
        desirable = np.array([0, 1], np.uint8)
        rows = split_of(tmp_path, ([5, 6], [0, 1]), ([7, 8], [0, 1]), desirable=desirable)
        assert prompts_of(rows, 8, 64) == [Prompt(1, (7,), (8,))]


class Counting:
    """Answers with the sum of a text, so that each token tells of all before it. Ranks add up ``others`` too."""

    rank, world_size, micro_batch_size, device = 0, 1, 2, torch.device("cpu")

    def __init__(self, failing_at: int = -1) -> None:
        self.calls: list[list[int]] = []
        self.failing_at = failing_at

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        yield

    def next_tokens(self, batch: MicroBatch) -> torch.Tensor:
        if len(self.calls) == self.failing_at:
            raise RuntimeError("no kernel for this")
        self.calls.append(batch.attention_mask.sum(1).tolist())
        return (batch.input_ids * batch.attention_mask).sum(1) % 100

    def sum_over_ranks(self, *values: float | torch.Tensor) -> list[float]:
        return [float(value) for value in values]


def ask(
    model: Counting, prompts: Sequence[Prompt], longest: int = 64, clock: Callable[[], float] = lambda: 0.0
) -> list[Answer]:
    return answers(model, prompts, STOP, longest, lambda: None, clock)  # type: ignore[arg-type]


class TestAnswers:
    def test_each_token_follows_from_all_before_it(self) -> None:
        [answer] = ask(Counting(), [Prompt(0, (20, 13), ())])
        assert answer.ids == [
            33,
            66,
            32,
            64,
            28,
            56,
            12,
            24,
            48,
            96,
            92,
            84,
            68,
            36,
            72,
            44,
            88,
            76,
            52,
            4,
            8,
            16,
            32,
            64,
            *answer.ids[24:],
        ]
        assert (len(answer.ids), answer.cut) == (62, True)

    def test_a_stop_token_ends_an_answer_and_is_no_part_of_it(self) -> None:
        model = Counting()
        ended, going = ask(model, [Prompt(0, (99,), ()), Prompt(1, (1, 2), ())], longest=4)
        assert (ended.ids, ended.cut) == ([], False)
        assert (going.ids, going.cut) == ([3, 6], True)
        assert model.calls == [[1, 2], [3]], "what has ended is not computed again"

    def test_no_pass_has_more_rows_than_a_micro_batch(self) -> None:
        model = Counting()
        found = ask(model, [Prompt(row, (99,), ()) for row in range(5)])
        assert len(found) == 5
        assert model.calls == [[1, 1], [1, 1], [1]]

    def test_answers_are_never_longer_than_allowed(self) -> None:
        [answer] = ask(Counting(), [Prompt(0, (20, 12), ())], longest=5000)
        assert len(answer.ids) == MAX_ANSWER

    def test_the_time_for_all_answers_is_bounded(self) -> None:
        ticks = iter(range(1000))
        found = ask(Counting(), [Prompt(row, (20, 13), ()) for row in range(4)], clock=lambda: 10.0 * next(ticks))
        tokens = [len(answer.ids) for answer in found]
        assert tokens == [int(BUDGET_SECONDS) // 10 + 1] * 2 + [1] * 2, "one more pass for those that come later"
        assert all(answer.cut for answer in found)

    def test_the_tokens_of_rank_0_count(self) -> None:
        class Second(Counting):
            rank = 1

            def sum_over_ranks(self, *values: float | torch.Tensor) -> list[float]:
                assert values == (0.0, 0.0, 0.0), "rank 1 adds nothing of its own"
                return [99.0, 0.0, 0.0]

        [answer] = ask(Second(), [Prompt(0, (1,), ())])
        assert (answer.ids, answer.cut) == ([], False)

    @pytest.mark.parametrize("rank", [0, 1], ids=["its own", "another rank's"])
    def test_a_failed_pass_ends_the_samples_on_all_ranks(self, rank: int) -> None:
        class Elsewhere(Counting):
            def sum_over_ranks(self, *values: float | torch.Tensor) -> list[float]:
                return [*map(float, values[:-2]), float(values[-2]) + rank, 0.0]

        with pytest.raises(NoSamples, match=r"no kernel for this|log of the others"):
            ask(Elsewhere(failing_at=-1 if rank else 0), [Prompt(0, (1,), ())])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "model")


class TestSampler:
    @pytest.fixture
    def rows(self, tmp_path: Path) -> TokenizedSplit:
        return split_of(tmp_path, ([1, 20, 13, 2], [0, 0, 1, 1]))

    def test_texts_have_the_tokens_that_a_reader_needs(self, rows: TokenizedSplit, model: Path) -> None:
        tokenizer = TextTokenizer(model)
        [sample] = Sampler(rows, 1, 4, model).take(Counting(), 7, lambda: None)  # type: ignore[arg-type]
        assert sample == Sample(
            step=7,
            row=0,
            prompt="<|im_start|>" + tokenizer.text([20], special=True),
            expected=tokenizer.text([13], special=False),
            answer=tokenizer.text([21, 42], special=False),
            cut=True,
        )
        assert TURN_END not in sample.expected

    def test_a_failure_is_told_and_stops_nothing(
        self, rows: TokenizedSplit, model: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert Sampler(rows, 1, 4, model).take(Counting(failing_at=0), 7, lambda: None) == []  # type: ignore[arg-type]
        assert "no samples after step 7, training goes on" in caplog.text
        assert "no kernel for this" in caplog.text

    def test_a_model_without_a_tokenizer_stops_nothing(
        self, rows: TokenizedSplit, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert Sampler(rows, 1, 4, tmp_path).take(Counting(), 0, lambda: None) == []  # type: ignore[arg-type]
        assert "tokenizer.json of spec.model.source is not readable" in caplog.text

    def test_a_pod_that_is_asked_to_stop_stops(self, rows: TokenizedSplit, model: Path) -> None:
        def stop() -> None:
            raise Preempted("asked", "nothing")

        with pytest.raises(Preempted):
            Sampler(rows, 1, 4, model).take(Counting(), 0, stop)  # type: ignore[arg-type]

    def test_rows_without_prompts_are_told(self, tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture) -> None:
        rows = split_of(tmp_path, ([5, 6], [1, 1]))
        assert Sampler(rows, 3, 64, model).take(Counting(), 0, lambda: None) == []  # type: ignore[arg-type]
        assert "no held-out row has a prompt" in caplog.text


class TestRecords:
    def test_answers_of_a_prompt_stand_side_by_side(self) -> None:
        after = replace(SAMPLE, step=9, answer="This.", cut=False)
        only_after = replace(after, row=1)
        assert answered([SAMPLE, after, only_after]) == [
            Answered(1, "What?", "This.", None, Text("This.", False)),
            Answered(2, "What?", "This.", Text("Tha", True), Text("This.", False)),
        ]

    def test_a_line_is_json_that_people_can_read(self) -> None:
        [found] = answered([replace(SAMPLE, prompt="¿Qué?\n")])
        line = found.line()
        assert "¿Qué?" in line
        assert json.loads(line) == {
            "row": 2,
            "prompt": "¿Qué?\n",
            "expected": "This.",
            "before": {"text": "Tha", "cut": True},
            "after": None,
        }

    def test_a_checkpoint_keeps_the_answers(self) -> None:
        history = History(samples=[SAMPLE])
        assert load_history(history.dump()).samples == [SAMPLE]
        copy = history.copy()
        history.samples.clear()
        assert copy.samples == [SAMPLE]
