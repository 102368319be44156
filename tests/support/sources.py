"""The project's own files, and the functions in them."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from support.clusters import PROJECT

PACKAGES = ("api/src", "operator/src", "trainer-image/src", "cli/src", "sandbox/src")
Definition = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tracked_files() -> tuple[Path, ...]:
    """Every file that git knows and that is there; in an unpacked archive, every file but those of tools."""
    command = ["git", "-C", str(PROJECT), "ls-files", "-z"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode == 0:
        found = (PROJECT / name for name in result.stdout.split("\0") if name)
        return tuple(path for path in found if path.is_file())
    return tuple(path for path in _walk(PROJECT) if path.is_file())


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in ("__pycache__", "build", "dist"):
            continue
        yield from _walk(path) if path.is_dir() else (path,)


def source_files() -> list[Path]:
    """Python files of the packages."""
    roots = [PROJECT / package for package in PACKAGES]
    return [path for path in tracked_files() if path.suffix == ".py" and any(path.is_relative_to(r) for r in roots)]


@dataclass(frozen=True)
class Function:
    """A function of the packages.

    Attributes:
        place: file and line.
        lines: length without the docstring.
        annotated: whether it says what it returns.
    """

    place: str
    lines: int
    annotated: bool


def functions(path: Path) -> list[Function]:
    """Functions and methods of one file, also inner ones."""
    tree = ast.parse(path.read_text())
    return [
        Function(f"{path.relative_to(PROJECT)}:{node.lineno} {node.name}", _length(node), node.returns is not None)
        for node in ast.walk(tree)
        if isinstance(node, Definition)
    ]


def _length(node: Definition) -> int:
    whole = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node) is None:
        return whole
    words = node.body[0]
    return whole - ((words.end_lineno or words.lineno) - words.lineno + 1)
