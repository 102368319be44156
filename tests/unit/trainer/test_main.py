"""The process that runs in a prepare pod."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_api.outcomes import ExitCode
from finetune_api.plan import RunPlan
from finetune_trainer.errors import TrainerError
from finetune_trainer.main import main, read_plan
from support.run_plans import Place

# Each takes longer to load than the whole stage may take.
HEAVY = ("torch", "transformers", "deepspeed", "pyarrow", "zstandard", "huggingface_hub", "boto3", "s3transfer")


def start(place: Place, plan: RunPlan, *options: str) -> subprocess.Popen[str]:
    file = place.workspace / "plan.json"
    file.write_text(plan.to_json())
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **place.environment}
    command = [sys.executable, *options, "-m", "finetune_trainer", "prepare", "--plan", str(file)]
    return subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE)


def outcome_of(place: Place) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place.workspace / "termination-log").read_text())
    return found


def modules_of_prepare(place: Place) -> set[str]:
    """What a prepare pod loads that finds thirty rows."""
    process = start(place, place.plan(), "-X", "importtime")
    _, log = process.communicate()
    assert process.returncode == ExitCode.SUCCESS, log
    prepared = outcome_of(place)["prepared"]
    assert (outcome_of(place)["stage"], prepared["train"]["rows"], prepared["steps"]) == ("prepare", 30, 4)
    return {line.rpartition("|")[2].strip() for line in log.splitlines() if line.startswith("import time:")}


def test_a_prepare_pod_leaves_what_it_found_and_loads_nothing_heavy(s3_place: Place) -> None:
    loaded = modules_of_prepare(s3_place)
    assert "botocore" in loaded
    # Near duplicates are found with numpy, where the data was not looked at before.
    assert loaded & {*HEAVY, "numpy"} == {"numpy"}
    assert not modules_of_prepare(s3_place) & {*HEAVY, "numpy"}


def test_a_prepare_pod_fails_in_words(folder_place: Place) -> None:
    folder_place.put("data/train.jsonl", b"oops\n")
    process = start(folder_place, folder_place.plan())
    _, log = process.communicate()
    assert process.returncode == ExitCode.DATA_ERROR
    failure = outcome_of(folder_place)["failure"]
    assert failure["class"] == "DataError"
    assert failure["message"].endswith("train.jsonl:1: not valid JSON: Expecting value at column 1")
    assert failure["message"] in log
    assert "Traceback" not in log


def test_a_prepare_pod_that_is_stopped_says_so(folder_place: Place) -> None:
    """It waits for a store that accepts the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = Place(
            f"http://127.0.0.1:{silent.getsockname()[1]}",
            "bucket",
            folder_place.workspace,
            {"AWS_ACCESS_KEY_ID": "KEY", "AWS_SECRET_ACCESS_KEY": "secret-of-a-test"},
        )
        process = start(place, place.plan())
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate()
    assert process.returncode == ExitCode.PREEMPTED, log
    assert outcome_of(place)["failure"]["class"] == "Preempted"


def test_a_plan_that_is_none_is_internal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_TERMINATION_LOG", str(tmp_path / "termination-log"))
    (tmp_path / "plan.json").write_text('{"job": {}}')
    assert main(["prepare", "--plan", str(tmp_path / "plan.json")]) == ExitCode.INTERNAL
    failure = json.loads((tmp_path / "termination-log").read_text())["failure"]
    assert "is no plan of this trainer" in failure["message"]
    assert failure["remedy"] == "use operator and trainer image of the same version"


def test_a_plan_is_read(folder_place: Place, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(folder_place.plan().to_json())
    assert read_plan(tmp_path / "plan.json") == folder_place.plan()


def test_a_missing_plan(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="cannot read the plan"):
        read_plan(tmp_path / "nothing.json")


@pytest.mark.parametrize("arguments", [[], ["deploy", "--plan", "x"], ["prepare"]])
def test_wrong_usage_has_the_usual_exit_code(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: finetune-trainer" in capsys.readouterr().err


def test_a_signal_before_anything_else_is_a_preemption() -> None:
    """Importing takes a while; a pod that is asked to stop meanwhile has lost nothing, and says so by its exit code."""
    from finetune_trainer.__main__ import PREEMPTED

    assert PREEMPTED == ExitCode.PREEMPTED
    code = (
        "import os, signal, sys, types; stop = types.ModuleType('finetune_trainer.main');"
        "stop.main = lambda: os.kill(os.getpid(), signal.SIGTERM) or 0; sys.modules[stop.__name__] = stop;"
        "from finetune_trainer.__main__ import main; main()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == ExitCode.PREEMPTED
