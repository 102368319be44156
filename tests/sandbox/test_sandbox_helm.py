"""Finding the ``helm`` command, with stand-ins for helm and for the Go toolchain."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_sandbox import compiler, helm
from finetune_sandbox.errors import ControlPlaneUnavailable, ProgramUnavailable


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is first in PATH, and an empty cache."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def write_script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def write_go(tools: Path, listing: str = "echo fmt") -> None:
    write = 'for argument; do case "$argument" in -o=*) output="${argument#-o=}" ;; esac; done'
    build = f'{write}; echo "$@" > "$output"; chmod +x "$output"'
    cases = f"case $1 in env) echo go1.26.8 ;; list) {listing} ;; build) {build} ;; esac"
    write_script(tools / "go", cases)


@pytest.mark.parametrize("version", ["v3.17.0", "v3.22.1", "v4.3.1"])
def test_a_system_helm_that_is_new_enough_is_used(tools: Path, version: str) -> None:
    system = write_script(tools / "helm", f"echo {version}")
    assert helm.obtain() == system


@pytest.mark.parametrize("answer", ["echo v3.16.4", "echo v2.17.0", "echo devel", "exit 1", None])
def test_otherwise_it_is_compiled_once(tools: Path, tmp_path: Path, answer: str | None) -> None:
    write_go(tools)
    if answer:
        write_script(tools / "helm", answer)
    command = helm.obtain()
    assert command.is_relative_to(tmp_path / "cache/finetune-operator/helm_module")
    assert "helm.sh/helm/v4/cmd/helm" in command.read_text().split()
    assert f"internal/version.version={helm.HELM_VERSION}" in command.read_text()
    write_go(tools, "exit 1")
    assert helm.obtain() == command


def test_without_its_modules_there_is_no_helm(tools: Path) -> None:
    write_go(tools, "echo 'dial tcp: no such host' >&2; exit 1")
    with pytest.raises(ProgramUnavailable, match="the Go modules cannot be fetched:\ndial tcp") as refusal:
        helm.obtain()
    # Of a control plane nobody had asked.
    assert not isinstance(refusal.value, ControlPlaneUnavailable)


def test_the_lock_file_pins_the_version_that_is_named() -> None:
    folder = Path(helm.__file__).parent / helm.HELM.folder
    assert f"helm.sh/helm/v4 {helm.HELM_VERSION} " in (folder / "go.mod").read_text().replace("\n", " \n")
    assert f"helm.sh/helm/v4 {helm.HELM_VERSION} h1:" in (folder / "go.sum").read_text()


def test_arguments_name_the_package() -> None:
    arguments = compiler.build_arguments(helm.HELM.program, Path("/out/helm"))
    assert arguments[-2:] == ["-o=/out/helm", "helm.sh/helm/v4/cmd/helm"]
    assert {"-mod=readonly", "-trimpath", "-tags="} <= set(arguments)
