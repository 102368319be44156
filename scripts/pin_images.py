"""Names images by digest in a chart's values: ``python3 scripts/pin_images.py FILE image=REPOSITORY@sha256:... ...``.

Edits the lines, so that comments stay. Needs Python only, since a release has no environment of the project.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def pinned(text: str, path: str, reference: str) -> str:
    """The values with repository and digest of the image at ``path`` (keys joined by dots).

    Raises:
        ValueError: the reference has no digest, or the file has no such image.
    """
    found = re.fullmatch(r"([^@\s]+)@(sha256:[0-9a-f]{64})", reference)
    if not found:
        raise ValueError(f"{reference!r} is not REPOSITORY@sha256:...")
    keys = path.split(".")
    lines = text.splitlines(keepends=True)
    start = 0
    for depth, key in enumerate(keys):
        start = _line(lines, start, "  " * depth + key) + 1
    for field, value in (("repository", found[1]), ("digest", found[2])):
        indentation = "  " * len(keys)
        lines[_line(lines, start, indentation + field)] = f"{indentation}{field}: {value}\n"
    return "".join(lines)


def _line(lines: list[str], start: int, key: str) -> int:
    for index in range(start, len(lines)):
        if lines[index].startswith(f"{key}:"):
            return index
    raise ValueError(f"there is no {key.strip()!r} in these values")


def main(arguments: list[str]) -> int:
    file = Path(arguments[0])
    text = file.read_text()
    for assignment in arguments[1:]:
        path, _, reference = assignment.partition("=")
        text = pinned(text, path, reference)
    file.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
