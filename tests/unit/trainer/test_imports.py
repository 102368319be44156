"""A training process imports only what it needs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from finetune_trainer import imports
from finetune_trainer.imports import needs_bitsandbytes, spare_imports, suits
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


def test_a_process_that_hides_it_suits_no_training_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, quantized = make_spec(), make_spec(tuning="qlora")
    monkeypatch.setitem(sys.modules, "bitsandbytes", sys)
    assert suits(quantized)
    monkeypatch.delitem(sys.modules, "bitsandbytes")
    assert suits(quantized)
    spare_imports(plain)
    assert suits(plain)
    assert not suits(quantized)


@pytest.mark.parametrize(("optimizer", "imported"), [("adamw", 0), ("adamw8bit", 1)])
def test_peft_imports_it_only_then(optimizer: str, imported: int) -> None:
    spec = make_spec(optimizer=optimizer).to_json()
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", _WORKER, spec], check=False).returncode == imported


_EIGHT_BITS = """
import os
import sys
os.environ["DS_ACCELERATOR"] = "cpu"
from finetune_trainer.imports import training_process
training_process()
import torch
from finetune_trainer.deferred import is_deferred
assert is_deferred(torch._dynamo)
from bitsandbytes.functional import create_dynamic_map
code, values = create_dynamic_map(), torch.linspace(-1, 1, 256)
quantized, scales = torch.ops.bitsandbytes.quantize_blockwise.default(values, code, 256)
restored = torch.ops.bitsandbytes.dequantize_blockwise.default(quantized, scales, code, 256, torch.float32)
assert (restored - values).abs().max() < 0.02
"""


_LEAN = """
import os
import sys
os.environ["DS_ACCELERATOR"] = "cpu"
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.imports import spare_imports, training_process
spare_imports(FineTuneJobSpec.model_validate_json(sys.argv[1]))
training_process()
import torch
from finetune_trainer.deferred import is_deferred
from deepspeed.runtime import compiler
from deepspeed.runtime.zero.muon.original_muon import muon_update
assert not hasattr(muon_update, "_torchdynamo_orig_callable")
assert compiler.compile() is torch.compile
parameter = torch.nn.Parameter(torch.ones(1))
optimizer = torch.optim.AdamW([parameter])
parameter.grad = torch.ones(1)
optimizer.step()
optimizer.zero_grad()
assert is_deferred(torch._dynamo)
from transformers import LlamaConfig, LlamaForCausalLM
with torch.device("meta"):
    sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2))
assert model.lm_head.weight.is_meta
from torch.fx.experimental import symbolic_shapes
assert is_deferred(symbolic_shapes)
spared = ("torch._inductor", "torch.distributed.tensor", "torch.distributed.fsdp", "sympy", "boto3", "botocore")
spared += ("triton",)
assert not [name for name in spared if sys.modules.get(name) is not None]
double = torch.compile(lambda value: 2 * value, backend="eager")
assert double(torch.ones(1)).item() == 2
assert not is_deferred(torch._dynamo)
assert torch.compile(lambda value: value + value.shape[0], backend="eager", dynamic=True)(torch.ones(3))[0] == 4
assert not is_deferred(symbolic_shapes)
allowed = torch._dynamo.trace_rules._allowed_callable_ids
from transformers import PreTrainedModel
assert id(PreTrainedModel.can_record_outputs.fget) in allowed
"""


def test_nothing_of_the_compiler_is_imported_before_something_is_compiled() -> None:
    """Nor Muon's functions compiled while they are imported; what was marked for the compiler is known to it then."""
    line = [sys.executable, "-W", "ignore", "-c", _LEAN, make_spec().to_json()]
    done = subprocess.run(line, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_of_the_compiler_comes_with_bitsandbytes() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _EIGHT_BITS], stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_library_that_no_longer_asks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import import_utils

    monkeypatch.delattr(import_utils, "is_torch_flex_attn_available")
    monkeypatch.setattr(imports, "_ABSENT", ("is_torch_flex_attn_available",))
    with pytest.raises(ImportError, match="has no is_torch_flex_attn_available"):
        imports.spare_sharded_tensors()
