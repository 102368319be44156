"""`finetune run --local` from manifest to verified adapter, for real."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from peft import PeftConfig
from safetensors.numpy import load_file

from support.browser import launched, opened
from support.local_store import Ended, Store, new_store

# Each run starts processes that import torch and DeepSpeed.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def trained(store: Store) -> Ended:
    """One run of two nodes, whose store and result the tests of this module look at."""
    result = store.run(store.manifest(), "--status-file", str(store.root / "status.yaml"))
    assert result.code == 0, result.stderr
    return result


def artifact_folder(store: Store, result: Ended) -> Path:
    return store.root / result.status["artifact"]["uri"].removeprefix("s3://")


def test_the_job_is_complete(trained: Ended) -> None:
    status = trained.status

    assert (status["state"], trained.condition("Complete")["reason"]) == ("Complete", "Published")
    assert [stage["name"] for stage in status["stages"]] == ["prepare", "train", "evaluate", "publish"]
    assert all(stage["started"] <= stage["finished"] for stage in status["stages"])
    assert (status["plan"]["worldSize"], status["plan"]["totalSteps"]) == (2, 6)
    assert status["plan"]["train"]["rows"] + status["plan"]["validation"]["rows"] == 40


def test_progress_came_from_the_training_processes(trained: Ended) -> None:
    progress = trained.status["progress"]

    assert (progress["step"], progress["totalSteps"], progress["percent"]) == (6, 6, 100)
    assert "Training" in trained.stderr


def test_the_held_out_loss_falls(trained: Ended) -> None:
    evaluation = trained.status["evaluation"]

    assert float(evaluation["lossAfter"]) < float(evaluation["lossBefore"])


def test_the_status_file_holds_what_was_printed(store: Store, trained: Ended) -> None:
    assert (store.root / "status.yaml").read_text() == trained.stdout


def test_the_adapter_is_published_under_the_run_id_and_loads(store: Store, trained: Ended) -> None:
    folder = artifact_folder(store, trained)

    assert folder == store.bucket / "artifacts" / "default" / "tiny" / trained.status["runID"]
    assert PeftConfig.from_pretrained(str(folder)).base_model_name_or_path == "example/tiny"
    weights = load_file(folder / "adapter_model.safetensors")
    assert any(abs(tensor).max() > 0 for name, tensor in weights.items() if "lora_B" in name)


def test_the_manifest_digest_is_that_of_the_published_manifest(store: Store, trained: Ended) -> None:
    text = (artifact_folder(store, trained) / "manifest.json").read_bytes()

    assert trained.status["artifact"]["manifestDigest"] == f"sha256:{hashlib.sha256(text).hexdigest()}"
    assert json.loads(text)


def test_a_browser_draws_the_published_report(store: Store, trained: Ended) -> None:
    folder = artifact_folder(store, trained)
    listed = {file["name"] for file in json.loads((folder / "manifest.json").read_text())["files"]}
    assert {"report.html", "data-report.html", "metrics.jsonl"} <= listed

    with launched() as browser, opened(browser, folder / "report.html") as seen:
        drawn = [curve.bounding_box() for curve in seen.page.locator("polyline.curve").all()]
        assert (seen.console, seen.requests) == ([], [])
        # Loss, held-out loss, learning rate, throughput and memory.
        assert [bool(box and box["width"] > 50) for box in drawn] == [True] * 5
        assert seen.page.get_by_role("row", name="attempt 1 0 2 ").count() == 1
        assert seen.page.get_by_role("row", name="training rows 3").is_visible()


def test_running_it_again_adopts_the_artifact(store: Store, trained: Ended) -> None:
    again = store.run(store.manifest())

    assert again.code == 0
    assert again.condition("Complete")["reason"] == "Adopted"
    assert again.status["attempts"] == []
    assert again.status["artifact"] == trained.status["artifact"]
    assert again.status["evaluation"] == trained.status["evaluation"]


@pytest.fixture(scope="module")
def under_profile(trained: Ended, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Ended]:
    """The same run in another store and namespace, where a profile gives what the manifest leaves out."""
    other = new_store(tmp_path_factory.mktemp("other"))
    output = {"destination": "s3://finetune/artifacts"}
    defaults = {"hyperparameters": {"learningRate": "1e-2"}, "output": output}
    profile = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneProfile", "metadata": {"name": "small"}}
    manifest = other.manifest(
        hyperparameters={"maxSteps": 6, "globalBatchSize": 4, "maxSequenceLength": 64},
        evaluation={"samples": 1},
        output={},
    )
    file = other.files / "profile.json"
    file.write_text(json.dumps(profile | {"spec": {"defaults": defaults}}))
    result = other.run(manifest, "--namespace", "team-a", "--profile", str(file))
    assert result.code == 0, result.stderr
    return other, result


def test_who_gives_a_value_and_where_it_runs_change_no_result(
    trained: Ended, under_profile: tuple[Store, Ended]
) -> None:
    _, result = under_profile

    assert result.status["runID"] == trained.status["runID"]
    assert result.status["artifact"]["contentDigest"] == trained.status["artifact"]["contentDigest"]
    assert result.status["artifact"]["uri"].startswith("s3://finetune/artifacts/team-a/tiny/r-")
    assert result.resource["metadata"]["namespace"] == "team-a"


def test_status_report_and_manifest_tell_who_gave_a_value(under_profile: tuple[Store, Ended]) -> None:
    other, result = under_profile
    folder = artifact_folder(other, result)

    assert result.status["plan"]["profile"]["name"] == "small"
    told = {field["path"]: field["origin"] for field in result.status["plan"]["fields"]}
    expected = {"learningRate": "Profile", "maxSteps": "Manifest", "seed": "Default"}
    assert {name: told[f"spec.hyperparameters.{name}"] for name in expected} == expected
    origins = json.loads((folder / "manifest.json").read_text())["record"]["origins"]
    assert origins == {path: origin for path, origin in told.items() if origin != "Default"}
    report = (folder / "report.html").read_text()
    rows = re.findall(r'<th scope="row">spec.hyperparameters.(\w+)</th><td[^>]*>[^<]*</td><td>(\w+)</td>', report)
    assert {name: dict(rows)[name] for name in expected} == {name: origin.lower() for name, origin in expected.items()}


def test_answers_before_and_after_are_published(under_profile: tuple[Store, Ended]) -> None:
    folder = artifact_folder(*under_profile)

    [sample] = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert sample["prompt"].endswith("<|im_start|>assistant\n")
    assert " plus one is " in sample["expected"]
    assert sample["before"]["text"] != sample["after"]["text"]
