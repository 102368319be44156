"""Go programs that are compiled once per machine, lock file and Go version, and kept in the cache."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from finetune_sandbox import compiler, toolchain
from finetune_sandbox.compiler import Program
from finetune_sandbox.errors import ProgramUnavailable
from finetune_sandbox.locking import exclusive


@dataclass(frozen=True)
class Source:
    """Where a program comes from and what it is called.

    Attributes:
        folder: name of the folder of this package that has its go.mod, and of its folder in the cache.
        program: how it is built.
        commands: names by which it is called; the compiled folder has each of them.
    """

    folder: str
    program: Program
    commands: tuple[str, ...]


def compiled(source: Source, cache: Path) -> Path:
    """A folder that holds the commands of ``source``, compiling them unless that was done before.

    Raises:
        ProgramUnavailable: no Go toolchain or no Go modules, or the cache cannot be written.
        CompileFailed: the compiler failed.
    """
    with resources.as_file(resources.files("finetune_sandbox").joinpath(source.folder)) as folder:
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
        go = toolchain.find(toolchain.required_version(files["go.mod"].decode()))
        key = cache_key(files, go.version, f"{platform.system()}-{platform.machine()}".lower())
        home = cache / source.folder / key
        if not missing(source.commands, home):
            return home
        _make_writable(home.parent)
        with exclusive(home.parent / f"{home.name}.lock"):
            # Another process may have compiled it while this one waited for the lock.
            if missing(source.commands, home):
                _compile_into(home, folder, toolchain.command(go, cache), source)
    return home


def missing(commands: Sequence[str], folder: Path) -> list[str]:
    """Which of the commands are not executable files of ``folder``."""
    return [name for name in commands if not os.access(folder / name, os.X_OK, effective_ids=True)]


def cache_key(sources: Mapping[str, bytes], go_version: str, machine: str) -> str:
    """Names a compiled program by everything that it is made from."""
    digest = hashlib.sha256(f"{go_version} {machine}\n".encode())
    for name in sorted(sources):
        digest.update(f"{name} {len(sources[name])}\n".encode() + sources[name])
    return digest.hexdigest()[:16]


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProgramUnavailable(f"the cache {folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK, effective_ids=True):
        raise ProgramUnavailable(f"the cache {folder} cannot be written: set XDG_CACHE_HOME to a folder that can")


def _compile_into(home: Path, folder: Path, go: Path, source: Source) -> None:
    """Compile beside ``home`` and move the result there in one step."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        result = Path(scratch) / "bin"
        result.mkdir()
        first, *others = source.commands
        compiler.compile_program(go, folder, result / first, source.program, sys.stderr)
        for name in others:
            (result / name).symlink_to(first)
        result.replace(home)
    print(f"Compiled {source.program.title} in {time.monotonic() - started:.0f} s: {home}", file=sys.stderr)
