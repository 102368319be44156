"""Whatever is trained is exported right: other architectures, adapters merged, and the best weights.

One world of two processes trains all cases, one after the other.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BitsAndBytesConfig

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.artifact.manifest import Kind
from finetune_trainer.artifact.publish import publish
from finetune_trainer.models.quantized import keep_exact
from support.gangs import run_gang
from support.reference import Reference, load_model, train_reference
from support.tiny_architectures import architectures, write_architecture
from support.tiny_model import write_tiny_model
from support.training_runs import make_plan, make_spec, open_splits, write_prepared_data

STEPS = 6
FAMILIES = ("qwen", "mistral", "gemma", "gptneox")
STAGES = {"full": 3, "lora": 2, "merged": 3}
# The learning rate is far too high, so that the held-out loss rises after a few steps. With epsilon, gradients that are
# next to nothing but rounding do not move a weight as far as any other.
BEST = {"maxSteps": 12, "schedule": "constant", "warmupSteps": 0, "learningRate": "2e-2", "epsilon": "1e-4"}
# In proportion to that learning rate, the tolerance of the others.
BEST_TOLERANCE = 4e-5
DORA = {"lora": {"rank": 4, "alpha": 8, "dora": True}}
TOKENS = torch.arange(24)[None]

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # The first test waits for all runs.
    pytest.mark.timeout(900),
]


def spec_of(
    form: str, evaluation: dict[str, Any] | None = None, quantized: bool = False, **options: Any
) -> FineTuneJobSpec:
    """A spec by the form of its result: full, lora or merged."""
    adapter = "qlora" if quantized else "lora"
    tuning = adapter if form in ("merged", "lora") else form
    spec = make_spec(tuning=tuning, processes=2, **({"maxSteps": STEPS} | options))
    wire = spec.to_wire() | {"evaluation": evaluation or {}}
    if form == "merged":
        wire["output"] |= {"artifact": "Merged"}
    return FineTuneJobSpec.model_validate(wire)


def cases() -> dict[str, tuple[str, FineTuneJobSpec]]:
    """By name, the model and the spec of each training."""
    found = {
        f"{family}-{form}": (family, spec_of(form, stage=stage))
        for family in FAMILIES
        for form, stage in STAGES.items()
    }
    stopping = {"everySteps": 1, "earlyStopping": {"patience": 2}}
    return found | {
        "llama-bf16-lora": ("llama", spec_of("lora", stage=3, precision="bf16")),
        "llama-bf16-merged": ("llama", spec_of("merged", stage=3, precision="bf16")),
        "llama-best": ("llama", spec_of("lora", stopping | {"publish": "Best"}, stage=3, **BEST)),
        "llama-best-full": ("llama", spec_of("full", stopping | {"publish": "Best"}, stage=2, **BEST)),
        "llama-last": ("llama", spec_of("lora", stopping, stage=2, **BEST)),
        "llama-dora": ("llama", spec_of("lora", stage=3, method=DORA)),
        "llama-dora-merged": ("llama", spec_of("merged", stage=3, method=DORA)),
        "llama-qlora": ("llama", spec_of("lora", stage=2, quantized=True)),
        "llama-qlora-merged": ("llama", spec_of("merged", stage=2, quantized=True)),
        "reward-lora": ("llama", spec_of("lora", stage=3, objective="reward")),
        "reward-merged": ("llama", spec_of("merged", stage=3, objective="reward")),
        "llama-diverged": ("llama", spec_of("lora", {"divergence": {"maxLoss": "0.5", "steps": 2}}, stage=2)),
    }


class Runs:
    """The workspaces of all cases, and the models that they started from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._summaries = {
            objective: write_prepared_data(folder / objective, objective=objective) for objective in ("sft", "reward")
        }
        self.models = {name: write_architecture(folder / name, config) for name, config in architectures().items()}
        self.models["llama"] = write_tiny_model(folder / "llama")
        for name, (model, spec) in cases().items():
            self._write_workspace(name, model, spec)
        (folder / "logs").mkdir()
        run_gang(folder / "logs", 1, 2, "support.train_matrix", str(folder / "runs"), seconds=800)
        self.reference = cache(self._reference)

    def store(self, name: str) -> Path:
        """A store of its own for each case: all have one run ID, and would go on from each other's checkpoints."""
        return self._folder / "stores" / name

    def _write_workspace(self, name: str, model: str, spec: FineTuneJobSpec) -> None:
        bucket = self.store(name) / "bucket"
        if not bucket.exists():
            bucket.mkdir(parents=True)
            (bucket / "model").symlink_to(self.models[model])
        workspace = self.workspace(name)
        workspace.mkdir(parents=True)
        objective = spec.method.objective
        plan = make_plan(self.store(name), spec, self._summaries[objective])
        (workspace / "plan.json").write_text(plan.to_json())
        (workspace / "model").symlink_to(self.models[model])
        (workspace / "data").symlink_to(self._folder / objective)

    def workspace(self, name: str) -> Path:
        return self._folder / "runs" / name

    def artifact(self, name: str) -> Path:
        return self.workspace(name) / "artifact"

    def evaluation(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.workspace(name) / "evaluation.json").read_text())
        return found

    def _reference(self, name: str, steps: int) -> Reference:
        """The same training in plain PyTorch."""
        model, spec = cases()[name]
        train, held_out = open_splits(self._folder / spec.method.objective)
        return train_reference(self.models[model], spec, train, held_out, steps)

    def publish(self, name: str) -> str:
        """Publishes a run, which verifies what arrives; the kind of the artifact."""
        model, spec = cases()[name]
        plan = make_plan(self.store(name), spec, self._summaries[spec.method.objective])
        kind = Kind((self.workspace(name) / "kind").read_text())
        return publish(plan, os.environ, self.artifact(name), kind, self.models[model], None, {}).kind


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("export"))


