"""Objectives give the same loss however a batch is spread, and from stored references what live ones give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune_trainer.data.splits import TokenizedSplit, write_split
from finetune_trainer.models.load import build_model
from finetune_trainer.training.batches import GlobalBatch
from finetune_trainer.training.evaluate import evaluate
from finetune_trainer.training.objectives import objective_of
from finetune_trainer.training.objectives.dpo import rows_seen
from finetune_trainer.training.objectives.interface import mean_loss
from finetune_trainer.training.objectives.kto import joined
from finetune_trainer.training.objectives.orpo import log_odds_ratio
from finetune_trainer.training.objectives.pairs import pair_batch
from finetune_trainer.training.objectives.reference import store
from support.plain_model import PlainModel
from support.tiny_model import write_tiny_model
from support.training_runs import make_spec, split_for

OBJECTIVES = ("sft", "dpo", "orpo", "kto", "reward")
ROWS = 6
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objectives")
    write_tiny_model(folder / "model", hidden_size=16, heads=2, key_value_heads=1)
    for objective in OBJECTIVES:
        write_split(folder / objective, split_for(objective, ROWS, 3))
    return folder


def model_of(folder: Path, spec: Any, micro_batch_size: int = 2) -> PlainModel:
    """An adapted model that has moved away from its reference."""
    model = build_model(folder / "model", spec, torch.device("cpu"))
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return PlainModel(model, micro_batch_size)


def loss_of(folder: Path, objective: str, parts: list[list[int]], **method: Any) -> tuple[float, torch.Tensor]:
    """Loss of one batch in some parts, and its gradient as one vector."""
    spec = make_spec(objective=objective, method=method)
    model, rows, found = model_of(folder, spec), TokenizedSplit(folder / objective), objective_of(spec)
    batch = GlobalBatch([4, 0, 2, 5], parts)
    units, total = found.units(rows, batch.rows), 0.0
    shared = found.share(model, rows, batch)
    for indices in batch.micro_batches:
        loss = mean_loss(found.measure(model, rows, indices, shared), units)
        loss.backward()
        total += loss.item()
    gradients = [parameter.grad.ravel() for parameter in model.model.parameters() if parameter.grad is not None]
    return total, torch.cat(gradients)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("parts", [[[0], [1], [2], [3]], [[0, 1], [2, 3]], [[3], [0, 2, 1]]])
def test_the_spread_does_not_matter(folder: Path, objective: str, parts: list[list[int]]) -> None:
    expected, gradient = loss_of(folder, objective, [[0, 1, 2, 3]])
    found, other = loss_of(folder, objective, parts)
    assert found == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(other, gradient, atol=1e-6, rtol=0)
    assert gradient.abs().max() > 1e-4


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_a_stored_reference_gives_what_a_live_one_gives(folder: Path, objective: str) -> None:
    spec = make_spec(objective=objective)
    rows, batch = TokenizedSplit(folder / objective), GlobalBatch([4, 0, 2, 5], [[0, 1], [2, 3]])
    live = objective_of(spec)
    # An adapter that was trained before cannot be disabled to get the reference.
    stored = objective_of(spec, continued=True)
    untrained = PlainModel(build_model(folder / "model", spec, torch.device("cpu")))
    told: list[int] = []
    stored.before_training(untrained, rows, [batch], lambda: told.append(1))
    model = model_of(folder, spec)
    passes = []
    values = []
    for found in (live, stored):
        before = model.forward_passes
        shared = found.share(model, rows, batch)
        values.append([shared, found.measure(model, rows, batch.rows, shared).loss[0].value.item()])
        passes.append(model.forward_passes - before)
    assert values[0][0] == pytest.approx(values[1][0], abs=1e-6)
    assert values[0][1] == pytest.approx(values[1][1], abs=1e-6)
    assert passes[1] == passes[0] / 2
    assert told


def test_the_held_out_split_is_one_batch_of_any_objective(folder: Path) -> None:
    spec = make_spec(objective="kto")
    rows = TokenizedSplit(folder / "kto")
    means = [evaluate(model_of(folder, spec, size), objective_of(spec), rows, ROWS) for size in (1, 4)]
    assert means[0].loss == pytest.approx(means[1].loss, abs=1e-6)
    assert means[0].metrics == pytest.approx(means[1].metrics, abs=1e-6)
    assert means[0].metrics.keys() == {"rewardAccuracy", "rewardMargin", "kl"}


def test_metrics_of_pairs(folder: Path) -> None:
    spec = make_spec(objective="reward")
    model, rows = model_of(folder, spec), TokenizedSplit(folder / "reward")
    means = evaluate(model, objective_of(spec), rows, ROWS)
    with torch.no_grad():
        chosen, rejected = model.scores(pair_batch(rows, range(ROWS))).chunk(2)
    assert means.metrics["rewardAccuracy"] == pytest.approx((chosen > rejected).float().mean().item())
    assert means.metrics["rewardMargin"] == pytest.approx((chosen - rejected).mean().item(), abs=1e-6)


def test_values_are_stored_by_key_in_any_order() -> None:
    model = PlainModel(torch.nn.Linear(1, 1), micro_batch_size=2)
    stored = store(model, [7, 3, 7, 11], 1, lambda keys: torch.tensor(keys)[:, None] / 2, lambda: None)
    assert stored[[11, 3, 3, 7]].tolist() == [[5.5], [1.5], [1.5], [3.5]]


def test_ranks_store_together() -> None:
    """Each of two ranks computes its part; the sum over both has all values."""
    parts = []
    for rank in range(2):
        model = PlainModel(torch.nn.Linear(1, 1), micro_batch_size=2, rank=rank, world_size=2)
        stored = store(model, range(5), 1, lambda keys: torch.tensor(keys)[:, None] + 1.0, lambda: None)
        parts.append(stored[range(5)][:, 0])
    assert parts[0].tolist() == [1.0, 2.0, 0.0, 0.0, 5.0]
    assert (parts[0] + parts[1]).tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_only_rows_that_will_be_seen_are_stored() -> None:
    batches = [GlobalBatch([3, 1], [[0, 1]]), GlobalBatch([1, 0], [[0, 1]])]
    assert rows_seen(9, batches) == [0, 1, 3]
    endless = (GlobalBatch([0], [[0]]) for _ in iter(int, 1))
    assert rows_seen(1, endless) == [0]


def test_a_prompt_with_another_rows_completion_is_cut_like_a_row() -> None:
    first = np.array([1, 2, 3, 4], np.int32), np.array([0, 0, 1, 1], np.uint8)
    second = np.array([5, 6, 7], np.int32), np.array([0, 1, 1], np.uint8)
    ids, mask = joined(first, second, 8)
    assert (ids.tolist(), mask.tolist()) == ([1, 2, 6, 7], [0, 0, 1, 1])
    assert joined(first, second, 3)[0].tolist() == [1, 2, 6]
    assert joined(first, first, 8)[0].tolist() == [1, 2, 3, 4]
    empty = np.array([8, 9], np.int32), np.array([0, 0], np.uint8)
    assert joined(first, empty, 8)[0].tolist() == [1, 2]


def test_odds_keep_their_digits_at_both_ends() -> None:
    means = torch.tensor([-1e-4, -30.0, -2.0, -2.0])
    exact = torch.log(torch.exp(means.double()) / (1 - torch.exp(means.double())))
    torch.testing.assert_close(log_odds_ratio(means).double(), exact[:2] - exact[2:], rtol=1e-5, atol=0)
