"""Every command of the documentation: run as first-job.md shows it, or checked by the program that would run it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from support.clusters import PROJECT
from support.documented_commands import KINDS, kind_of, words
from support.documents import Command, all_blocks, commands, without_comment

# typer keeps its own copy of click: what all errors of usage derive from is found by one of them.
USAGE_ERROR = typer.BadParameter.__bases__[0]
COMMANDS = [command for block in all_blocks("console") for command in commands(block)]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.place)
def test_a_command_is_known_and_right(command: Command) -> None:
    kind = kind_of(command.text)
    assert kind, f"{command.place}: say in support/documented_commands.py how to check: {command.text}"
    kind.check(words(command.text))


def test_every_kind_is_used_and_says_why_it_is_not_run() -> None:
    used = {kind.pattern for command in COMMANDS if (kind := kind_of(command.text))}
    assert used == {kind.pattern for kind in KINDS}
    assert all(kind.reason for kind in KINDS)


def test_commands_name_files_that_exist() -> None:
    missing = [
        f"{command.place}: {path}"
        for command in COMMANDS
        for path in re.findall(r"(?<![\w/.])(?:examples|charts|crds|operator|trainer-image)/[\w./-]*", command.text)
        if not (PROJECT / path).exists()
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("make demo    # fine-tunes", "make demo"),
        ("kubectl get ftj '#1' -o name", "kubectl get ftj '#1' -o name"),
        ("python -c 'a # b'", "python -c 'a # b'"),
    ],
)
def test_comments_are_no_part_of_a_command(text: str, kept: str) -> None:
    assert without_comment(text) == kept


@pytest.mark.parametrize(
    "wrong",
    [
        "kubectl finetune watch a --no-such-option",
        "kubectl finetune nothing",
        "finetune plan",
        "kubectl get ftj --no-such-option",
        "helm install a charts/finetune-operator --set no.such.value=1",
        "make nothing",
        "python -m finetune_sandbox up --no-such-option",
        "python -m pytest tests/nothing",
        "python -m scripts.nothing",
        "finetune --no-such-option",
        "pip install 'finetune-operator[nothing]'",
        "docker build -f operator/Dockerfile --build-arg NOTHING=1 .",
        "eval '(",
    ],
)
def test_a_wrong_command_is_found(wrong: str) -> None:
    kind = kind_of(wrong)
    assert kind
    with pytest.raises((AssertionError, SystemExit, ValueError, USAGE_ERROR)):
        kind.check(words(wrong))
    assert kind_of("curl example.com | sh") is None


def test_pages_are_found() -> None:
    assert len(COMMANDS) > 60
    assert {Path(command.place.partition(":")[0]).name for command in COMMANDS} >= {"README.md", "first-job.md"}
