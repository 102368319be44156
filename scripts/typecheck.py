"""mypy, with what it found out about the dependencies kept beside their environment, for every clone that uses it.

Reading torch and the like takes nine tenths of a first run. Only the dependencies' part is shared, which no clone
changes: this project's own modules are checked anew in every fresh clone, whatever times their files carry.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import tomllib
from contextlib import closing, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ".mypy_cache"


def shared_folder(root: Path) -> Path:
    """Where the dependencies' part is kept: beside their environment, by what mypy was told."""
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["mypy"]
    # The first word is the environment's folder, see scripts/env.sh.
    environment = Path((root / ".venv/.stamp").read_text().split()[0])
    told = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    return environment.with_name(f"{environment.name}-types-{told}")


def own_modules(root: Path) -> list[str]:
    """Names of this project's packages."""
    return sorted(found.parent.name for found in root.glob("*/src/*/__init__.py"))


def forget(cache: Path, packages: list[str]) -> None:
    """Removes what a cache of mypy knows about packages."""
    for database in cache.glob("*/cache*.db"):
        with closing(sqlite3.connect(database)) as opened, opened:
            for name in packages:
                opened.execute("DELETE FROM files2 WHERE path GLOB ? OR path GLOB ?", (f"{name}/*", f"{name}.*"))


def place(source: Path, target: Path, packages: list[str]) -> None:
    """Copies a cache to where none is yet, without what it knows about packages: the whole of it at once, or nothing.

    Another process may do the same; whoever comes second leaves the first's.
    """
    with tempfile.TemporaryDirectory(prefix=f"{target.name}.", dir=target.parent) as folder:
        copied = Path(folder) / "cache"
        shutil.copytree(source, copied, copy_function=_copy, ignore=shutil.ignore_patterns("*.db-*"))
        forget(copied, packages)
        with suppress(OSError):
            copied.rename(target)


def _copy(source: str, target: str) -> None:
    """Copies a file; a database as it is between two writes, though another mypy may run in this clone."""
    if not source.endswith(".db"):
        shutil.copyfile(source, target)
        return
    with closing(sqlite3.connect(source)) as opened, closing(sqlite3.connect(target)) as copied:
        opened.backup(copied)


def main(root: Path = ROOT) -> int:
    """Runs mypy in a clone. Returns its exit code."""
    mine, shared = root / CACHE, shared_folder(root)
    if not mine.exists() and shared.is_dir():
        place(shared, mine, [])
    code = subprocess.run([sys.executable, "-m", "mypy", *sys.argv[1:]], cwd=root, check=False).returncode
    if code == 0 and not shared.exists() and os.access(shared.parent, os.W_OK):
        place(mine, shared, own_modules(root))
    return code


if __name__ == "__main__":
    sys.exit(main())
