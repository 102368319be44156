"""Reading the ends of log files."""

from __future__ import annotations

import os
from pathlib import Path

_TAIL_BYTES = 64 * 1024


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log under a heading that names the file; reads 64 KiB at most."""
    return "\n".join([f"--- the end of {path} ---", *_last_lines(path, lines)])


def _last_lines(path: Path, lines: int) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            content = file.read()
    except FileNotFoundError:
        return ["(no log was written)"]
    return content.decode(errors="replace").splitlines()[-lines:] or ["(the log is empty)"]
