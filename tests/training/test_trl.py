"""Losses and gradients of every objective equal those of TRL, on one batch and over a training."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_trainer.data.splits import TokenizedSplit, write_split
from finetune_trainer.training.batches import BatchOrder
from finetune_trainer.training.objectives import objective_of
from finetune_trainer.training.objectives.interface import mean_loss
from support.plain_model import PlainModel
from support.reference import load_model, train_reference, tuned
from support.tiny_model import write_tiny_model
from support.training_runs import make_spec, split_for
from support.trl_oracle import first_batch, gradients, oracle

ROWS, STEPS = 21, 20
CASES: dict[str, dict[str, Any]] = {
    "sft": {},
    "dpo": {},
    "dpo-lora": {"tuning": "lora"},
    "dpo-other": {"method": {"dpo": {"referenceModel": {"source": "s3://bucket/other"}}}},
    "dpo-robust": {"method": {"dpo": {"loss": "robust", "labelSmoothing": "0.2", "beta": "0.3"}}},
    "dpo-ipo": {"method": {"dpo": {"loss": "ipo", "beta": "0.5"}}},
    "dpo-hinge": {"method": {"dpo": {"loss": "hinge"}}},
    "orpo": {"method": {"orpo": {"beta": "0.3"}}},
    "kto-other": {"method": {"kto": {"referenceModel": {"source": "s3://bucket/other"}}}},
    "kto": {"method": {"kto": {"desirableWeight": "1.5", "undesirableWeight": "0.5"}}},
    "reward": {},
    "reward-centered": {"method": {"reward": {"centering": "0.05"}}},
}
# Neither library is ours to correct.
pytestmark = pytest.mark.filterwarnings("ignore")


class Setting:
    """Model, rows and TRL's trainer of one case."""

    def __init__(self, case: str, folder: Path) -> None:
        objective = case.partition("-")[0]
        options = {"tuning": "full", "weightDecay": "0"} | CASES[case]
        self.spec = make_spec(objective=objective, **options)
        self.folder = write_tiny_model(folder / "model")
        write_split(folder / "rows", split_for(objective, ROWS, 0))
        self.rows = TokenizedSplit(folder / "rows")
        order = BatchOrder(ROWS, 7, 8, 8, 0, 1)
        self.batches = [order.batch(step) for step in range(STEPS)]
        listed = [row for batch in self.batches for row in batch.rows]
        base = load_model(self.folder, self.spec)
        with_reference = objective in ("dpo", "kto") and not self.spec.method.tuning.adapts
        self.other = write_tiny_model(folder / "other", seed=9, hidden_size=16) if case.endswith("-other") else None
        before = load_model(self.other, self.spec) if self.other else deepcopy(base)
        self.reference = before if with_reference else None
        self.trl = oracle(
            self.spec,
            tuned(deepcopy(base), self.spec),
            deepcopy(self.reference),
            self.rows,
            listed,
            STEPS,
            folder / "trl",
        )
        self.model = tuned(base, self.spec)


@pytest.fixture
def setting(case: str, tmp_path: Path) -> Setting:
    torch.manual_seed(0)
    return Setting(case, tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_of_a_batch(setting: Setting) -> None:
    # The models have moved from the reference, where log-ratios are zero and many losses alike.
    copies = dict(setting.trl.model.named_parameters())
    for name, parameter in setting.model.named_parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape)
            copies[name].data.copy_(parameter.data)
    expected = setting.trl.compute_loss(setting.trl.model, first_batch(setting.trl))
    expected.backward()
    objective, batch, plain = objective_of(setting.spec), setting.batches[0], PlainModel(setting.model, 8)
    if setting.reference is not None:
        objective.before_training(PlainModel(setting.reference, 8), setting.rows, [batch], lambda: None)
    shared = objective.share(plain, setting.rows, batch)
    units = objective.units(setting.rows, batch.rows)
    measured = objective.measure(plain, setting.rows, batch.rows, shared)
    loss = mean_loss(measured, units)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5, rel=0)
    found, wanted = gradients(setting.model), gradients(setting.trl.model)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5, msg=name)
    assert max(float(value.abs().max()) for value in wanted.values()) > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_the_first_20_losses_of_a_training(setting: Setting) -> None:
    rows = setting.rows
    expected = train_reference(setting.folder, setting.spec, rows, rows, STEPS, compared=setting.other).losses
    setting.trl.losses.clear()
    setting.trl.train()
    assert setting.trl.losses == pytest.approx(expected, abs=1e-5, rel=0)
