"""The command line from outside: what it prints, where, and how it ends."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from support.command_line import CommandLine
from support.job_manifests import MANIFEST, REMOVED, edited


def finetune(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "finetune_cli", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(MANIFEST))
    return file


def test_a_valid_manifest(manifest: Path) -> None:
    result = finetune("validate", str(manifest))

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f'{manifest}: FineTuneJob.finetune.dev "tiny" is valid\n'


def test_standard_input_is_a_file_too() -> None:
    result = finetune("validate", "-", stdin=json.dumps(MANIFEST))

    assert (result.returncode, result.stdout) == (0, '-: FineTuneJob.finetune.dev "tiny" is valid\n')


def test_every_file_is_checked_and_one_bad_one_fails(manifest: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(json.dumps(edited({"spec/model": REMOVED, "spec/deepspeed/zeroStage": 4})))

    result = finetune("validate", str(bad), str(manifest))

    assert result.returncode == 10
    assert result.stdout == f'{manifest}: FineTuneJob.finetune.dev "tiny" is valid\n'
    assert result.stderr == (
        f'error: {bad}: FineTuneJob.finetune.dev "tiny" is invalid:\n'
        "* spec.deepspeed.zeroStage: Invalid value: 4: spec.deepspeed.zeroStage in body should be less than or equal "
        "to 3\n"
        "* spec.model: Required value\n"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\xff\xfe", "cannot be read: it is not UTF-8 text"),
        (b"a: [", "not readable as YAML: line 1: "),
        (b"apiVersion: v1\nkind: Pod\n", "no FineTuneJob of apiVersion finetune.dev/v1alpha1 found"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)

    result = finetune("validate", str(file))

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {file}: {message}")
    assert "Traceback" not in result.stderr


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    result = finetune("validate", str(tmp_path))

    assert (result.returncode, result.stderr) == (2, f"error: {tmp_path}: cannot be read: Is a directory\n")


def test_running_needs_local(manifest: Path) -> None:
    result = finetune("run", str(manifest))

    assert result.returncode == 2
    assert result.stderr.startswith("error: only --local runs are served")


def test_version_is_that_of_the_project() -> None:
    result = finetune("--version")

    assert (result.returncode, result.stdout) == (0, f"finetune {version('finetune-operator')}\n")


WRONG = {
    "no such command": (["nothing"], 2, "No such command 'nothing'"),
    "no file": (["plan"], 2, "Missing argument"),
    "absent file": (["plan", "absent.yaml"], 2, "absent.yaml: cannot be read: No such file or directory"),
    "folder": (["validate", "."], 2, "Is a directory"),
    "absent kubeconfig": (["list", "--kubeconfig", "absent"], 3, "--kubeconfig absent: there is no such file"),
    "odd timeout": (["watch", "a", "--timeout", "soon"], 2, "--timeout soon: write a duration such as 90s"),
    "odd rank": (["logs", "a", "--rank", "x"], 2, "--rank"),
    "absent folder": (["artifacts", "verify", "./absent"], 2, "./absent: there is no such folder"),
    "odd uri": (["artifacts", "verify", "s3://"], 2, "'s3://' is no artifact: use s3://bucket/prefix"),
    "odd store": (["report", "s3://b/c", "--store", "ftp://x"], 2, "--store ftp://x: use http://host:port"),
    "one side": (["compare", "a"], 2, "Missing argument"),
    "form of a list for a page": (["plot", "a", "-o", "wide"], 2, "'wide' is not one of 'table', 'json', 'yaml'"),
    "absent profile": (["plan", "-", "--profile", "absent"], 2, "--profile absent: cannot be read: No such file"),
    "watching nothing": (["submit", "-", "--watch", "--dry-run"], 2, "--watch and --dry-run: a dry run makes no job"),
}
NAMED = ("describe", "watch", "logs", "suspend", "resume", "cancel", "plot", "report")
WRONG |= {
    f"{name} of nothing": ([*name.split(), *arguments], 2, "the name of the job is empty; kubectl finetune list shows")
    for name, arguments in [
        *((name, [""]) for name in NAMED),
        ("cancel", [" ", "--yes"]),
        ("compare", ["a", ""]),
        *((f"artifacts {name}", [""]) for name in ("list", "download", "verify")),
    ]
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_is_one_sentence_and_no_traceback(
    case: str, cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, code, says = WRONG[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(MANIFEST)))

    ended = cli(*arguments)

    assert ended.code == code
    assert says in " ".join(ended.err.replace("│", " ").split())
    assert "Traceback" not in ended.err
    assert ended.out == ""


@pytest.mark.parametrize(
    ("variable", "says"),
    [("/absent", "KUBECONFIG /absent: there is no such file"), ("", "/.kube/config: there is no such file")],
)
def test_a_kubeconfig_that_is_not_there_is_named(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, says: str
) -> None:
    monkeypatch.setenv("KUBECONFIG", variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    ended = cli("list")

    assert ended.code == 3
    assert says in ended.err


def test_output_that_cannot_be_written_ends_in_a_sentence(manifest: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "finetune_cli", "validate", manifest]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)

    assert (ended.returncode, ended.stderr) == (2, "error: standard output: No space left on device\n")


def test_help_names_the_commands_and_exit_codes() -> None:
    result = finetune("--help")

    assert result.returncode == 0
    assert {"validate", "run", "130"} <= set(result.stdout.replace(".", " ").split())


@pytest.mark.parametrize(
    ("namespace", "declared", "code"), [("team-a", "team-b", 2), ("team-b", "team-b", 18), ("team-a", None, 18)]
)
def test_the_namespace_of_the_manifest_wins_by_refusing_another(
    manifest: Path, namespace: str, declared: str | None, code: int
) -> None:
    changes: dict[str, Any] = {
        "spec/resources/gpusPerNode": 16,
        "spec/hyperparameters/globalBatchSize": 16,
        **({"metadata/namespace": declared} if declared else {}),
    }
    manifest.write_text(json.dumps(edited(changes)))

    # Ends before anything is started: no machine of a test has sixteen GPUs.
    result = finetune("run", "--local", str(manifest), "--namespace", namespace)

    assert result.returncode == code
    assert ("the manifest says team-b" in result.stderr) is (code == 2)
