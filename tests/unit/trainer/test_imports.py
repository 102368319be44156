"""A training process imports only what it needs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from finetune_trainer.imports import needs_bitsandbytes
from support.training_runs import make_spec

# What the worker does before anything else, then what it imports of PEFT, and what it finds of bitsandbytes.
_WORKER = """
import sys
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.imports import spare_imports
spare_imports(FineTuneJobSpec.model_validate_json(sys.argv[1]))
import peft.tuners.lora
sys.exit(sys.modules.get("bitsandbytes") is not None)
"""


@pytest.mark.parametrize(
    ("fields", "expected"), [({}, False), ({"optimizer": "adamw8bit"}, True), ({"tuning": "qlora"}, True)]
)
def test_who_needs_it(fields: dict[str, Any], expected: bool) -> None:
    assert needs_bitsandbytes(make_spec(**fields)) is expected


@pytest.mark.parametrize(("optimizer", "imported"), [("adamw", 0), ("adamw8bit", 1)])
def test_peft_imports_it_only_then(optimizer: str, imported: int) -> None:
    spec = make_spec(optimizer=optimizer).to_json()
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", _WORKER, spec], check=False).returncode == imported


def test_muon_is_imported_without_being_compiled() -> None:
    program = """
import torch
from deepspeed.runtime import compiler
from finetune_trainer.training import engine
from deepspeed.runtime.zero.muon.original_muon import muon_update
assert not hasattr(muon_update, "_torchdynamo_orig_callable")
assert compiler.compile() is torch.compile
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=False).returncode == 0
