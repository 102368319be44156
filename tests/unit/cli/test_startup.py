"""What the program loads before it knows what to do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from finetune_api.outcomes import ExitCode
from finetune_cli import errors
from support.clusters import PROJECT

# Each takes longer to load than the whole of --help may take (half a second of CPU).
HEAVY = (
    "kubernetes",
    "boto3",
    "botocore",
    "celpy",
    "jsonschema",
    "torch",
    "transformers",
    "numpy",
    "finetune_api.outcomes",
    "yaml",
)


@pytest.mark.parametrize("arguments", [["--help"], ["list", "--help"], ["artifacts", "download", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from finetune_cli.main import app
try:
    app({arguments!r})
finally:
    print(sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert result.stdout.splitlines()[-1] == "[]", result.stdout + result.stderr


def test_a_plan_loads_no_client() -> None:
    code = """
import sys
from finetune_cli.main import app
try:
    app(["plan", "examples/smollm2-lora.yaml", "-o", "json"])
finally:
    print(sorted({"kubernetes", "boto3", "torch"} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)

    assert result.stdout.splitlines()[-1] == "[]", result.stdout + result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidManifestError, ExitCode.USER_ERROR),
        (errors.RefusedManifestError, ExitCode.USER_ERROR),
        (errors.UnsupportedHereError, ExitCode.USER_ERROR),
        (errors.StoreError, ExitCode.STORAGE),
        (errors.MissingDevicesError, ExitCode.DEVICE_MISSING),
        (errors.DamagedArtifactError, ExitCode.VERIFICATION),
        (errors.BrokenStageError, ExitCode.INTERNAL),
    ],
)
def test_exit_codes_are_those_of_the_contract(error: type[errors.CliError], code: ExitCode) -> None:
    assert error.exit_code == code
