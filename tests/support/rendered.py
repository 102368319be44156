"""Compares what a terminal would show with a file beside the test.

To accept a change: FINETUNE_WRITE_SNAPSHOTS=1 pytest <the test file>, then look at the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console, RenderableType

WIDTH = 100


def as_text(shown: RenderableType, width: int = WIDTH) -> str:
    """What a terminal of that width shows, without its colours and trailing blanks."""
    console = Console(width=width, force_terminal=True, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(shown)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def assert_same(text: str, file: Path) -> None:
    """The text is that of the file."""
    if os.environ.get("FINETUNE_WRITE_SNAPSHOTS"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()
