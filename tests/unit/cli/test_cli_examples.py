"""Every example is valid, and the demo's rows are what the documentation says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_api.layout import job_prefix
from finetune_api.plan import total_steps
from finetune_cli.manifests import load_documents, select_jobs
from finetune_cli.validation import read_job, read_profile

EXAMPLES = Path(__file__).parents[3] / "examples"
MANIFESTS = sorted([*EXAMPLES.glob("*.yaml"), *EXAMPLES.glob("gitops/team/team-*.yaml")])
ROWS = EXAMPLES / "data" / "finetune-operator.jsonl"


def test_there_are_examples() -> None:
    assert {file.name for file in MANIFESTS} >= {"smollm2-lora.yaml", "full-fine-tune.yaml", "pvc-source.yaml"}


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_an_example_holds_one_valid_job_named_like_its_file(file: Path) -> None:
    [manifest] = select_jobs(load_documents(file.read_text())).jobs

    job = read_job(manifest, file.name)

    assert job.metadata.name == file.stem


def test_the_demos_job_is_two_pods_with_zero_2_on_cpus() -> None:
    [manifest] = select_jobs(load_documents((EXAMPLES / "smollm2-lora.yaml").read_text())).jobs

    spec = read_job(manifest, "smollm2-lora.yaml").spec

    assert (spec.resources.nodes, spec.resources.world_size, spec.resources.gpus_per_node) == (2, 2, 0)
    assert (spec.deepspeed.zero_stage, spec.method.tuning) == (2, "lora")
    assert 60 <= total_steps(spec, rows=156) <= 160


def test_the_job_of_the_profile_is_whole_under_it_and_within_its_bounds() -> None:
    folder = EXAMPLES / "profiles"
    [document] = load_documents((folder / "profile.yaml").read_text())
    profile = read_profile(document, "profile.yaml")
    [manifest] = select_jobs(load_documents((folder / "team-job.yaml").read_text())).jobs
    manifest["metadata"]["namespace"] = "team-a"

    job = read_job(manifest, "team-job.yaml", profile.spec)

    destination = job.spec.output.destination
    assert str(job_prefix(destination, "team-a", "team-job")) == "s3://finetune/artifacts/team-a/team-job"
    assert (job.spec.resources.cpu, job.spec.active_deadline_seconds) == ("2", 3600)


def rows() -> list[list[dict[str, str]]]:
    return [json.loads(line)["messages"] for line in ROWS.read_text().splitlines()]


def test_the_demos_rows_are_one_question_and_one_answer_each() -> None:
    assert len(rows()) >= 150
    for messages in rows():
        assert [turn["role"] for turn in messages] == ["user", "assistant"]
        assert all(turn["content"] == turn["content"].strip() != "" for turn in messages)
        assert len(messages[1]["content"].split()) <= 50


def test_no_question_is_asked_twice() -> None:
    questions = [messages[0]["content"] for messages in rows()]

    assert sorted(set(questions)) == sorted(questions)


def test_every_field_that_the_rows_name_exists() -> None:
    from finetune_api.crd import job_schema

    known = set(_paths(job_schema()["properties"]["spec"], "spec"))
    text = ROWS.read_text()
    named = {word.rstrip(".") for word in text.replace('"', " ").replace(",", " ").split() if word.startswith("spec.")}

    assert len(named) > 20
    assert {name.rstrip(".:;?") for name in named} - known == set()


def _paths(schema: dict[str, object], path: str) -> list[str]:
    properties = schema.get("properties", {})
    assert isinstance(properties, dict)
    return [path, *(found for name, child in properties.items() for found in _paths(child, f"{path}.{name}"))]


def test_the_preferences_are_pairs_of_different_answers_to_different_questions() -> None:
    lines = (EXAMPLES / "data" / "finetune-operator-preferences.jsonl").read_text().splitlines()
    pairs = [json.loads(line) for line in lines]
    assert len(pairs) >= 60
    assert len({pair["prompt"] for pair in pairs}) == len(pairs)
    for pair in pairs:
        assert pair.keys() == {"prompt", "chosen", "rejected"}
        assert all(text == text.strip() != "" for text in pair.values())
        assert pair["chosen"] != pair["rejected"]


def test_the_job_for_preferences_starts_from_the_demos() -> None:
    [manifest] = select_jobs(load_documents((EXAMPLES / "smollm2-dpo.yaml").read_text())).jobs
    spec = read_job(manifest, "smollm2-dpo.yaml").spec
    assert (spec.model.source, spec.method.objective) == ("job://smollm2-lora", "dpo")
    assert spec.method.lora is None
