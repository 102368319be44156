"""Each optimizer does what its formula says, with the options of the spec."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from finetune_api.spec import HyperparametersSpec
from finetune_trainer.training.optimizers import adam_options, build_optimizer


def options(**fields: Any) -> HyperparametersSpec:
    return HyperparametersSpec.model_validate({"learningRate": "1e-2", "weightDecay": "0.1"} | fields)


def steps(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter) -> None:
    torch.manual_seed(1)
    for _ in range(5):
        weight.grad = torch.randn_like(weight)
        optimizer.step()


def new_weight() -> torch.nn.Parameter:
    torch.manual_seed(0)
    return torch.nn.Parameter(torch.randn(64, 96))


def test_adamw_by_hand() -> None:
    weight, expected = new_weight(), new_weight().detach()
    steps(build_optimizer(options(beta1="0.8", beta2="0.95", epsilon="1e-6"), [weight]), weight)
    first, second = torch.zeros_like(expected), torch.zeros_like(expected)
    torch.manual_seed(1)
    for step in range(1, 6):
        gradient = torch.randn_like(expected)
        first, second = 0.8 * first + 0.2 * gradient, 0.95 * second + 0.05 * gradient**2
        expected *= 1 - 1e-2 * 0.1
        expected -= 1e-2 * (first / (1 - 0.8**step)) / ((second / (1 - 0.95**step)).sqrt() + 1e-6)
    torch.testing.assert_close(weight.detach(), expected, atol=1e-6, rtol=1e-5)


def test_moments_in_8_bits_stay_close_to_adamw() -> None:
    weight, close = new_weight(), new_weight()
    optimizer = build_optimizer(options(optimizer="adamw8bit"), [weight])
    steps(optimizer, weight)
    steps(build_optimizer(options(), [close]), close)
    state = optimizer.state[weight]
    assert {name: state[name].dtype for name in ("state1", "state2")} == {"state1": torch.uint8, "state2": torch.uint8}
    assert 0 < (weight - close).abs().max() < 1e-2
    assert (weight - close).abs().mean() < 1e-3


def test_adafactor_is_that_of_torch_and_keeps_two_vectors() -> None:
    weight, expected = new_weight(), new_weight()
    optimizer = build_optimizer(options(optimizer="adafactor"), [weight])
    steps(optimizer, weight)
    steps(torch.optim.Adafactor([expected], lr=1e-2, weight_decay=0.1), expected)
    assert torch.equal(weight, expected)
    assert sum(value.numel() for value in optimizer.state[weight].values()) == 64 + 96 + 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"betas": (0.9, 0.999), "eps": 1e-8}),
        ({"beta1": "0", "beta2": "0.5", "epsilon": "1e-5"}, {"betas": (0.0, 0.5), "eps": 1e-5}),
    ],
)
def test_defaults_of_adamw(fields: dict[str, str], expected: dict[str, Any]) -> None:
    assert adam_options(options(**fields)) == expected


def test_only_runs_that_need_bitsandbytes_import_it() -> None:
    code = "import sys, finetune_trainer.training.optimizers; sys.exit('bitsandbytes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
