"""The folder operator/ must never shadow the standard library's module of that name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.clusters import PROJECT
from support.sources import tracked_files


def test_no_file_is_called_operator() -> None:
    assert [path for path in tracked_files() if path.name == "operator.py"] == []


def test_no_folder_called_operator_is_a_package() -> None:
    packages = [path for path in tracked_files() if path.name == "__init__.py" and path.parent.name == "operator"]
    assert packages == []
    assert not (PROJECT / "operator" / "__init__.py").exists()


@pytest.mark.parametrize("folder", [".", "operator", "operator/src", "tests", "tests/unit"])
def test_standard_library_wins_in_every_folder(folder: str) -> None:
    code = "import operator; assert operator.eq(1, 1); print(operator.__file__)"
    environment = os.environ | {"PYTHONPATH": str(PROJECT / folder)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT / folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert not Path(result.stdout.strip()).is_relative_to(PROJECT)
