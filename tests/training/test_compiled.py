"""Compiled blocks give the losses of the same training without a compiler, whose time is nearly all of this test's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from finetune_api.spec import FineTuneJobSpec
from finetune_sandbox.layout import default_cache_dir
from support.gangs import run_gang
from support.tiny_model import write_tiny_model
from support.training_runs import make_plan, make_spec, write_prepared_data

# Dropout has no reference but the same training; it is to draw the same numbers.
LORA = {"lora": {"rank": 4, "alpha": 8, "dropout": "0.1"}}
LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 2e-6

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # The first test waits for all runs.
    pytest.mark.timeout(600),
]


def spec_of(compiled: bool) -> FineTuneJobSpec:
    """Everything that meets in a block: packed rows, an adapter with dropout, and checkpoints around it."""
    return make_spec(
        method=LORA,
        stage=2,
        maxSteps=6,
        packing=True,
        gradientCheckpointing=True,
        compile=compiled,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained workspaces, ``plain`` and ``compiled``."""
    folder = tmp_path_factory.mktemp("compiled")
    store, trained = folder / "store", folder / "runs"
    model = write_tiny_model(store / "bucket" / "model")
    summary = write_prepared_data(store / "bucket" / "prepared")
    for name in ("plain", "compiled"):
        workspace = trained / name
        workspace.mkdir(parents=True)
        (workspace / "plan.json").write_text(make_plan(store, spec_of(name == "compiled"), summary).to_json())
        (workspace / "model").symlink_to(model)
        (workspace / "data").symlink_to(store / "bucket" / "prepared")
    # Code of the same blocks is compiled once per machine: its key has all that goes into it.
    compiled_code = str(default_cache_dir() / "inductor")
    run_gang(folder, 1, 1, "support.train_matrix", str(trained), TORCHINDUCTOR_CACHE_DIR=compiled_code)
    return trained


def losses(workspace: Path) -> list[float]:
    """Of the held-out split and of the steps, as they came."""
    lines = (workspace / "artifact" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def weights(workspace: Path) -> dict[str, torch.Tensor]:
    (file,) = (workspace / "artifact").glob("*.safetensors")
    return load_file(file)


def test_losses_and_weights_are_those_without_a_compiler(runs: Path) -> None:
    plain, compiled = runs / "plain", runs / "compiled"
    assert losses(compiled) == pytest.approx(losses(plain), abs=LOSS_TOLERANCE, rel=0)
    found, expected = weights(compiled), weights(plain)
    assert max(float((found[name] - value).abs().max()) for name, value in expected.items()) <= WEIGHT_TOLERANCE
    # Compiled code rounds at other places: so it was compiled.
    assert any(not torch.equal(found[name], value) for name, value in expected.items())
