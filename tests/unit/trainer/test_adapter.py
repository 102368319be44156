"""Adapters: the same on every rank, refused where the names fit nothing, and the same bytes each time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from finetune_api.spec import FineTuneJobSpec, LoraOptions
from finetune_trainer.errors import UserError
from finetune_trainer.models.adapter import add_adapter, continue_adapter, without_adapter
from support.saved_adapters import save_adapter
from support.training_runs import make_spec

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def tiny() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )


def spec_with(*targets: str) -> FineTuneJobSpec:
    spec = make_spec()
    options = LoraOptions(rank=2, target_modules=targets or ("all-linear",))
    return spec.model_copy(update={"method": spec.method.model_copy(update={"lora": options})})


def trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def test_all_linear_leaves_out_the_head_and_freezes_the_rest() -> None:
    names = trained(add_adapter(tiny(), spec_with(), torch.float32)).keys()
    assert len(names) == 2 * 7
    assert all("lora_" in name for name in names)
    assert not [name for name in names if "lm_head" in name]


def test_initial_weights_depend_on_the_seed_only() -> None:
    torch.manual_seed(1)
    first = trained(add_adapter(tiny(), spec_with(), torch.float32))
    torch.manual_seed(2)
    second = trained(add_adapter(tiny(), spec_with(), torch.float32))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(weight.abs().max() > 0 for weight in first.values())


def test_bf16_adapters_are_those_of_fp32_rounded() -> None:
    full = trained(add_adapter(tiny(), spec_with(), torch.float32))
    half = trained(add_adapter(tiny().to(torch.bfloat16), spec_with(), torch.bfloat16))
    assert all(torch.equal(full[name].bfloat16(), half[name]) for name in full)


@pytest.mark.parametrize("targets", [("q_proj", "nothing"), ("all-linear", "q_proj"), ("proj",)])
def test_names_that_fit_nothing_are_refused(targets: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"targetModules names '(nothing|all-linear|proj)'") as refusal:
        add_adapter(tiny(), spec_with(*targets), torch.float32)
    assert "down_proj, gate_proj, k_proj" in refusal.value.remedy


def test_saved_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        model = add_adapter(tiny(), spec_with("v_proj", "q_proj"), torch.float32)
        save_adapter(model, trained(model), "org/name", folder)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/name"
    assert config["target_modules"] == ["q_proj", "v_proj"]
    assert (config["r"], config["peft_type"], config["task_type"]) == (2, "LORA", "CAUSAL_LM")
    assert config["modules_to_save"] is None


def test_all_linear_is_published_by_short_names(tmp_path: Path) -> None:
    model = add_adapter(tiny(), spec_with(), torch.float32)
    save_adapter(model, trained(model), "org/name", tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_ambiguous_names_stay_long(tmp_path: Path) -> None:
    base = tiny()
    # An adapted module and another that is no linear layer share their last name.
    base.model.layers[0].extra = torch.nn.ModuleDict({"q_proj": torch.nn.Identity()})
    model = add_adapter(base, spec_with("self_attn.q_proj"), torch.float32)
    save_adapter(model, trained(model), "org/name", tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ["model.layers.0.self_attn.q_proj"]


def published(model: LlamaForCausalLM, folder: Path, *targets: str) -> dict[str, torch.Tensor]:
    """Leaves a trained adapter of a model in a folder, and gives the logits of model and adapter."""
    adapted = add_adapter(model, spec_with(*targets), torch.float32)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    folder.mkdir()
    save_adapter(adapted, trained(adapted), "org/name", folder)
    tokens = torch.arange(16)[None]
    return {"input_ids": tokens, "logits": adapted.eval()(input_ids=tokens).logits.detach()}


def seeded() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return tiny().eval()


def test_an_adapter_is_continued_from_where_it_was(tmp_path: Path) -> None:
    seen = published(seeded(), tmp_path / "adapter")
    model = continue_adapter(seeded(), tmp_path / "adapter", spec_with(), torch.float32).eval()
    assert torch.equal(model(input_ids=seen["input_ids"]).logits, seen["logits"])
    assert len(trained(model)) == 2 * 7


def test_a_continued_adapter_takes_the_dropout_of_the_new_job(tmp_path: Path) -> None:
    published(seeded(), tmp_path / "adapter")
    options = LoraOptions(rank=2, dropout="0.25")
    spec = make_spec()
    spec = spec.model_copy(update={"method": spec.method.model_copy(update={"lora": options})})
    model = continue_adapter(seeded(), tmp_path / "adapter", spec, torch.float32)
    rates = {module.p for name, module in model.named_modules() if name.endswith("lora_dropout.default")}
    assert rates == {0.25}


def test_a_continued_adapter_is_saved_with_the_same_configuration(tmp_path: Path) -> None:
    published(seeded(), tmp_path / "adapter", "q_proj")
    model = continue_adapter(seeded(), tmp_path / "adapter", spec_with("q_proj"), torch.float32)
    (tmp_path / "again").mkdir()
    save_adapter(model, trained(model), "org/name", tmp_path / "again")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "adapter" / name).read_bytes()


def test_other_tunings_begin_with_the_adapter_in_the_weights(tmp_path: Path) -> None:
    seen = published(seeded(), tmp_path / "adapter")
    merged = without_adapter(seeded(), tmp_path / "adapter").eval()
    assert isinstance(merged, LlamaForCausalLM)
    assert torch.allclose(merged(input_ids=seen["input_ids"]).logits, seen["logits"], atol=1e-5)
    assert {name for name, _ in merged.named_parameters()} == {name for name, _ in seeded().named_parameters()}


def test_an_adapter_that_is_no_lora_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3", "task_type": "CAUSAL_LM"}))
    with pytest.raises(UserError, match="adapter of the type"):
        without_adapter(seeded(), tmp_path)
