"""An adapter to go on from: found, pinned, held against the manifest and the model before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from finetune_api.plan import RunPlan
from finetune_api.spec import LoraOptions
from finetune_trainer.errors import UserError
from finetune_trainer.models.fits import check_options
from finetune_trainer.models.sources import fetch_model
from finetune_trainer.prepare import prepare
from support.hub_server import hub_server
from support.run_plans import Place
from support.tiny_model import write_chat_rows, write_tiny_model

ADAPTER = "adapters/first"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", hidden_size=16, heads=2, key_value_heads=1)


def write_adapter(model: Path, folder: Path, **options: Any) -> Path:
    kind: Any = AutoModelForSequenceClassification if options.get("task_type") == "SEQ_CLS" else AutoModelForCausalLM
    config = LoraConfig(**({"r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | options))
    get_peft_model(kind.from_pretrained(model), config).save_pretrained(folder)
    return folder


@pytest.fixture
def place(folder_place: Place, tiny: Path, tmp_path: Path) -> Place:
    folder_place.put_folder(tiny, "model")
    write_chat_rows(tmp_path / "rows.jsonl", rows=6)
    folder_place.put("data/train.jsonl", (tmp_path / "rows.jsonl").read_bytes())
    folder_place.put_folder(write_adapter(tiny, tmp_path / "adapter"), ADAPTER)
    return folder_place


def plan_of(place: Place, source: str = f"s3://bucket/{ADAPTER}", **lora: Any) -> RunPlan:
    initial = {"source": source} | lora.pop("initial", {})
    return place.plan(method={"lora": {"rank": 4, "alpha": 8, "initialAdapter": initial} | lora})


def refusal(place: Place, **lora: Any) -> UserError:
    with pytest.raises(UserError) as error:
        prepare(plan_of(place, **lora), place.environment)
    return error.value


def test_its_content_is_part_of_the_run_and_its_place_is_not(place: Place, tiny: Path, tmp_path: Path) -> None:
    place.put_folder(tmp_path / "adapter", "copy")
    first = prepare(plan_of(place), place.environment)
    assert first.adapter
    assert prepare(plan_of(place, "s3://bucket/copy"), place.environment).run_id == first.run_id
    assert prepare(place.plan(method={"lora": {"rank": 4, "alpha": 8}}), place.environment).run_id != first.run_id
    write_adapter(tiny, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "adapter_config.json").read_text()) | {"lora_dropout": 0.5}
    place.put("copy/adapter_config.json", json.dumps(config).encode())
    changed = prepare(plan_of(place, "s3://bucket/copy"), place.environment)
    assert changed.adapter
    assert (changed.run_id != first.run_id, changed.adapter.digest != first.adapter.digest) == (True, True)


def test_training_refuses_another_adapter_than_the_prepared_one(place: Place, tmp_path: Path) -> None:
    plan = plan_of(place)
    plan = plan.model_copy(update={"prepared": prepare(plan, place.environment)})
    place.put(f"{ADAPTER}/adapter_config.json", b"{}")
    with pytest.raises(UserError) as error:
        fetch_model(plan, place.environment, tmp_path / "fetched")
    assert error.value.message == (
        f"s3://bucket/{ADAPTER} of spec.method.lora.initialAdapter.source has changed since the job was prepared"
    )


def test_one_of_a_claim(place: Place, tmp_path: Path) -> None:
    plan = plan_of(place, "pvc://team/adapter").model_copy(update={"claims": {"team": str(tmp_path)}})
    assert prepare(plan, place.environment).run_id == prepare(plan_of(place), place.environment).run_id


def test_one_of_a_hub_is_pinned_to_its_commit(place: Place, tmp_path: Path) -> None:
    with hub_server() as hub:
        hub.add("org/adapter", tmp_path / "adapter")
        access = {"huggingFace": {"endpointURL": hub.endpoint}}
        found = prepare(plan_of(place, "hf://org/adapter", initial=access), place.environment)
    assert found.adapter
    assert found.adapter.revision == "c" * 40
    assert found.run_id == prepare(plan_of(place), place.environment).run_id


@pytest.mark.parametrize(
    ("lora", "message", "remedy"),
    [
        ({"rank": 8}, "spec.method.lora.rank is 8, and the adapter NAMED has 4", "set spec.method.lora.rank to 4"),
        ({"alpha": 16}, "spec.method.lora.alpha is 16, and the adapter NAMED has 8", "set spec.method.lora.alpha to 8"),
        ({"dora": True}, "spec.method.lora.dora is true, and the adapter NAMED has false", "set spec.method.lora.dora"),
        (
            {"targetModules": ["q_proj"]},
            "spec.method.lora.targetModules leaves out model.layers.0.mlp.down_proj, which NAMED adapts",
            "set spec.method.lora.targetModules to what the adapter has (down_proj, gate_proj, k_proj, o_proj, q_proj, "
            "up_proj, v_proj)",
        ),
        (
            {"source": "s3://bucket/nowhere"},
            "s3://bucket/nowhere of spec.method.lora.initialAdapter.source is no adapter: it has no "
            "adapter_config.json",
            "run the job that published it again, or correct the source",
        ),
        (
            {"source": "s3://bucket/model"},
            "s3://bucket/model of spec.method.lora.initialAdapter.source is no adapter: it has no adapter_config.json",
            "name a whole model in spec.model.source",
        ),
    ],
)
def test_another_shape_than_that_of_the_manifest_is_refused(
    place: Place, lora: dict[str, Any], message: str, remedy: str
) -> None:
    error = refusal(place, **lora)
    named = f"s3://bucket/{ADAPTER} of spec.method.lora.initialAdapter.source"
    assert error.message == message.replace("NAMED", named)
    assert error.remedy.startswith(remedy)


def _fewer_modules(tiny: Path, folder: Path) -> Path:
    return write_adapter(tiny, folder, target_modules=["q_proj"])


def _another_model(tiny: Path, folder: Path) -> Path:
    wider = write_tiny_model(folder / "wider", hidden_size=32, heads=2, key_value_heads=1)
    return write_adapter(wider, folder / "adapter")


def _with_a_head(tiny: Path, folder: Path) -> Path:
    return write_adapter(tiny, folder, task_type="SEQ_CLS")


def _with_biases(tiny: Path, folder: Path) -> Path:
    return write_adapter(tiny, folder, modules_to_save=["embed_tokens"])


def _damaged(tiny: Path, folder: Path) -> Path:
    (write_adapter(tiny, folder) / "adapter_model.safetensors").write_bytes(b"short")
    return folder


def _no_json(tiny: Path, folder: Path) -> Path:
    (write_adapter(tiny, folder) / "adapter_config.json").write_bytes(b"{")
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_fewer_modules, r"spec\.method\.lora\.targetModules adapts model\.layers\.0\.mlp\.down_proj, and .* does not"),
        (
            _another_model,
            r"does not fit the model of spec\.model\.source: .* is \[4, 32\], and the model takes \[4, 16\]",
        ),
        (_with_a_head, r"has the tensor base_model\.model\.score\.weight, which is no part of the adapter"),
        (_with_biases, r"has the tensor .*embed_tokens.*, which is no part of the adapter"),
        (_damaged, r"is no adapter: adapter_model\.safetensors is no safetensors file"),
        (_no_json, r"is no adapter: adapter_config\.json is not JSON"),
    ],
)
def test_what_does_not_fit_is_refused(
    place: Place, tiny: Path, tmp_path: Path, make: Callable[[Path, Path], Path], message: str
) -> None:
    place.put_folder(make(tiny, tmp_path / "odd"), "odd")
    with pytest.raises(UserError, match=message):
        prepare(plan_of(place, "s3://bucket/odd"), place.environment)


PLAIN = {"peft_type": "LORA", "r": 16, "lora_alpha": 32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "is an adapter of the type IA3"),
        ({"rank_pattern": {"q_proj": 4}}, "has other ranks or alphas for some modules"),
        ({"alpha_pattern": {"q_proj": 4}}, "has other ranks or alphas for some modules"),
        ({"init_lora_weights": "pissa"}, "was begun by pissa, which changes the base model"),
        ({"use_rslora": True}, "spec.method.lora.rankStabilized is false, and the adapter it has true"),
        ({"init_lora_weights": "gaussian"}, None),
        ({"rank_pattern": {}, "use_dora": False}, None),
    ],
)
def test_options_that_the_manifest_cannot_say_are_refused(change: dict[str, Any], message: str | None) -> None:
    asked = LoraOptions()
    if message is None:
        check_options(asked, PLAIN | change, "it")
        return
    with pytest.raises(UserError, match=message):
        check_options(asked, PLAIN | change, "it")
