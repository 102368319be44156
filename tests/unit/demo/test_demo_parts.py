"""The demo's own parts, without a cluster: what it prints, its bucket in a folder, and its independent measurement."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from support.clusters import PROJECT
from support.tiny_model import write_chat_rows, write_tiny_model


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the demo, which is run from the project's folder and not installed."""
    monkeypatch.syspath_prepend(str(PROJECT))

    def imported(name: str) -> ModuleType:
        return importlib.import_module(f"scripts.demo.{name}")

    yield imported
    for name in [name for name in sys.modules if name == "scripts" or name.startswith("scripts.")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ({}, "Pending"),
        ({"state": "Preparing"}, "Preparing"),
        (
            {
                "state": "Training",
                "progress": {
                    "step": 7,
                    "totalSteps": 111,
                    "percent": 6,
                    "loss": "2.34567",
                    "evalLoss": "5",
                    "eta": "1m02s",
                    "tokensPerSecond": "123.456",
                },
            },
            "Training     step 7/111    6 %  loss 2.346  held-out loss 5  ETA 1m02s  tokens/s 123.5",
        ),
        (
            {"state": "Failed", "failure": {"class": "DataError", "message": "line 17", "remedy": "Correct it"}},
            "Failed       DataError: line 17. Correct it.",
        ),
    ],
)
def test_a_status_line(part: Any, status: dict[str, Any], line: str) -> None:
    assert part("console").status_line(status) == line


def test_a_status_that_reads_the_same_is_shown_once(part: Any, capsys: pytest.CaptureFixture[str]) -> None:
    show = part("console").changes_only()

    for state in ("Preparing", "Preparing", "Starting", "Preparing"):
        show({"state": state, "observedGeneration": 1})

    assert capsys.readouterr().out.split() == ["Preparing", "Starting", "Preparing"]


def test_the_bucket_is_filled_where_the_example_looks(part: Any, tmp_path: Path) -> None:
    store = part("store")
    bucket = store.FolderBucket(tmp_path / "store" / "finetune")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    rows = write_chat_rows(tmp_path / "rows.jsonl", rows=1)

    store.fill(bucket, tmp_path / "model", rows, store.PAIRS)

    assert bucket.sizes("") == {
        "datasets/finetune-operator/preferences.jsonl": store.PAIRS.stat().st_size,
        "datasets/finetune-operator/train.jsonl": rows.stat().st_size,
        "models/SmolLM2-135M-Instruct/config.json": 2,
    }
    assert f"s3://finetune/{store.MODEL_KEY}\n" in example("smollm2-lora")
    assert f"s3://finetune/{store.ROWS_KEY}\n" in example("smollm2-lora")
    assert f"s3://finetune/{store.PAIRS_KEY}\n" in example("smollm2-dpo")


def example(name: str) -> str:
    return (PROJECT / "examples" / f"{name}.yaml").read_text()


def test_the_second_job_goes_on_from_the_first(part: Any) -> None:
    first, second = part("__main__").JOBS
    assert f"name: {first}\n" in example(first)
    assert (f"name: {second}\n" in example(second), f"source: job://{first}\n" in example(second)) == (True, True)


def test_uploading_names_the_variables_that_are_missing(
    part: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_REGION", "somewhere")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    assert part("upload").main() == 2
    missing = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL"
    assert capsys.readouterr().err == f"set {missing}: the store that the examples' data goes to\n"


def test_a_folder_of_the_bucket_is_fetched_whole(part: Any, tmp_path: Path) -> None:
    store = part("store")
    bucket = store.FolderBucket(tmp_path / "bucket")
    for name in ("run/a.txt", "run/deep/b.txt", "running/c.txt"):
        file = tmp_path / "bucket" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)

    folder = store.fetch_folder(bucket, "run", tmp_path / "fetched")

    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.txt")) == ["a.txt", "deep/b.txt"]


def test_the_held_out_loss_is_that_of_the_answers_tokens(part: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    compare = part("compare")
    folder = write_tiny_model(tmp_path / "model")
    rows = write_chat_rows(tmp_path / "rows.jsonl", rows=5)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    messages = [json.loads(line)["messages"] for line in rows.read_text().splitlines()]
    ids = [tokenizer.apply_chat_template(row, return_dict=False) for row in (messages[1], messages[3])]
    ends = torch.tensor([0, len(ids[0]), len(ids[0]) + len(ids[1])])
    tensors = {"input_ids": torch.tensor([*ids[0], *ids[1]], dtype=torch.int32), "offsets": ends}
    save_file(tensors, tmp_path / "validation.safetensors")

    chats = compare.held_out_chats(tokenizer, rows, tmp_path / "validation.safetensors")
    model: Any = AutoModelForCausalLM.from_pretrained(folder)

    assert [chat.ids for chat in chats] == ids
    answers = [tokenizer.decode([label for label in chat.labels if label >= 0]) for chat in chats]
    assert answers == ["1 plus one is 2.<|im_end|>", "3 plus one is 4.<|im_end|>"]
    # A random model knows nothing: each of the tokens is about as likely as any other.
    assert compare.mean_loss(model.eval(), chats) == pytest.approx(math.log(len(tokenizer)), rel=0.1)


def test_preferences_are_measured_on_held_out_pairs_only(part: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    preferences = part("preferences")
    folder = write_tiny_model(tmp_path / "model")
    rows = [{"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": "Who knows"} for n in range(4)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    adapters = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        base: Any = AutoModelForCausalLM.from_pretrained(folder)
        options = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        adapters.append(tmp_path / f"adapter-{seed}")
        get_peft_model(base, options).save_pretrained(adapters[-1])
    compare = part("compare")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    turns = [
        [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[answer]}]
        for row in rows[1:3]
        for answer in ("chosen", "rejected")
    ]
    chats = [compare.chat_of(tokenizer, messages) for messages in turns]
    offsets = torch.tensor([0, *map(len, (chat.ids for chat in chats))]).cumsum(0)
    ids = torch.tensor([token for chat in chats for token in chat.ids], dtype=torch.int32)
    save_file({"input_ids": ids, "offsets": offsets}, tmp_path / "held-out.safetensors")

    pairs = preferences.held_out_pairs(tokenizer, tmp_path / "pairs.jsonl", tmp_path / "held-out.safetensors")
    assert [chat for pair in pairs for chat in pair] == chats

    files = (tmp_path / "pairs.jsonl", tmp_path / "held-out.safetensors")
    same = preferences.compare_preferences(folder, adapters[0], adapters[0], *files)
    assert same == preferences.Preferences(pairs=2, accuracy=0, margin=0)
    there, back = (
        preferences.compare_preferences(folder, *pair, *files) for pair in (adapters, list(reversed(adapters)))
    )
    assert there.margin != 0
    assert there.margin == pytest.approx(-back.margin, abs=1e-4)


def test_a_cached_model_is_not_converted_again(part: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = part("model")
    model.cache_folder().mkdir(parents=True)
    (model.cache_folder() / "config.json").write_text("{}")

    assert [path.name for path in model.model_folder().iterdir()] == ["config.json"]
    assert model.cache_folder().is_relative_to(tmp_path)
