"""What must be the same in two places, and what must be in none."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

from support.clusters import PROJECT
from support.sources import tracked_files

# Put together from parts, so that this file does not contain what it looks for.
HOMES = ("root", "home", "work", "Users")
MACHINE_PATHS = re.compile(r"(?<![\w.:*$}/-])/(?:" + "|".join(HOMES) + r")/[A-Za-z0-9_.-]+/")
TEMPORARY = re.compile(r"/t" + r"mp/(?:brief|boot)")
TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".go", ".json", ".jsonl", ".txt", ".cfg", ".lock", ""}


def _version() -> str:
    return str(tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"])


def test_changelog_tells_of_the_version() -> None:
    releases = re.findall(r"^## \[([^\]]+)\]", (PROJECT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    released = [release for release in releases if release.lower() != "unreleased"]
    assert released, "CHANGELOG.md has no release"
    assert released[0] == _version()


def test_chart_has_the_version_of_the_project() -> None:
    chart = (PROJECT / "charts" / "finetune-operator" / "Chart.yaml").read_text()
    found = dict(re.findall(r"^(version|appVersion): *\"?([^\"\n]+)\"?$", chart, flags=re.MULTILINE))
    assert found == {"version": _version(), "appVersion": _version()}


def test_no_path_of_one_machine_is_in_the_repository() -> None:
    found = []
    for path in tracked_files():
        if path.suffix not in TEXT:
            continue
        text = path.read_text(errors="replace")
        found += [
            f"{path.relative_to(PROJECT)}: {hit}" for hit in (*MACHINE_PATHS.findall(text), *TEMPORARY.findall(text))
        ]
    assert found == []


def test_pattern_finds_what_it_is_meant_to_find() -> None:
    samples = [f"cd /{home}/somebody/project" for home in HOMES]
    assert all(MACHINE_PATHS.search(sample) for sample in samples)
    assert not MACHINE_PATHS.search("/home/ and https://example.org/home/page/ and $HOME/work/dir/")


def test_generated_files_are_current() -> None:
    for script in sorted((PROJECT / "scripts").glob("generate_*.py")):
        result = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
        assert result.returncode == 0, f"{script.name}: {result.stdout}{result.stderr}"


def test_every_test_folder_is_collected() -> None:
    """A folder without test files, or a test file of another name, would silently test nothing."""
    files = [path for path in tracked_files() if path.is_relative_to(PROJECT / "tests") and path.suffix == ".py"]
    strays = [
        path.name
        for path in files
        if not path.name.startswith("test_")
        and path.name != "conftest.py"
        and not path.is_relative_to(PROJECT / "tests" / "support")
    ]
    assert strays == []
