"""Writes docs/values.md from the chart's values.yaml; with --check only says whether it is current."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parent.parent
VALUES = PROJECT / "charts" / "finetune-operator" / "values.yaml"
FILE = PROJECT / "docs" / "values.md"
HEADER = """\
<!-- Generated from charts/finetune-operator/values.yaml by `make crds`. Do not edit. -->
# Values of the chart

A value that is not listed here, or not of its type, is refused by `helm lint`, `template`, `install` and `upgrade`.

| value | default | meaning |
|---|---|---|
"""
_MARK = "# -- "
_KEY = re.compile(r"^( *)([A-Za-z]+):")


def documented(text: str) -> Iterator[tuple[str, str]]:
    """Path and description of each value that has a line ``# -- ...`` above it."""
    path: list[tuple[int, str]] = []
    description = ""
    for line in text.splitlines():
        if line.strip().startswith(_MARK):
            description = line.strip().removeprefix(_MARK)
        elif found := _KEY.match(line):
            depth = len(found[1])
            path = [(level, key) for level, key in path if level < depth] + [(depth, found[2])]
            if description:
                yield ".".join(key for _, key in path), description
            description = ""


def rendered(text: str) -> str:
    """The whole document."""
    values = yaml.safe_load(text)

    def default(path: str) -> Any:
        return reduce(lambda inner, key: inner[key], path.split("."), values)

    rows = (
        f"| `{path}` | `{json.dumps(default(path))}` | {description.replace('|', chr(92) + '|')} |\n"
        for path, description in documented(text)
    )
    return HEADER + "".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when the file differs")
    check = parser.parse_args().check
    text = rendered(VALUES.read_text())
    if FILE.exists() and FILE.read_text() == text:
        return 0
    if check:
        print("docs/values.md is behind the chart. Run `make crds` and commit.", file=sys.stderr)
        return 1
    FILE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
