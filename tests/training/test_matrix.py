"""Every objective in every tuning on every ZeRO stage, on two processes, equals plain PyTorch in one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.models.quantized import keep_exact
from finetune_trainer.training.samples import MAX_ANSWER, prompts_of
from support.gangs import run_gang
from support.reference import Reference, load_model, train_reference
from support.tiny_model import write_tiny_model
from support.training_runs import make_plan, make_spec, open_splits, write_prepared_data

# Every ZeRO stage and tuning, and each objective whose random rows have a prompt: more would only take time.
SAMPLED = frozenset(
    {"dpo-full-0", "orpo-partial-1", "kto-lora-2", "kto-full-3", "dpo-lora-3", "orpo-partial-3", "dpo-qlora-2"}
)
OBJECTIVES = ("sft", "dpo", "orpo", "kto", "reward")
STEPS = 4
LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 2e-6
# bfloat16 gradients round differently with each way to spread the batch, so there only the losses are close.
# Losses that compare with a reference begin at the same value whatever the model is, and move little in four steps.
BF16_LOSS_TOLERANCES, BF16_WEIGHT_TOLERANCE = {"dpo": 1e-4, "kto": 1e-4}, 1e-2
# PEFT asks transformers for a property by its old name, and bitsandbytes looks for kernels that are not installed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:bitsandbytes"),
    # The first test waits for all runs.
    pytest.mark.timeout(600),
]


@dataclass(frozen=True)
class Cell:
    """One way of training. ``options`` is JSON of the method's further fields."""

    objective: str
    tuning: str
    stage: int
    options: str = "{}"
    precision: str = "fp32"

    @property
    def name(self) -> str:
        option = "".join(letter for letter in self.options if letter.isalnum())
        half = self.precision if self.precision != "fp32" else ""
        return "-".join(filter(None, (self.objective, self.tuning, str(self.stage), option, half)))

    @property
    def tolerances(self) -> tuple[float, float]:
        """Of losses and of weights."""
        if self.precision == "bf16":
            return BF16_LOSS_TOLERANCES.get(self.objective, 5e-4), BF16_WEIGHT_TOLERANCE
        return LOSS_TOLERANCE, WEIGHT_TOLERANCE

    @property
    def published_type(self) -> torch.dtype:
        """Adapters are published in float32, models as they were computed."""
        whole = self.tuning in ("full", "partial")
        return torch.bfloat16 if whole and self.precision == "bf16" else torch.float32

    def spec(self, processes: int = 2) -> FineTuneJobSpec:
        return make_spec(
            objective=self.objective,
            tuning=self.tuning,
            method=json.loads(self.options),
            precision=self.precision,
            stage=self.stage,
            processes=processes,
            # One and two rows per micro-batch: gradient accumulation of two steps and of one.
            micro_batch_size=1 + self.stage % 2,
            maxSteps=STEPS,
            globalBatchSize=4,
            warmupSteps=1,
            samples=2 if self.name in SAMPLED else 0,
        )


GRID = [Cell(o, t, stage) for o in OBJECTIVES for t in ("full", "partial", "lora") for stage in range(4)]
QLORA = [Cell(objective, "qlora", stage) for objective in ("sft", "dpo", "reward") for stage in range(3)]
OPTIONS = [
    Cell("dpo", "full", 3, '{"dpo": {"loss": "ipo", "beta": "0.5"}}'),
    Cell("dpo", "full", 2, '{"dpo": {"loss": "hinge", "reference": "None"}}'),
    Cell("dpo", "lora", 3, '{"dpo": {"reference": "Precomputed"}}'),
    Cell("kto", "lora", 2, '{"kto": {"reference": "Precomputed", "undesirableWeight": "0.5"}}'),
    Cell("sft", "lora", 2, '{"lora": {"rank": 4, "dora": true}}'),
    Cell("sft", "lora", 3, '{"lora": {"rank": 4, "dora": true}}'),
    Cell("orpo", "lora", 1, '{"lora": {"rank": 4, "rankStabilized": true}}'),
]
INITIAL = '{"lora": {"rank": 4, "alpha": 8, "initialAdapter": {"source": "s3://bucket/adapter"}}}'
CONTINUED = [
    *(Cell("sft", "lora", stage, INITIAL) for stage in range(4)),
    *(Cell("sft", "qlora", stage, INITIAL) for stage in range(3)),
    Cell("dpo", "lora", 3, INITIAL),
]
OTHER = '"referenceModel": {"source": "s3://bucket/other"}'
COMPARED = [
    Cell("dpo", "full", 3, f'{{"dpo": {{{OTHER}}}}}'),
    Cell("dpo", "lora", 2, f'{{"dpo": {{{OTHER}}}}}'),
    Cell("kto", "lora", 1, f'{{"kto": {{{OTHER}}}}}'),
    Cell("dpo", "qlora", 2, f'{{"dpo": {{{OTHER}}}}}'),
]
BF16 = [
    Cell("sft", "partial", 2, precision="bf16"),
    Cell("sft", "qlora", 2, precision="bf16"),
    Cell("dpo", "lora", 2, precision="bf16"),
    Cell("dpo", "qlora", 1, precision="bf16"),
    Cell("orpo", "full", 1, precision="bf16"),
    Cell("kto", "lora", 3, precision="bf16"),
    Cell("reward", "full", 3, precision="bf16"),
    Cell("reward", "lora", 1, precision="bf16"),
]
CELLS = GRID + QLORA + OPTIONS + CONTINUED + COMPARED + BF16


