"""Supervised fine-tuning, then preferences on its adapter: two manifests, applied in the wrong order."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from support.operated import Platform, condition, is_true

PAIRS = "".join(
    json.dumps(
        {"prompt": f"What is {number} plus one?", "chosen": f"It is {number + 1}.", "rejected": f"It is {number}."}
    )
    + "\n"
    for number in range(12)
)


def test_preferences_on_the_adapter_of_a_job_that_is_applied_later(
    platform: Platform, namespace: str, tmp_path: Path
) -> None:
    pairs = platform.upload("data/pairs.jsonl", PAIRS.encode())
    platform.submit(
        namespace,
        "dpo",
        model={"source": "job://sft", "name": None},
        dataset={"train": [{"source": pairs, "format": "preference"}]},
        method={"objective": "dpo", "lora": None, "dpo": {"referenceModel": {"source": "job://sft"}}},
    )
    waiting = platform.wait(namespace, "dpo", lambda job: condition(job, "Prepared").get("reason") == "JobNotFound")
    assert waiting["status"]["state"] == "Pending"
    assert not platform.children("pods", namespace, "dpo")
    platform.submit(namespace, "sft")
    dpo = platform.wait_finished(namespace, "dpo")
    assert is_true(dpo, "Complete"), platform.story(namespace, dpo)
    sft = platform.job(namespace, "sft")
    assert dpo["status"]["upstream"]["uri"] == sft["status"]["artifact"]["uri"]
    assert dpo["status"]["upstream"]["model"]["source"] == sft["spec"]["model"]["source"]
    # The reference is what training began with, so it starts without a margin.
    assert dpo["status"]["referenceUpstream"]["uri"] == sft["status"]["artifact"]["uri"]
    assert abs(float(dpo["status"]["evaluation"]["before"]["rewardMargin"])) < 1e-2
    assert abs(float(dpo["status"]["evaluation"]["after"]["rewardMargin"])) > 1e-5
    assert {"rewardAccuracy", "rewardMargin"} <= dpo["status"]["evaluation"]["after"].keys()
    base = AutoModelForCausalLM.from_pretrained(platform.download(platform.uri("models/tiny"), tmp_path / "base"))
    tokens = torch.arange(16)[None]
    adapters = {
        name: platform.download(job["status"]["artifact"]["uri"], tmp_path / name)
        for name, job in {"sft": sft, "dpo": dpo}.items()
    }
    config = json.loads((adapters["dpo"] / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "example/tiny"
    model = PeftModel.from_pretrained(base, str(adapters["sft"]), adapter_name="sft").eval()
    model.load_adapter(str(adapters["dpo"]), adapter_name="dpo")
    with torch.no_grad():
        logits = {name: (model.set_adapter(name), model(input_ids=tokens).logits)[1] for name in adapters}
    assert (logits["sft"] - logits["dpo"]).abs().max() > 1e-5
