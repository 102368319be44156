"""docs/cli.md and the program name the same commands and options."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer

from finetune_cli.main import app
from support.clusters import PROJECT

DOCS = (PROJECT / "docs" / "cli.md").read_text()
SECTIONS = dict(re.findall(r"^## ([a-z ]+)\n(.*?)(?=^## |\Z)", DOCS, flags=re.MULTILINE | re.DOTALL))
CLUSTER_OPTIONS = {"--namespace", "--context", "--kubeconfig"}


def commands(group: Any, prefix: str = "") -> dict[str, Any]:
    """Every command by its words, those of groups too."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        nested = commands(command, f"{prefix}{name} ") if hasattr(command, "commands") else {f"{prefix}{name}": command}
        found |= nested
    return found


COMMANDS = commands(typer.main.get_command(app))


def served_options(command: Any) -> set[str]:
    options = {text for parameter in command.params for text in (*parameter.opts, *parameter.secondary_opts)}
    return {text for text in options if text.startswith("--") and text != "--help"}


def test_every_command_has_a_section_and_every_section_a_command() -> None:
    assert set(SECTIONS) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_options_of_a_section_are_those_of_the_command(name: str) -> None:
    rows = "\n".join(line for line in SECTIONS[name].splitlines() if line.startswith("| `-"))
    told = set(re.findall(r"--[a-z][a-z-]*", rows.replace("--local FILE", "")))
    if "Cluster options apply." in SECTIONS[name]:
        told |= CLUSTER_OPTIONS
    if "Store options apply." in SECTIONS[name]:
        told.add("--store")

    assert told == served_options(COMMANDS[name])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_says_what_it_does(name: str) -> None:
    command = COMMANDS[name]

    assert command.help
    assert [parameter.name for parameter in command.params if not parameter.help] == []