class Matrix:
    """Workspaces of all cells, trained by one gang, and the references beside them."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.store = folder, folder / "store"
        self.model = write_tiny_model(
            self.store / "bucket" / "model", hidden_size=16, heads=2, key_value_heads=1, max_positions=64
        )
        self.other = write_tiny_model(
            self.store / "bucket" / "other", seed=9, hidden_size=32, heads=2, key_value_heads=1, max_positions=64
        )
        self.adapter = write_adapter(self.model, self.store / "bucket" / "adapter")
        self.reference = cache(self._reference)
        self.trained = cache(self._trained)

    def data(self, objective: str) -> Path:
        return self.store / "bucket" / f"prepared-{objective}"

    def expected(self, cell: Cell) -> Reference:
        return self.reference(cell.objective, cell.tuning, cell.options, cell.precision)

    def _reference(self, objective: str, tuning: str, options: str, precision: str) -> Reference:
        spec = Cell(objective, tuning, 0, options, precision).spec(1)
        threads = torch.get_num_threads()
        # More threads only wait for each other on so small a model.
        torch.set_num_threads(1)
        try:
            adapter = self.adapter if spec.method.initial_adapter else None
            splits = open_splits(self.data(objective))
            other = self.other if spec.method.reference_model else None
            return train_reference(self.model, spec, *splits, STEPS, adapter, other, **quantized(tuning, precision))
        finally:
            torch.set_num_threads(threads)

    def _trained(self) -> Path:
        for objective in OBJECTIVES:
            summary = write_prepared_data(self.data(objective), 9, 3, objective)
            for cell in (cell for cell in CELLS if cell.objective == objective):
                workspace = self._folder / "runs" / cell.name
                workspace.mkdir(parents=True)
                (workspace / "plan.json").write_text(make_plan(self.store, cell.spec(), summary).to_json())
                (workspace / "model").symlink_to(self.model)
                (workspace / "data").symlink_to(self.data(objective))
                (workspace / "adapter").symlink_to(self.adapter)
                (workspace / "reference").symlink_to(self.other)
        run_gang(self._folder, 1, 2, "support.train_matrix", str(self._folder / "runs"), seconds=500)
        return self._folder / "runs"


def write_adapter(model: Path, folder: Path) -> Path:
    """An adapter that PEFT made and saved, of random weights that change the model."""
    torch.manual_seed(3)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    for name, weight in adapted.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.2)
    adapted.save_pretrained(folder)
    return folder


def quantized(tuning: str, precision: str = "fp32") -> dict[str, Any]:
    if tuning != "qlora":
        return {}
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
    )
    return {"quantization_config": config, "device_map": "cpu"}


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    return Matrix(tmp_path_factory.mktemp("matrix"))


def lines(workspace: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workspace / "artifact" / "metrics.jsonl").read_text().splitlines()]


def saved(workspace: Path, cell: Cell) -> dict[str, torch.Tensor]:
    adapter = cell.tuning in ("lora", "qlora")
    return load_file(workspace / "artifact" / ("adapter_model.safetensors" if adapter else "model.safetensors"))


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
class TestEquality:
    def test_losses(self, matrix: Matrix, cell: Cell) -> None:
        workspace = matrix.trained() / cell.name
        expected, (tolerance, _) = matrix.expected(cell), cell.tolerances
        steps = [line["loss"] for line in lines(workspace) if line["kind"] == "step"]
        held_out = [line["loss"] for line in lines(workspace) if line["kind"] == "evaluation"]
        assert steps == pytest.approx(expected.losses, abs=tolerance, rel=0)
        assert held_out == pytest.approx([expected.before, expected.after], abs=tolerance, rel=0)
        # The steps have done something that the tolerance does not hide.
        assert max(steps) - min(steps) > (5 * tolerance if cell.precision == "fp32" else tolerance)

    def test_exported_weights(self, matrix: Matrix, cell: Cell) -> None:
        found = saved(matrix.trained() / cell.name, cell)
        reference = matrix.expected(cell)
        expected = reference.weights if "lora" in cell.tuning else reference.weights | reference.frozen
        expected = {published(name): value for name, value in expected.items()}
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == cell.published_type
            assert (found[name].float() - value.float()).abs().max() <= cell.tolerances[1], name


def published(parameter: str) -> str:
    name = parameter.replace(".modules_to_save.default", "").replace(".default", "")
    return name.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def test_a_continued_adapter_begins_where_it_was_and_is_published_for_its_model(matrix: Matrix) -> None:
    found = [line["loss"] for line in lines(matrix.trained() / CONTINUED[0].name)]
    fresh = [line["loss"] for line in lines(matrix.trained() / Cell("sft", "lora", 0).name)]
    # The first line is the held-out split before the first step.
    assert abs(found[0] - fresh[0]) > 1e-3
    config = json.loads((matrix.trained() / CONTINUED[3].name / "artifact" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == ("example/tiny-llama", 4, 8)


def inputs() -> torch.Tensor:
    return torch.arange(5, 17)[None]


@pytest.mark.parametrize("cell", [Cell("reward", "full", 3), Cell("reward", "partial", 2)], ids=lambda cell: cell.name)
def test_a_reward_model_loads_in_transformers(matrix: Matrix, cell: Cell) -> None:
    folder = matrix.trained() / cell.name / "artifact"
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.architectures == ["LlamaForSequenceClassification"]
    assert model(input_ids=inputs()).logits.shape == (1, 1)


@pytest.mark.parametrize("cell", [Cell("reward", "lora", 3), Cell("reward", "qlora", 2)], ids=lambda cell: cell.name)
def test_the_adapter_of_a_reward_model_brings_its_head(matrix: Matrix, cell: Cell) -> None:
    base = load_model(matrix.model, cell.spec())
    tuned = PeftModel.from_pretrained(base, str(matrix.trained() / cell.name / "artifact"))
    found = saved(matrix.trained() / cell.name, cell)["base_model.model.score.weight"]
    assert torch.equal(tuned.base_model.model.score.modules_to_save.default.weight, found)
    assert not torch.equal(found, base.score.original_module.weight)


@pytest.mark.parametrize("cell", [QLORA[2], OPTIONS[4], OPTIONS[6]], ids=lambda cell: cell.name)
def test_adapters_load_in_peft(matrix: Matrix, cell: Cell) -> None:
    base = AutoModelForCausalLM.from_pretrained(matrix.model)
    before = base(input_ids=inputs()).logits
    tuned = PeftModel.from_pretrained(base, str(matrix.trained() / cell.name / "artifact"))
    assert (tuned(input_ids=inputs()).logits - before).abs().max() > 1e-5


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.name in SAMPLED], ids=lambda cell: cell.name)
def test_answers_before_and_after_are_those_of_plain_transformers(matrix: Matrix, cell: Cell) -> None:
    artifact = matrix.trained() / cell.name / "artifact"
    base = AutoModelForCausalLM.from_pretrained(matrix.model, **quantized(cell.tuning))
    keep_exact(base)
    _, rows = open_splits(matrix.data(cell.objective))
    prompts = prompts_of(rows, 2, 64)
    found = [json.loads(line) for line in (artifact / "samples.jsonl").read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(matrix.model)
    assert [sample["row"] for sample in found] == [prompt.row for prompt in prompts]
    assert [sample["before"] for sample in found] == [answered(base, tokenizer, prompt.ids) for prompt in prompts]
    if cell.tuning in ("lora", "qlora"):
        tuned = PeftModel.from_pretrained(base, str(artifact))
    else:
        tuned = AutoModelForCausalLM.from_pretrained(artifact)
    assert [sample["after"] for sample in found] == [answered(tuned, tokenizer, prompt.ids) for prompt in prompts]


def answered(model: Any, tokenizer: Any, prompt: tuple[int, ...]) -> dict[str, Any]:
    """The likeliest tokens, by transformers' own generation."""
    room = min(MAX_ANSWER, 64 - len(prompt))
    ids = torch.tensor([prompt])
    whole = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=room,
        do_sample=False,
        pad_token_id=0,
        use_cache=False,
    )
    new = whole[0, len(prompt) :].tolist()
    return {"text": tokenizer.decode(new, skip_special_tokens=True), "cut": new[-1] != tokenizer.eos_token_id}


def test_nobody_is_asked_where_nobody_wants_samples(matrix: Matrix) -> None:
    assert not (matrix.trained() / "sft-full-1" / "artifact" / "samples.jsonl").exists()


def test_preferences_are_measured_beside_the_loss(matrix: Matrix) -> None:
    workspace = matrix.trained() / Cell("dpo", "lora", 2).name
    names = {"rewardAccuracy", "rewardMargin"}
    assert all(names <= line.keys() for line in lines(workspace))
    evaluations = [line for line in lines(workspace) if line["kind"] == "evaluation"]
    assert evaluations[0]["rewardMargin"] == pytest.approx(0.0, abs=1e-6)
    assert evaluations[-1]["rewardMargin"] != 0.0
