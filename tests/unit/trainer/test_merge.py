"""Adapters merged into weights equal what PEFT computes with them, for every kind of LoRA."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from finetune_trainer.models.merge import dequantized, merge_into_base, whole_shape

TOKENS = torch.arange(16)[None]

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, num_key_value_heads=1, **sizes)).eval()


def gpt2() -> GPT2LMHeadModel:
    """Its layers keep their weights transposed."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=32)).eval()


def adapted(model: Any, **options: Any) -> PeftModel:
    """A model with an adapter that changes it."""
    found = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=8, **options))
    assert isinstance(found, PeftModel)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in found.named_parameters():
            if "lora_B" in name or "magnitude" in name:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.3)
    return found.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=TOKENS).logits
    return found


KINDS = [
    pytest.param(llama, {"target_modules": "all-linear"}, id="LoRA"),
    pytest.param(llama, {"target_modules": ["q_proj"], "use_rslora": True}, id="rank-stabilised"),
    pytest.param(llama, {"target_modules": "all-linear", "use_dora": True}, id="DoRA"),
    pytest.param(llama, {"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 4}}, id="a rank of its own"),
    pytest.param(gpt2, {"target_modules": ["c_attn"], "fan_in_fan_out": True}, id="transposed"),
]


@pytest.mark.parametrize(("model", "options"), KINDS)
def test_the_merged_model_does_what_model_and_adapter_did(model: Any, options: dict[str, Any]) -> None:
    with_adapter = adapted(model(), **options)
    expected = logits(with_adapter)
    assert (expected - logits(model())).abs().max() > 1e-3
    merged = merge_into_base(with_adapter)
    assert torch.allclose(logits(merged), expected, atol=1e-5)
    assert {name for name, _ in merged.named_parameters()} == {name for name, _ in model().named_parameters()}


def test_a_half_precision_weight_is_rounded_once() -> None:
    with_adapter = adapted(llama().bfloat16(), target_modules=["q_proj"])
    layer = with_adapter.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    weight = layer.base_layer.weight.detach().float()
    change = (layer.lora_B["default"].weight.float() @ layer.lora_A["default"].weight.float()) * 4
    merged: Any = merge_into_base(with_adapter)
    assert torch.equal(merged.model.layers[0].self_attn.q_proj.weight, (weight + change).bfloat16())


def test_a_quantized_weight_is_expanded() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    layer = bitsandbytes.nn.Linear4bit(64, 32, bias=False, quant_type="nf4", compute_dtype=torch.float32)
    layer.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
    packed = layer.to("cpu").weight
    assert whole_shape(packed) == (32, 64) != tuple(packed.shape)
    found = dequantized(packed)
    # NF4 has 16 levels between the extremes of each block of 64.
    assert (found - weight).abs().mean() < 0.1
    inputs = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(layer(inputs), inputs @ found.T, atol=1e-4)


def test_a_plain_weight_stays_as_it_is() -> None:
    weight = torch.ones(3, 2)
    assert dequantized(weight) is weight
    assert whole_shape(weight) == (3, 2)
