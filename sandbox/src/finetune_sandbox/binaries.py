"""The control plane's binaries: at hand already, compiled before, or compiled now."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from finetune_sandbox import compiler, toolchain
from finetune_sandbox.errors import ControlPlaneUnavailable
from finetune_sandbox.layout import default_cache_dir
from finetune_sandbox.locking import exclusive

BINARIES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
KUBERNETES_VERSION = "v1.36.3"
_PROGRAM = "controlplane"
_SOURCES = ("go.mod", "go.sum", "main.go")


def obtain(cache: Path | None = None, environment: Mapping[str, str] | None = None) -> Path:
    """A folder that holds all of ``BINARIES``, compiling them unless that was done before.

    Raises:
        ControlPlaneUnavailable: there is no way to get them on this machine.
        CompileFailed: the compiler failed.
    """
    variables = os.environ if environment is None else environment
    assets = _assets(variables)
    if assets is not None:
        return assets
    return _compiled(cache or default_cache_dir(variables))


def missing_from(folder: Path) -> list[str]:
    """Which of ``BINARIES`` are not executable files of ``folder``."""
    return [name for name in BINARIES if not os.access(folder / name, os.X_OK, effective_ids=True)]


def cache_key(sources: Mapping[str, bytes], go_version: str, machine: str) -> str:
    """Names a compiled control plane by everything that it is made from."""
    digest = hashlib.sha256(f"{go_version} {machine}\n".encode())
    for name in sorted(sources):
        digest.update(f"{name} {len(sources[name])}\n".encode() + sources[name])
    return digest.hexdigest()[:16]


def _assets(environment: Mapping[str, str]) -> Path | None:
    """The folder of the standard variable KUBEBUILDER_ASSETS, when it has everything."""
    value = environment.get("KUBEBUILDER_ASSETS")
    if not value:
        return None
    folder = Path(value).absolute()
    missing = missing_from(folder)
    if not missing:
        return folder
    print(
        f"KUBEBUILDER_ASSETS={value} has no {', '.join(missing)}: using the sandbox's own control plane",
        file=sys.stderr,
    )
    return None


def _compiled(cache: Path) -> Path:
    with resources.as_file(_source_folder()) as folder:
        sources = {name: (folder / name).read_bytes() for name in _SOURCES}
        go = toolchain.find(toolchain.required_version(sources["go.mod"].decode()))
        key = cache_key(sources, go.version, f"{platform.system()}-{platform.machine()}".lower())
        home = cache / _PROGRAM / key
        if not missing_from(home):
            return home
        _make_writable(home.parent)
        with exclusive(home.parent / f"{home.name}.lock"):
            # Another process may have compiled it while this one waited for the lock.
            if missing_from(home):
                _compile_into(home, folder, toolchain.command(go, cache))
    return home


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ControlPlaneUnavailable(f"the cache {folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK, effective_ids=True):
        raise ControlPlaneUnavailable(f"the cache {folder} cannot be written: set XDG_CACHE_HOME to a folder that can")


def _source_folder() -> Traversable:
    return resources.files("finetune_sandbox").joinpath(_PROGRAM)


def _compile_into(home: Path, source: Path, go: Path) -> None:
    """Compile beside ``home`` and move the result there in one step."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        result = Path(scratch) / "bin"
        result.mkdir()
        compiler.compile_program(go, source, result / _PROGRAM, KUBERNETES_VERSION, sys.stderr)
        for name in BINARIES:
            (result / name).symlink_to(_PROGRAM)
        result.replace(home)
    print(f"Compiled the control plane in {time.monotonic() - started:.0f} s: {home}", file=sys.stderr)
