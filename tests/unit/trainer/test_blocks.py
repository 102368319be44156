"""Which blocks are compiled, and when."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from finetune_trainer.errors import UserError
from finetune_trainer.training.blocks import Blocks


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    Blocks.let_compile(True)


def test_a_model_whose_blocks_nobody_marks_is_refused() -> None:
    with pytest.raises(UserError, match=r"spec\.hyperparameters\.compile finds no decoder blocks") as refusal:
        Blocks(torch.nn.Sequential(torch.nn.Linear(1, 1)))
    assert refusal.value.remedy == "set it to false"


def test_nothing_new_is_compiled_where_it_has_no_time() -> None:
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        compiled.append(len(inputs))
        return graph

    double = torch.compile(lambda value: 2 * value, backend=backend, dynamic=True)
    few, many, matrix = torch.ones(3), torch.ones(5), torch.ones(2, 2)
    assert torch.equal(double(few), 2 * few)
    Blocks.let_compile(False)
    assert torch.equal(double(many), 2 * many)
    assert torch.equal(double(matrix), 2 * matrix)
    assert len(compiled) == 1, "a matrix would take code of its own"
    Blocks.let_compile(True)
    assert torch.equal(double(matrix), 2 * matrix)
    assert len(compiled) == 2
