"""What a published artifact must be."""

from __future__ import annotations

import re
from typing import Any

import pytest

from finetune_trainer.artifact.verify import (
    TensorFacts,
    base_name,
    check_adapter,
    check_index,
    check_model,
    check_names,
)
from finetune_trainer.errors import VerificationFailed

BASE = {
    "model.embed_tokens.weight": (10, 4),
    "model.layers.0.q_proj.weight": (6, 4),
    "model.layers.1.q_proj.weight": (6, 4),
    "model.layers.1.up_proj.weight": (8, 4),
    "model.norm.weight": (4,),
}
CONFIG = {"r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": "org/base"}
GOOD = TensorFacts((4,), finite=True, zero=False)


def tensor(*shape: int, finite: bool = True, zero: bool = False) -> TensorFacts:
    return TensorFacts(shape, finite, zero)


def adapter(**changes: TensorFacts | None) -> dict[str, TensorFacts]:
    """A right adapter of both layers; ``a0``, ``b0``, ``a1`` and ``b1`` are its tensors, None leaves one out."""
    names = {
        f"{half.lower()}{layer}": f"base_model.model.model.layers.{layer}.q_proj.lora_{half}.weight"
        for half in "AB"
        for layer in range(2)
    }
    right = {key: tensor(2, 4) if key[0] == "a" else tensor(6, 2) for key in names}
    return {names[key]: value for key, value in (right | changes).items() if value}


def full(**changes: TensorFacts | None) -> dict[str, TensorFacts]:
    """A right model; changes are by the last part of a name."""
    found = {name: tensor(*shape) for name, shape in BASE.items()}
    for short, value in changes.items():
        [name] = [name for name in found if short in name]
        if value is None:
            del found[name]
        else:
            found[name] = value
    return found


def reason(message: str) -> str:
    return f"^{re.escape(f'the published artifact is not right: {message}')}$"


def test_a_right_adapter_passes() -> None:
    check_adapter(adapter(), CONFIG, BASE, "org/base")
    assert adapter()


HEAD = "base_model.model.score.weight"
LENGTHS = {f"base_model.model.model.layers.{layer}.q_proj.lora_magnitude_vector": tensor(6) for layer in range(2)}


def test_a_right_adapter_of_a_reward_model_passes() -> None:
    tensors = adapter() | {HEAD: tensor(1, 4)}
    check_adapter(tensors, CONFIG | {"task_type": "SEQ_CLS"}, BASE, "org/base")
    with pytest.raises(VerificationFailed, match=reason("the adapter of a reward model lacks its head score.weight")):
        check_adapter(adapter(), CONFIG | {"task_type": "SEQ_CLS"}, BASE, "org/base")
    with pytest.raises(VerificationFailed, match=reason(f"the adapter's tensor {HEAD} has no counterpart")):
        check_adapter(tensors, CONFIG | {"task_type": "CAUSAL_LM"}, BASE, "org/base")


def test_a_right_adapter_of_dora_passes() -> None:
    check_adapter(adapter() | LENGTHS, CONFIG | {"use_dora": True}, BASE, "org/base")
    assert adapter()


@pytest.mark.parametrize("lengths", [{}, {name: tensor(4) for name in LENGTHS}])
def test_dora_without_its_lengths_is_refused(lengths: dict[str, TensorFacts]) -> None:
    message = "the adapter of model.layers.0.q_proj lacks the lengths of its columns, which DoRA learns"
    with pytest.raises(VerificationFailed, match=reason(message)):
        check_adapter(adapter() | lengths, CONFIG | {"use_dora": True}, BASE, "org/base")


