"""Finding Kueue's controllers and chart, with a stand-in for the Go toolchain."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_sandbox import compiler, kueue, modules
from finetune_sandbox.errors import ProgramUnavailable


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``go`` command that is first in PATH, to be written, and an empty cache."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "go"


def write(go: Path, download: str) -> None:
    output = 'for argument; do case "$argument" in -o=*) output="${argument#-o=}" ;; esac; done'
    build = f'{output}; echo "$@" > "$output"; chmod +x "$output"'
    go.write_text(
        f"#!/bin/sh\ncase $1 in env) echo go1.26.8 ;; list) echo fmt ;; build) {build} ;; mod) {download} ;; esac\n"
    )
    go.chmod(0o755)


def test_it_is_compiled_with_the_version_that_it_tells(go: Path, tmp_path: Path) -> None:
    write(go, "exit 1")
    command = kueue.obtain()
    assert command.is_relative_to(tmp_path / "cache/finetune-operator/kueue_module")
    assert f"pkg/version.GitVersion={kueue.KUEUE_VERSION}" in command.read_text()
    assert kueue.obtain() == command


def test_the_chart_is_that_of_the_module(go: Path) -> None:
    write(go, """echo '{"Dir": "/modules/kueue@v1"}'""")
    assert kueue.chart() == Path("/modules/kueue@v1/charts/kueue")


def test_a_module_is_told_with_its_checksum(go: Path, tmp_path: Path) -> None:
    write(go, """echo '{"Dir": "/modules/a@v1", "Sum": "h1:abc="}'""")
    found = modules.fetch("example.com/a@v1", "a", (1, 26), tmp_path, tmp_path / "cache")
    assert found == modules.Module(Path("/modules/a@v1"), "h1:abc=")


@pytest.mark.parametrize(
    ("download", "words"),
    [
        ("""echo '{"Error": "no such host"}'; exit 1""", "no such host"),
        ("echo 'go: no network' >&2; exit 1", "go: no network"),
    ],
)
def test_without_the_module_there_is_no_chart(go: Path, download: str, words: str) -> None:
    write(go, download)
    with pytest.raises(ProgramUnavailable, match=f"the Go module of Kueue cannot be fetched:\n{words}"):
        kueue.chart()


def test_the_lock_file_pins_the_version_that_is_named() -> None:
    folder = Path(kueue.__file__).parent / kueue.KUEUE.folder
    assert f"sigs.k8s.io/kueue {kueue.KUEUE_VERSION} " in (folder / "go.mod").read_text().replace("\n", " \n")
    assert f"sigs.k8s.io/kueue {kueue.KUEUE_VERSION} h1:" in (folder / "go.sum").read_text()
    assert compiler.build_arguments(kueue.KUEUE.program, Path("/out"))[-1] == "sigs.k8s.io/kueue/cmd/kueue"
