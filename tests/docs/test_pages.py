"""Pages refer to what exists, and the index to all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support.clusters import PROJECT
from support.documents import DOCUMENTS, Block, all_blocks

LINK = re.compile(r"\]\(([^)\s]+)\)")
LANGUAGES = {"console", "yaml", "json", "python", "text"}
GENERATED = {"reference.md", "values.md"}
INDEX = PROJECT / "docs" / "README.md"


def links(file: Path) -> list[str]:
    """Targets of the links within this repository."""
    text = re.sub(r"^ *```.*?^ *```", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [target for target in LINK.findall(text) if "://" not in target]


def anchors(file: Path) -> set[str]:
    """Names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_links_lead_somewhere(file: Path) -> None:
    broken = []
    for link in links(file):
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("file", [file for file in DOCUMENTS if file.name not in GENERATED], ids=lambda file: file.name)
def test_lines_can_be_read_in_a_terminal(file: Path) -> None:
    """At most 124 characters, but in tables and in blocks."""
    text = re.sub(r"^ *```.*?^ *```", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert [line for line in text.splitlines() if len(line) > 124 and not line.startswith("|")] == []


def test_index_has_every_page() -> None:
    listed = {(INDEX.parent / link.partition("#")[0]).resolve() for link in links(INDEX)}
    assert {file for file in DOCUMENTS if file.parent == INDEX.parent} - {INDEX} <= listed
    assert "docs/README.md" in links(PROJECT / "README.md")


def test_every_block_says_what_it_is() -> None:
    assert [block.place for block in all_blocks() if block.language not in LANGUAGES] == []


def test_a_console_block_has_a_command_and_a_text_block_none() -> None:
    wrong = [block.place for block in all_blocks("console") if not any(line.startswith("$ ") for line in block.lines)]
    wrong += [block.place for block in all_blocks("text") if any(line.startswith("$ ") for line in block.lines)]
    assert wrong == []


@pytest.mark.parametrize("block", all_blocks("json"), ids=lambda block: block.place)
def test_json_is_json(block: Block) -> None:
    assert json.loads(block.text)


@pytest.mark.parametrize("block", all_blocks("python"), ids=lambda block: block.place)
def test_python_compiles_and_its_modules_have_what_is_imported(block: Block) -> None:
    compile(block.text, block.place, "exec")
    imports = [line for line in block.lines if line.startswith(("import ", "from "))]
    assert imports
    exec("\n".join(imports), {})
