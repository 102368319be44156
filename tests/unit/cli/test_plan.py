"""What a manifest comes to, without a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.effective import Effective
from finetune_api.job import FineTuneJob
from finetune_api.status import Origin
from finetune_cli.effective import effective_fields, forecast
from finetune_cli.render.plans import plan_page
from finetune_cli.validation import read_job, validate
from support.command_line import CommandLine
from support.job_manifests import ACCEPTED, MANIFEST, REMOVED, edited
from support.rendered import as_text, assert_same

FOLDER = Path(__file__).parent / "shown"
GPUS = {
    "spec/resources": {"nodes": 4, "gpusPerNode": 8, "cpu": "64", "memory": "512Gi"},
    "spec/hyperparameters": {"globalBatchSize": 256, "epochs": 3},
    "spec/deepspeed": {"microBatchSize": 2},
    "spec/model": {"source": "hf://org/name"},
    "spec/output/s3": {"credentialsSecretRef": {"name": "keys"}},
}

SHOWN = (
    "spec.model.source",
    "spec.model.revision",
    "spec.method.lora.targetModules",
    "spec.hyperparameters.globalBatchSize",
    "spec.suspend",
)


def fields_of(manifest: dict[str, Any]) -> dict[str, Effective]:
    return {field.path: field for field in effective_fields(manifest, read_job(manifest, "test"))}


@pytest.mark.parametrize(
    ("path", "value", "origin"),
    [
        ("spec.model.source", "hf://org/name", Origin.MANIFEST),
        ("spec.model.revision", "main", Origin.DEFAULT),
        ("spec.hyperparameters.epochs", 3, Origin.MANIFEST),
        ("spec.hyperparameters.learningRate", "2e-4", Origin.DEFAULT),
        ("spec.method.lora.rank", 16, Origin.DEFAULT),
        ("spec.dataset.train[0].format", "chat", Origin.DEFAULT),
        ("spec.dataset.train[0].source", "s3://finetune/rows.jsonl", Origin.MANIFEST),
        ("spec.output.s3.credentialsSecretRef.name", "keys", Origin.MANIFEST),
        ("spec.suspend", False, Origin.DEFAULT),
    ],
)
def test_every_field_has_its_value_and_origin(path: str, value: Any, origin: Origin) -> None:
    assert fields_of(edited(GPUS))[path] == Effective(path, value, origin)


def test_options_that_follow_from_objective_and_tuning_have_their_defaults() -> None:
    method = {"objective": "dpo", "tuning": "qlora"}
    train = [{"source": "s3://finetune/pairs.jsonl", "format": "preference"}]
    fields = fields_of(edited({"spec/method": method, "spec/dataset": {"train": train}}))

    for path in ("spec.method.dpo.beta", "spec.method.lora.rank"):
        assert fields[path].origin is Origin.DEFAULT
    assert any(path.startswith("spec.method.quantization.") for path in fields)


def test_a_null_is_no_value_of_the_manifest() -> None:
    field = fields_of(edited({"spec/resources/gpusPerNode": None}))["spec.resources.gpusPerNode"]

    assert (field.value, field.origin) == (0, Origin.DEFAULT)


def test_steps_are_said_where_the_manifest_says_them() -> None:
    fields = fields_of(edited({"spec/hyperparameters/maxSteps": 30}))

    assert "spec.hyperparameters.epochs" not in fields
    assert fields["spec.hyperparameters.maxSteps"].value == 30


@pytest.mark.parametrize("changes", ACCEPTED)
def test_every_valid_manifest_has_a_plan(changes: dict[str, Any]) -> None:
    manifest = edited(changes)
    job = FineTuneJob.from_manifest({key: value for key, value in validate(manifest).manifest.items()})

    assert as_text(plan_page(job, effective_fields(manifest, job)))


def test_the_forecast_counts_pods_and_gpus() -> None:
    seen = forecast(read_job(edited(GPUS), "test"))

    assert (seen.pods, seen.gpus, seen.processes, seen.accumulation, seen.steps) == (4, 32, 32, 4, None)
    assert seen.secrets == ("keys",)


def test_the_forecast_names_what_must_be_there() -> None:
    manifest = edited({"spec/model/source": "job://first", "spec/dataset/train": [{"source": "pvc://rows/a.jsonl"}]})
    seen = forecast(read_job(manifest, "test"))

    assert (seen.upstreams, seen.claims) == (("first",), ("rows",))


@pytest.mark.parametrize(("name", "changes"), [("plan-gpus", GPUS), ("plan-smallest", {})])
def test_the_page(name: str, changes: dict[str, Any]) -> None:
    manifest = edited(changes)
    job = read_job(manifest, "test")

    # Some fields stand for all: a new one of the API is no change of this page.
    shown = [field for field in effective_fields(manifest, job) if field.path in SHOWN]
    assert_same(as_text(plan_page(job, shown)), FOLDER / f"{name}.txt")


def written(tmp_path: Path, *manifests: dict[str, Any]) -> str:
    file = tmp_path / "jobs.yaml"
    file.write_text("\n---\n".join(json.dumps(manifest) for manifest in manifests))
    return str(file)


def test_the_command_shows_a_page(cli: CommandLine, tmp_path: Path) -> None:
    ended = cli("plan", written(tmp_path, edited(GPUS)))

    assert (ended.code, ended.err) == (0, "")
    assert "GPUs     32" in ended.out


def test_the_command_for_machines(cli: CommandLine, tmp_path: Path) -> None:
    document = json.loads(cli("plan", "-o", "json", written(tmp_path, edited(GPUS))).out)

    assert (document["valid"], document["gpus"], document["pods"]) == (True, 32, {"prepare": 1, "train": 4})
    assert {"path": "spec.suspend", "value": False, "origin": "default"} in document["fields"]


@pytest.mark.parametrize("output", ["table", "json"])
def test_an_invalid_manifest_ends_with_its_code_and_every_error(cli: CommandLine, tmp_path: Path, output: str) -> None:
    file = written(tmp_path, MANIFEST, edited({"spec/model": REMOVED, "spec/deepspeed/zeroStage": 4}))

    ended = cli("plan", "-o", output, file)

    assert ended.code == 10
    said = ended.out + ended.err
    assert "spec.model: Required value" in said
    assert "less than or equal to 3" in said


def test_a_form_that_is_not_served_is_refused(cli: CommandLine, tmp_path: Path) -> None:
    ended = cli("plan", "-o", "wide", written(tmp_path, MANIFEST))

    assert (ended.code, ended.out) == (2, "")
    assert "'wide' is not one of 'table', 'json', 'yaml'" in " ".join(ended.err.replace("│", " ").split())


PROFILE = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneProfile",
    "metadata": {"name": "small"},
    "spec": {
        "defaults": {"output": {"destination": "s3://out/{namespace}"}, "hyperparameters": {"seed": 7}},
        "bounds": {"limits": {"rank": {"max": 8}, "nodes": {"max": 1}}},
    },
}


def profile_file(tmp_path: Path, **changes: Any) -> str:
    file = tmp_path / "profile.yaml"
    file.write_text(json.dumps(PROFILE | changes))
    return str(file)


def test_a_plan_under_a_profile_has_its_values(cli: CommandLine, tmp_path: Path) -> None:
    manifest = edited({"spec/output": REMOVED, "spec/method/lora/rank": 8})
    arguments = ("-n", "team-a", "--profile", profile_file(tmp_path), "-o", "json")
    document = json.loads(cli("plan", written(tmp_path, manifest), *arguments).out)

    fields = {item["path"]: (item["value"], item["origin"]) for item in document["fields"]}
    assert fields["spec.output.destination"] == ("s3://out/team-a", "profile")
    assert fields["spec.hyperparameters.seed"] == (7, "profile")
    assert fields["spec.method.lora.rank"] == (8, "manifest")
    assert "Profile    small" in cli("plan", written(tmp_path, manifest), *arguments[:4]).out


def test_a_plan_names_every_bound_that_is_broken(cli: CommandLine, tmp_path: Path) -> None:
    file = written(tmp_path, edited({"spec/resources": {"nodes": 2}}))
    ended = cli("plan", file, "--profile", profile_file(tmp_path))

    assert ended.code == 10
    assert "* spec.method.lora.rank: 16: the profile allows at most 8; lower it" in ended.err
    assert "* spec.resources.nodes: 2: the profile allows at most 1; lower it" in ended.err


def test_a_bad_profile_is_told_of(cli: CommandLine, tmp_path: Path) -> None:
    ended = cli("plan", written(tmp_path, edited({})), "--profile", profile_file(tmp_path, spec={"bound": {}}))

    assert (ended.code, ended.out) == (10, "")
    assert 'unknown field "spec.bound"' in ended.err


def test_a_job_that_names_another_profile_is_not_planned_under_this_one(cli: CommandLine, tmp_path: Path) -> None:
    manifest = edited({"spec/profileRef": {"name": "big"}})

    assert "spec.profileRef names 'big'" in cli("plan", written(tmp_path, manifest)).err
    ended = cli("plan", written(tmp_path, manifest), "--profile", profile_file(tmp_path))
    assert "is 'small'; spec.profileRef names 'big'" in ended.err
    assert ended.code != 0
