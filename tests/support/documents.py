"""The fenced blocks of the documentation, and the commands and manifests in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.clusters import PROJECT

DOCUMENTS = (PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md")))
# Everything until a # that begins a word, outside of quotes.
_COMMENT = re.compile(r"""(?:'[^']*'|"[^"]*"|(?<!\s)#|[^#'"])*""")
_FENCE = re.compile(r"^ *(`{3,})(\w*)\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language (may be empty), and its lines."""

    file: Path
    line: int
    language: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    @property
    def place(self) -> str:
        return f"{self.file.relative_to(PROJECT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a console block, continuation lines joined and its comment left out."""

    place: str
    text: str


def blocks(file: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    begin, language, lines = 0, "", []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if fence and begin:
            yield Block(file, begin, language, tuple(lines))
            begin = 0
        elif fence:
            begin, language, lines = number, fence[2], []
        elif begin:
            lines.append(line)


def all_blocks(*languages: str) -> list[Block]:
    """The blocks of all pages in these languages; without any, all blocks."""
    found = (block for file in DOCUMENTS for block in blocks(file))
    return [block for block in found if not languages or block.language in languages]


def commands(block: Block) -> Iterator[Command]:
    """The commands of a console block: what follows ``$``; other lines are output."""
    lines = iter(enumerate(block.lines, block.line + 1))
    for number, line in lines:
        if not line.startswith("$ "):
            continue
        text = line[2:]
        while text.endswith("\\"):
            text = f"{text[:-1].rstrip()} {next(lines)[1].strip()}"
        yield Command(f"{block.file.relative_to(PROJECT)}:{number}", without_comment(text))


def without_comment(text: str) -> str:
    """A command without the comment behind it."""
    return text[: _COMMENT.match(text).end()].rstrip()  # type: ignore[union-attr]
