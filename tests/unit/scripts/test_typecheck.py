"""Types are checked with what another clone found out about the dependencies, and about nothing else."""

from __future__ import annotations

import importlib.util
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

from support.clusters import PROJECT

RIGHT, WRONG = "def double(x: int) -> int:\n    return x * 2\n", "def double(x: int) -> str:\n    return x * 2\n"
USER = "from room import maths\nfour: int = maths.double(2)\n"


@pytest.fixture(scope="module")
def typecheck() -> ModuleType:
    spec = importlib.util.spec_from_file_location("typecheck", PROJECT / "scripts/typecheck.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def says(typecheck: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], int]:
    """Exit code of a check, without arguments."""
    monkeypatch.setattr("sys.argv", ["typecheck"])
    return lambda clone: int(typecheck.main(clone))


def _clone(folder: Path, maths: str) -> Path:
    """A clone with one package, on the environment beside it. All files of all clones are of the same time."""
    package = folder / "room/src/room"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "maths.py").write_text(maths)
    (package / "user.py").write_text(USER)
    (folder / ".venv").mkdir()
    (folder / ".venv/.stamp").write_text(f"{folder.parent}/environment 0123")
    settings = '[tool.mypy]\nstrict = true\npackages = ["room"]\nmypy_path = ["room/src"]\n'
    (folder / "pyproject.toml").write_text(settings)
    for file in package.iterdir():
        os.utime(file, (1_700_000_000, 1_700_000_000))
    return folder


def _modules(cache: Path) -> set[str]:
    found: set[str] = set()
    for database in cache.glob("*/*.db"):
        with closing(sqlite3.connect(database)) as opened:
            found |= {str(path).split("/")[0].split(".")[0] for (path,) in opened.execute("SELECT path FROM files2")}
    return found


def test_clones_of_one_time_are_told_apart(typecheck: ModuleType, says: Callable[[Path], int], tmp_path: Path) -> None:
    texts = {"a": RIGHT, "b": WRONG, "c": RIGHT}
    right, wrong, again = (_clone(tmp_path / name, text) for name, text in texts.items())
    assert len(RIGHT) == len(WRONG)
    shared = typecheck.shared_folder(right)

    assert says(wrong) == 1
    assert not shared.exists(), "what failed is kept"
    assert says(right) == 0
    assert "builtins" in _modules(shared)
    assert "room" not in _modules(shared)
    assert "room" in _modules(right / ".mypy_cache")
    made = shared.stat().st_ino

    for clone in (wrong, again):
        typecheck.shutil.rmtree(clone / ".mypy_cache", ignore_errors=True)
    assert says(wrong) == 1
    assert says(again) == 0
    assert says(again) == 0
    (again / "room/src/room/maths.py").write_text(WRONG)
    assert says(again) == 1
    assert shared.stat().st_ino == made
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", shared.name]


def test_other_settings_are_of_another_folder(typecheck: ModuleType, tmp_path: Path) -> None:
    clone, other = _clone(tmp_path / "a", RIGHT), _clone(tmp_path / "b", RIGHT)
    assert typecheck.shared_folder(clone) == typecheck.shared_folder(other)
    (other / "pyproject.toml").write_text("[tool.mypy]\nstrict = false\n")
    assert typecheck.shared_folder(clone) != typecheck.shared_folder(other)


def test_who_comes_second_leaves_the_firsts(typecheck: ModuleType, tmp_path: Path) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "whose").write_text(name)
    typecheck.place(tmp_path / "mine", tmp_path / "theirs", [])
    assert (tmp_path / "theirs/whose").read_text() == "theirs"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "theirs"]


def test_packages_of_the_project(typecheck: ModuleType) -> None:
    found = typecheck.own_modules(PROJECT)
    assert found == [f"finetune_{room}" for room in ("api", "cli", "operator", "sandbox", "trainer")]
