"""The tables of docs/benchmarks.md, from the results.

Run: ``python -m benchmarks.trainer.page`` writes them into the page; a test compares.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.trainer.results import FOLDER

PAGE = FOLDER.parent.parent / "docs" / "benchmarks.md"
_TABLE = re.compile(r"<!-- (\w+)\.json -->\n.*?<!-- end -->", re.DOTALL)


def cell(value: Any) -> str:
    """A figure as the page shows it."""
    if isinstance(value, dict):
        return f"**{value['median']:.3g}** [{value['low']:.3g}, {value['high']:.3g}]"
    return f"{value:.3g}" if isinstance(value, float) and value < 1000 else f"{value:,.0f}"


def table(result: dict[str, Any]) -> str:
    """All figures of a result."""
    rows = [f"| {name} | {cell(value)} |" for name, value in result.items() if name != "environment"]
    return "\n".join(["| | |", "|---|---|", *rows])


def render(page: str, folder: Path) -> str:
    """The page with the tables of the results in ``folder`` between their marks."""

    def replaced(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"<!-- {name}.json -->\n{table(json.loads((folder / f'{name}.json').read_text()))}\n<!-- end -->"

    return _TABLE.sub(replaced, page)


def main() -> int:
    PAGE.write_text(render(PAGE.read_text(), FOLDER))
    return 0


if __name__ == "__main__":
    sys.exit(main())
