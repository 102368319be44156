"""Go programs of the tests, compiled once per machine."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path

from finetune_sandbox import toolchain
from finetune_sandbox.compiler import go_environment
from finetune_sandbox.layout import default_cache_dir
from finetune_sandbox.locking import exclusive


def build(source: Path) -> Path:
    """The program that the Go files of a folder make, compiled unless that was done before."""
    files = sorted(path for path in source.iterdir() if path.is_file())
    go = toolchain.find(toolchain.required_version((source / "go.mod").read_text()))
    digest = hashlib.sha256(b"".join([go.version.encode(), *(path.read_bytes() for path in files)])).hexdigest()[:16]
    folder = default_cache_dir() / "test-programs"
    program = folder / f"{source.name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / f"{program.name}.lock"):
        if not program.exists():
            _compile(toolchain.command(go, default_cache_dir()), source, program)
    return program


def _compile(go: Path, source: Path, program: Path) -> None:
    with tempfile.TemporaryDirectory(dir=program.parent) as scratch:
        result = Path(scratch) / program.name
        command = [str(go), "build", "-mod=readonly", "-trimpath", "-buildvcs=false", f"-o={result}", "."]
        done = subprocess.run(command, cwd=source, env=go_environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        result.replace(program)