def loaded(folder: Path) -> Any:
    """A model of a folder, complete and with nothing left over."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=TOKENS).logits.float()
    return found


def furthest(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest difference of any element."""
    assert found.keys() == expected.keys()
    with torch.no_grad():
        return max(float((found[name].float() - value).abs().max()) for name, value in expected.items())


def settled(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the biases of keys: they add the same to every score of a query, so their gradient is nothing but
    rounding, which Adam brings to the size of any other."""
    return {name: value for name, value in weights.items() if not name.endswith("k_proj.bias")}


def adapter_weights(runs: Runs, name: str) -> dict[str, torch.Tensor]:
    return load_file(runs.artifact(name) / "adapter_model.safetensors")


def published_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace(".default", ""): value for name, value in weights.items()}


@pytest.mark.parametrize("family", FAMILIES)
class TestArchitectures:
    def test_full_tuning_equals_plain_training_and_loads(self, runs: Runs, family: str) -> None:
        name = f"{family}-full"
        model = loaded(runs.artifact(name))
        weights = dict(model.named_parameters())
        assert furthest(settled(weights), settled(runs.reference(name, STEPS).weights)) <= 2e-6
        assert furthest(weights, dict(loaded(runs.models[family]).named_parameters())) > 1e-4

    def test_an_adapter_equals_plain_training_and_loads_in_peft(self, runs: Runs, family: str) -> None:
        name = f"{family}-lora"
        expected = published_names(runs.reference(name, STEPS).weights)
        assert furthest(adapter_weights(runs, name), expected) <= 2e-6
        adapted = PeftModel.from_pretrained(loaded(runs.models[family]), str(runs.artifact(name)))
        assert (logits(adapted) - logits(loaded(runs.models[family]))).abs().max() > 1e-5

    def test_a_merged_model_does_what_base_and_adapter_do(self, runs: Runs, family: str) -> None:
        adapted = PeftModel.from_pretrained(loaded(runs.models[family]), str(runs.artifact(f"{family}-lora")))
        merged = loaded(runs.artifact(f"{family}-merged"))
        assert torch.allclose(logits(merged), logits(adapted.eval()), atol=2e-5)

    @pytest.mark.parametrize(("form", "kind"), [("full", "model"), ("lora", "adapter"), ("merged", "model")])
    def test_what_is_published_passes_verification(self, runs: Runs, family: str, form: str, kind: str) -> None:
        assert runs.publish(f"{family}-{form}") == kind

    def test_files_name_the_weights_as_the_base_model_does(self, runs: Runs, family: str) -> None:
        expected = load_file(runs.models[family] / "model.safetensors")
        for form in ("full", "merged"):
            found = load_file(runs.artifact(f"{family}-{form}") / "model.safetensors")
            assert {name: value.shape for name, value in found.items()} == {
                name: value.shape for name, value in expected.items()
            }
            assert (runs.artifact(f"{family}-{form}") / "generation_config.json").read_bytes() == (
                runs.models[family] / "generation_config.json"
            ).read_bytes()


def nf4() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)


@pytest.mark.parametrize(
    ("name", "load", "tolerance"), [("llama-dora", {}, 2e-6), ("llama-qlora", {"quantization_config": nf4()}, 1e-5)]
)
def test_every_adapter_merges_to_what_it_does_on_its_base(
    runs: Runs, name: str, load: dict[str, Any], tolerance: float
) -> None:
    """Of QLoRA too: the base that is merged into is the one that was trained on, its 4-bit weights expanded."""
    base = AutoModelForCausalLM.from_pretrained(runs.models["llama"], dtype=torch.float32, **load)
    keep_exact(base)
    before = logits(base.eval())
    adapted = logits(PeftModel.from_pretrained(base, str(runs.artifact(name))).eval())
    merged = loaded(runs.artifact(f"{name}-merged"))
    assert (logits(merged) - adapted).abs().max() <= tolerance
    assert (adapted - before).abs().max() > 1e-3
    assert not hasattr(merged.config, "quantization_config")
    assert runs.publish(f"{name}-merged") == "model"


def test_the_head_that_an_adapter_brings_is_merged_too(runs: Runs) -> None:
    """modules_to_save: the scalar head of a reward model."""
    base = load_model(runs.models["llama"], cases()["reward-lora"][1])
    adapted = PeftModel.from_pretrained(base, str(runs.artifact("reward-lora"))).eval()
    merged, info = AutoModelForSequenceClassification.from_pretrained(
        runs.artifact("reward-merged"), output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert (logits(merged.eval()) - logits(adapted)).abs().max() <= 2e-6
    trained = adapted.base_model.model.score
    assert not torch.equal(merged.score.weight, trained.original_module.weight)


def test_a_model_merged_in_bf16_is_the_sum_rounded_once(runs: Runs) -> None:
    merged = load_file(runs.artifact("llama-bf16-merged") / "model.safetensors")
    base = load_file(runs.models["llama"] / "model.safetensors")
    adapter = adapter_weights(runs, "llama-bf16-lora")
    layer = "model.layers.0.self_attn.q_proj"
    down, up = (adapter[f"base_model.model.{layer}.{part}.weight"] for part in ("lora_A", "lora_B"))
    expected = (base[f"{layer}.weight"].bfloat16().float() + up @ down * 2).bfloat16()
    assert merged[f"{layer}.weight"].dtype == torch.bfloat16
    assert torch.equal(merged[f"{layer}.weight"], expected)
    config = json.loads((runs.artifact("llama-bf16-merged") / "config.json").read_text())
    assert config["dtype"] == "bfloat16"


@pytest.mark.parametrize("name", ["llama-best", "llama-best-full"])
def test_the_weights_of_the_best_evaluation_are_published(runs: Runs, name: str) -> None:
    found = runs.evaluation(name)
    step = found["publishedStep"]
    assert found["bestStep"] == step
    assert found["stoppedAtStep"] == step + 2 < 12
    losses = {point["step"]: float(point["loss"]) for point in found["history"]}
    assert float(found["lossAfter"]) == min(loss for step, loss in losses.items() if step)
    expected = runs.reference(name, step).weights
    if name == "llama-best":
        assert furthest(adapter_weights(runs, name), published_names(expected)) <= BEST_TOLERANCE
    else:
        assert furthest(dict(loaded(runs.artifact(name)).named_parameters()), expected) <= BEST_TOLERANCE
    assert (runs.artifact(name) / "metrics.jsonl").exists()


def test_the_last_weights_are_published_unless_the_best_are_asked_for(runs: Runs) -> None:
    found = runs.evaluation("llama-last")
    assert found["publishedStep"] == found["stoppedAtStep"] > found["bestStep"]
    expected = runs.reference("llama-last", found["publishedStep"]).weights
    assert furthest(adapter_weights(runs, "llama-last"), published_names(expected)) <= BEST_TOLERANCE


def test_a_loss_above_the_bound_ends_the_training_on_every_rank(runs: Runs) -> None:
    message = (runs.workspace("llama-diverged") / "error").read_text()
    assert message.startswith("Diverged: the training loss was above 0.5 for 2 steps and is ")
    assert not runs.artifact("llama-diverged").exists()
