"""How a local run ends when it cannot succeed: exit code, condition, remedy, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from finetune_api.outcomes import Failure
from support.local_store import JOB, Ended, Store

# Each run starts processes that import torch and DeepSpeed.
pytestmark = pytest.mark.timeout(900)


def failed(result: Ended, reason: str = "PrepareFailed") -> str:
    """Message of the Failed condition of a run that ended with it."""
    assert (result.status["state"], result.condition("Failed")["reason"]) == ("Failed", reason)
    failure = result.status["failure"]
    assert result.condition("Failed")["message"] == Failure.model_validate(failure).words
    return f"{failure['class']}: {failure['message']}"


def test_a_broken_row_is_named_with_file_and_line(own_store: Store) -> None:
    rows = own_store.bucket / "rows.jsonl"
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join([*lines[:16], "{broken\n", *lines[16:]]))

    result = own_store.run(own_store.manifest())

    assert result.code == 11
    message = failed(result)
    assert message.startswith("DataError: ")
    assert "rows.jsonl" in message
    assert "17" in message
    assert result.status["attempts"] == []


def test_a_model_that_is_no_model_is_the_users_error(store: Store) -> None:
    (store.bucket / "nothing").mkdir(exist_ok=True)
    (store.bucket / "nothing" / "readme.txt").write_text("no model")

    result = store.run(store.manifest(model={"source": "s3://finetune/nothing"}))

    assert result.code == 10
    assert failed(result).startswith("UserError: ")


def test_a_bucket_that_does_not_exist_is_named(store: Store) -> None:
    result = store.run(store.manifest(output={"destination": "s3://no-such-bucket/artifacts"}))

    assert result.code in (10, 14)
    assert "no-such-bucket" in failed(result)


def test_gpus_that_are_not_there_are_refused_before_anything_starts(store: Store) -> None:
    batch = JOB["spec"]["hyperparameters"] | {"globalBatchSize": 16}
    result = store.run(store.manifest(resources={"nodes": 1, "gpusPerNode": 16}, hyperparameters=batch))

    assert (result.code, result.stdout) == (18, "")
    assert result.stderr.startswith("error: spec.resources.gpusPerNode: 1 x 16 GPUs are asked for, this machine has ")


def test_an_invalid_manifest_prints_every_mistake_and_no_traceback(store: Store) -> None:
    result = store.run(store.manifest(deepspeed={"zeroStage": 4}, typo=1))

    assert (result.code, result.stdout) == (10, "")
    assert 'FineTuneJob.finetune.dev "tiny" is invalid:\n* unknown field "spec.typo"\n' in result.stderr
    assert "should be less than or equal to 3" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pvc", "team"), "error: --pvc team: use --pvc CLAIM=FOLDER"),
        (("--store", "data"), "error: --store data: use http://host:port, https://host or file:///absolute/folder"),
        (("--name", "other"), "has 0 matching FineTuneJobs (it holds: tiny); choose one with --name"),
    ],
)
def test_wrong_usage(store: Store, options: tuple[str, ...], message: str) -> None:
    result = store.run(store.manifest(), *options)

    assert (result.code, result.stdout) == (2, "")
    assert message in result.stderr


def test_one_of_several_jobs_is_chosen_by_name(store: Store) -> None:
    manifest = store.manifest()
    suspended = JOB | {"metadata": {"name": "other"}, "spec": JOB["spec"] | {"suspend": True}}
    documents = (JOB, suspended, {"apiVersion": "v1", "kind": "Secret"})
    manifest.write_text("\n---\n".join(map(json.dumps, documents)))

    result = store.run(manifest, "--name", "other")

    assert result.code == 10
    assert "document 3 (v1 Secret) is not a FineTuneJob and was left out" in result.stderr
    assert "error: spec.suspend is true" in result.stderr


def processes_in(folder: Path) -> dict[int, str]:
    """Living processes that were started for a work folder, by id, with their names."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "comm").read_text().strip()
        except OSError:
            continue
    return found


def started_training(store: Store, workdir: Path) -> subprocess.Popen[str]:
    """A run that would last for hours, once it trains."""
    long = {"maxSteps": 100_000, "globalBatchSize": 4, "maxSequenceLength": 64}
    command = store.command(store.manifest(hyperparameters=long), "--workdir", str(workdir))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    log = workdir / "train-0.log"
    while not (log.exists() and "step 2/" in log.read_text(errors="replace")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "training did not start"
        time.sleep(0.1)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_is_suspended_and_leaves_no_process(
    own_store: Store, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    workdir = tmp_path / "work"
    process = started_training(own_store, workdir)

    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)

    result = Ended(process.returncode, stdout, stderr)
    assert result.code == code
    assert (result.status["state"], result.status["attempts"][0]["outcome"]) == ("Suspended", "Suspended")
    assert result.condition("Suspended")["message"].startswith(f"stopped by {number.name}")
    assert processes_in(workdir) == {}


def test_a_killed_node_ends_the_others_and_fails_the_run(own_store: Store, tmp_path: Path) -> None:
    workdir = tmp_path / "work"
    process = started_training(own_store, workdir)
    [trainer] = [pid for pid, name in processes_in(workdir / "train-1").items() if not name.startswith("rank")]

    os.kill(trainer, signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=120)

    result = Ended(process.returncode, stdout, stderr)
    assert result.code == 20
    assert failed(result, "RunFailed") == "PodLost: the trainer of node 1 was killed by SIGKILL"
    assert processes_in(workdir) == {}


def test_plans_and_logs_are_kept_in_the_workdir(own_store: Store, tmp_path: Path) -> None:
    (own_store.bucket / "rows.jsonl").write_text("")
    workdir = tmp_path / "work"

    result = own_store.run(own_store.manifest(), "--workdir", str(workdir))

    assert result.code == 11
    plan = json.loads((workdir / "prepare.plan.json").read_text())
    assert plan["stores"]["output"] == {
        "endpointURL": f"file://{own_store.root}",
        "addressingStyle": "Auto",
        "checksum": "CRC64NVME",
    }
    assert (workdir / "prepare-0.log").exists()
