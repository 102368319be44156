"""Where output goes, and how wide it is."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from rich.console import Console, RenderableType

# Wider than any table: what reads a pipe wants whole lines.
_PIPE_WIDTH = 2000


class Output(StrEnum):
    """A page for people, or one document for programs."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class ListOutput(StrEnum):
    """The forms of a list."""

    TABLE = "table"
    WIDE = "wide"
    NAME = "name"
    JSON = "json"
    YAML = "yaml"


def console() -> Console:
    """Standard output: as wide as the terminal, or without wrapping where there is none."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=_PIPE_WIDTH)


def errors() -> Console:
    """Standard error."""
    return Console(stderr=True)


def show(shown: RenderableType, whole: bool = False) -> None:
    """Prints a table or page; in a pipe, and where nothing may be cut (``whole``), without wrapping."""
    out = console()
    if out.is_terminal and not whole:
        out.print(shown)
        return
    unwrapped = Console(width=_PIPE_WIDTH)
    with unwrapped.capture() as captured:
        unwrapped.print(shown)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def note(text: str) -> None:
    """A remark beside the output proper."""
    errors().print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


def write_document(document: dict[str, Any], output: Output) -> None:
    """One document as JSON or YAML."""
    # Imported here, since it loads a YAML parser.
    from finetune_cli.manifests import as_yaml

    if output is Output.JSON:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        sys.stdout.write(as_yaml(document))


def as_list(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Objects as the one object that kubectl prints for several."""
    return {"apiVersion": "v1", "kind": "List", "items": list(items)}


def print_error(text: str) -> None:
    """What a command could not do, on standard error."""
    errors().print(f"error: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
