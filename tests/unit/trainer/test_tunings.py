"""Which weights a tuning lets learn, counted and named, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api.spec import Objective, PartialOptions
from finetune_trainer.errors import UserError
from finetune_trainer.models.load import build_model
from finetune_trainer.models.parameters import Parameters, count_parameters
from finetune_trainer.models.partial import check_parts_of
from finetune_trainer.models.reward_head import padding_token
from finetune_trainer.prepare import prepare
from support.run_plans import Place
from support.saved_adapters import save_adapter
from support.tiny_model import write_tiny_model
from support.training_runs import make_spec

CPU = torch.device("cpu")
HEAD = "base_model.model.score.modules_to_save.default.weight"
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:bitsandbytes"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tunings") / "model", hidden_size=16, heads=2, key_value_heads=1)


def learning(folder: Path, **options: Any) -> set[str]:
    """Names of the weights that learn."""
    model = build_model(folder, make_spec(**options), CPU)
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def partial(folder: Path, objective: str = "sft", **options: Any) -> set[str]:
    return learning(folder, objective=objective, tuning="partial", method={"partial": options})


def test_the_last_blocks_learn_alone(folder: Path) -> None:
    names = partial(folder, lastBlocks=1)
    assert names
    assert all(name.startswith("model.layers.1.") for name in names)
    assert len(partial(folder, lastBlocks=2)) == 2 * len(names)


def test_patterns_choose_by_name(folder: Path) -> None:
    assert partial(folder, parameters=["*norm.weight", "model.layers.0.mlp.up_proj.*"]) == {
        "model.norm.weight",
        "model.layers.0.mlp.up_proj.weight",
    } | {name for name in partial(folder, parameters=["*"]) if name.endswith("norm.weight")}


def test_tied_weights_learn_as_embeddings_and_as_head(folder: Path) -> None:
    assert partial(folder, embeddings=True) == partial(folder, head=True) == {"model.embed_tokens.weight"}


def test_the_head_of_a_reward_model_always_learns(folder: Path) -> None:
    assert partial(folder, "reward", parameters=["model.norm.weight"]) == {"model.norm.weight", "score.weight"}
    lora = learning(folder, objective="reward", tuning="lora")
    assert {name for name in lora if "lora_" not in name} == {HEAD}


@pytest.mark.parametrize(
    ("options", "objective", "message"),
    [
        ({"lastBlocks": 3}, "sft", "lastBlocks is 3, but the model has 2 blocks"),
        ({"parameters": ["layers.*"]}, "sft", "the pattern 'layers.\\*', which matches no parameter"),
        ({"head": True}, "reward", "has no output head"),
    ],
)
def test_parts_that_are_not_there_are_refused(
    folder: Path, options: dict[str, Any], objective: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        partial(folder, objective, **options)
    # Prepare says the same, before a GPU is asked for.
    with pytest.raises(UserError, match=message):
        check_parts_of(folder, Objective(objective), PartialOptions.model_validate(options))


def test_prepare_refuses_parts_that_the_model_has_not(folder_place: Place, folder: Path) -> None:
    folder_place.put_folder(folder, "model")
    method = {"tuning": "partial", "partial": {"parameters": ["model.layers.*.mlp.*", "transformer.h.*"]}}
    with pytest.raises(UserError) as refused:
        prepare(folder_place.plan(method=method), folder_place.environment)
    assert str(refused.value) == (
        "spec.method.partial.parameters has the pattern 'transformer.h.*', which matches no parameter of the model"
    )
    assert refused.value.remedy.startswith("write a pattern of names like model.embed_tokens.weight")
    assert [key for key in folder_place.keys("results") if "/_data/" in key] == []


def test_a_model_that_is_not_known_is_refused_without_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "abacus"}')
    with pytest.raises(UserError, match="describes no model that can be trained"):
        check_parts_of(tmp_path, Objective.SFT, PartialOptions(last_blocks=1))


def test_a_new_scalar_head_depends_on_the_seed_only(folder: Path) -> None:
    def head(seed: int) -> torch.Tensor:
        model: Any = build_model(folder, make_spec(objective="reward", tuning="full", seed=seed), CPU)
        weight: torch.Tensor = model.score.weight.detach()
        return weight

    assert torch.equal(head(7), head(7))
    assert not torch.equal(head(7), head(8))
    assert 0.01 < float(head(7).std()) < 0.04


def test_counts_are_of_weights_also_in_4_bits(folder: Path) -> None:
    full, lora, qlora = (
        count_parameters(build_model(folder, make_spec(tuning=tuning), CPU)) for tuning in ("full", "lora", "qlora")
    )
    assert full.trainable == full.total
    assert lora == qlora
    assert lora == Parameters(lora.total - full.total, lora.total)
    # Rank 4 over seven modules of two blocks: q and o 16x16, k and v 16x8, three of 16x32.
    assert lora.trainable == 2 * 4 * (2 * 32 + 2 * 24 + 3 * 48)


def test_options_of_lora_reach_the_adapter(folder: Path) -> None:
    method = {"lora": {"rank": 4, "alpha": 8, "rankStabilized": True, "dora": True}}
    model: Any = build_model(folder, make_spec(method=method), CPU)
    config = model.peft_config["default"]
    assert (config.use_rslora, config.use_dora) == (True, True)
    assert model.base_model.model.model.layers[0].mlp.up_proj.scaling["default"] == 8 / 2
    assert any("lora_magnitude_vector" in name for name, value in model.named_parameters() if value.requires_grad)


def test_a_language_models_adapter_is_continued_by_a_reward_model(folder: Path, tmp_path: Path) -> None:
    first: Any = build_model(folder, make_spec(), CPU)
    weights = {name: torch.full_like(value, 0.5) for name, value in first.named_parameters() if value.requires_grad}
    save_adapter(first, weights, "org/base", tmp_path)
    model: Any = build_model(folder, make_spec(objective="reward"), CPU, adapter=tmp_path)
    learned = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert {name for name in learned if "lora_" not in name} == {HEAD}
    assert all((value == 0.5).all() for name, value in learned.items() if "lora_" in name)


def test_rows_are_padded_by_the_token_that_the_model_names(folder: Path) -> None:
    class Config:
        pad_token_id = None
        eos_token_id: Any = 3

    config: Any = Config()
    assert padding_token(config) == 3
    config.eos_token_id = [4, 5]
    assert padding_token(config) == 4
    config.eos_token_id = None
    with pytest.raises(UserError, match="needs a token to pad with"):
        padding_token(config)