def test_a_reward_model_has_a_scalar_head_in_place_of_the_output_head() -> None:
    config = {"architectures": ["LlamaForSequenceClassification"], "tie_word_embeddings": False}
    check_model(full() | {"score.weight": tensor(1, 4)}, config, BASE | {"lm_head.weight": (10, 4)})
    with pytest.raises(VerificationFailed, match=reason("the reward model lacks its head score.weight")):
        check_model(full(), config, BASE)


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        ({}, {}, "the adapter is empty"),
        (
            adapter(b0=tensor(6, 2, zero=True), b1=tensor(6, 2, zero=True)),
            {},
            "the adapter is zero: training has changed nothing",
        ),
        (
            adapter(a1=tensor(2, 4, finite=False)),
            {},
            "the tensor base_model.model.model.layers.1.q_proj.lora_A.weight holds NaN or infinity",
        ),
        (
            adapter(b1=None),
            {},
            "the adapter's tensor base_model.model.model.layers.1.q_proj.lora_A.weight has no counterpart",
        ),
        (
            adapter(a0=None),
            {},
            "the adapter's tensor base_model.model.model.layers.0.q_proj.lora_B.weight has no counterpart",
        ),
        (
            adapter(a1=None, b1=None),
            {},
            "the adapter lacks model.layers.1.q_proj, which adapter_config.json says it changes",
        ),
        (
            adapter(a0=tensor(0), b0=tensor(0)),
            {},
            "the adapter of model.layers.0.q_proj has the shapes [0] and [0], not those of rank 2",
        ),
        (
            adapter(),
            {"r": 4},
            "the adapter of model.layers.0.q_proj has the shapes [2, 4] and [6, 2], not those of rank 4",
        ),
        (
            adapter(a0=tensor(2, 5)),
            {},
            "the adapter of model.layers.0.q_proj is for 6 x 5, the base model has [6, 4]",
        ),
        (
            adapter() | {f"base_model.model.other.lora_{half}.weight": tensor(2, 4) for half in "AB"},
            {},
            "the adapter changes other, which the base model has not",
        ),
        (
            adapter(),
            {"base_model_name_or_path": "/workspace/model"},
            "adapter_config.json names the base model '/workspace/model' instead of 'org/base'",
        ),
    ],
    ids=["empty", "zero", "NaN", "no B", "no A", "layer", "partitioned", "rank", "shape", "module", "base"],
)
def test_wrong_adapters(tensors: dict[str, TensorFacts], config: dict[str, Any], message: str) -> None:
    with pytest.raises(VerificationFailed, match=reason(message)):
        check_adapter(tensors, CONFIG | config, BASE, "org/base")


def test_an_adapter_may_be_zero_in_some_layers() -> None:
    tensors = adapter(b0=tensor(6, 2, zero=True))
    check_adapter(tensors, CONFIG, BASE, "org/base")
    assert any(found.zero for found in tensors.values())


def test_transposed_weights_fit() -> None:
    """GPT-2 keeps its weights as [in, out]."""
    base = {"h.0.attn.weight": (4, 6)}
    name = "base_model.model.transformer.h.0.attn"
    tensors = {f"{name}.lora_A.weight": tensor(2, 4), f"{name}.lora_B.weight": tensor(6, 2)}
    check_adapter(tensors, CONFIG | {"target_modules": ["attn"]}, base, "org/base")
    assert base_name("transformer.h.0.attn.weight", base) == "h.0.attn.weight"


@pytest.mark.parametrize(
    ("tensors", "config", "base"),
    [
        (full(), {}, BASE),
        (full() | {"lm_head.weight": tensor(10, 4)}, {"tie_word_embeddings": True}, BASE),
        (full(), {"tie_word_embeddings": True}, {**BASE, "lm_head.weight": (10, 4)}),
        (full(), {}, {**BASE, "model.layers.0.rotary_emb.inv_freq": (2,)}),
    ],
    ids=["equal", "head written", "head not written", "old buffer"],
)
def test_right_models_pass(
    tensors: dict[str, TensorFacts], config: dict[str, Any], base: dict[str, tuple[int, ...]]
) -> None:
    check_model(tensors, config, base)
    assert tensors


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "the model is empty or zero"),
        ({name: tensor(*shape, zero=True) for name, shape in BASE.items()}, "the model is empty or zero"),
        (full(norm=tensor(4, finite=False)), "the tensor model.norm.weight holds NaN or infinity"),
        (full(norm=None), "the model lacks the base model's tensor model.norm.weight (1 such)"),
        (full(norm=tensor(0)), "model.norm.weight has the shape [0], the base model's [4]"),
        (full() | {"extra": GOOD}, "the model has the tensor extra, which the base model has not (1 such)"),
        (
            full() | {"lm_head.weight": GOOD},
            "the model has the tensor lm_head.weight, which the base model has not (1 such)",
        ),
    ],
    ids=["empty", "zero", "NaN", "missing", "partitioned", "extra", "head"],
)
def test_wrong_models(tensors: dict[str, TensorFacts], message: str) -> None:
    with pytest.raises(VerificationFailed, match=reason(message)):
        check_model(tensors, {"tie_word_embeddings": False}, BASE)


@pytest.mark.parametrize(
    ("names", "adapter_wanted", "missing"),
    [
        (["adapter_config.json"], True, "adapter_model.safetensors"),
        (["adapter_model.safetensors"], True, "adapter_config.json"),
        (["config.json", "model.safetensors"], False, "tokenizer.json"),
    ],
)
def test_files_that_loaders_look_for(names: list[str], adapter_wanted: bool, missing: str) -> None:
    with pytest.raises(VerificationFailed, match=reason(f"the artifact has no {missing}")):
        check_names(names, adapter_wanted)


def test_the_index_must_name_the_file_of_each_tensor() -> None:
    places = {"a": "model-1.safetensors"}
    check_index({"weight_map": places}, places)
    with pytest.raises(VerificationFailed, match="does not say where the tensors are"):
        check_index({"weight_map": {"a": "model-2.safetensors"}}, places)
