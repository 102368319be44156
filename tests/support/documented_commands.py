"""How each kind of command in the documentation is checked. A command that no row knows fails the tests."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import typer

from finetune_cli.main import app
from finetune_sandbox import cli as sandbox_cli
from support import helm
from support.clusters import KUBECTL, PROJECT

Check = Callable[[list[str]], None]
# Values that a reader fills in.
_ELLIPSIS = "…"


@dataclass(frozen=True)
class Kind:
    """Commands that match a pattern, how they are checked, and why they are not run where they are not."""

    pattern: str
    check: Check
    reason: str


def words(text: str) -> list[str]:
    """A command's words, without variables before it; those that a reader fills in have a value."""
    filled = text.replace(_ELLIPSIS, "x") if not text.endswith(f" {_ELLIPSIS}") else text.removesuffix(f" {_ELLIPSIS}")
    found = shlex.split(filled)
    while found and re.match(r"[A-Z_]+=", found[0]):
        found.pop(0)
    return found


def parsed_by_finetune(arguments: list[str]) -> None:
    """The command, its options and its number of arguments exist; nothing is run."""
    rest = arguments[arguments.index("finetune") + 1 :]
    command = typer.main.get_command(app)
    if rest[0].startswith("-"):
        # Those of the program itself act while they are read.
        assert {rest[0]} <= {option for parameter in command.params for option in parameter.opts}
        return
    context = command.make_context("finetune", list(rest))
    while hasattr(command, "commands"):
        name, command, remaining = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, list(remaining), parent=context)


def parsed_by_kubectl(arguments: list[str]) -> None:
    """kubectl knows the command and its options: it reads them before it shows the help that is asked for."""
    _succeeds([str(KUBECTL), *arguments[1:], "--help"])


def parsed_by_helm(arguments: list[str]) -> None:
    """helm knows the options, and an installation renders with the values that are set."""
    verb, rest = arguments[1], arguments[2:]
    _succeeds([str(helm.command()), verb, *rest, "--help"])
    if verb not in ("install", "upgrade"):
        return
    chart = next(word for word in rest if (PROJECT / word / "Chart.yaml").is_file())
    values = [word for flag, value in itertools.pairwise(rest) if flag == "--set" for word in (flag, value)]
    _succeeds([str(helm.command()), "template", "release", chart, *helm.settings(helm.IMAGES), *values])


def parsed_by_make(arguments: list[str]) -> None:
    """The Makefile has the goal."""
    _succeeds(["make", "--dry-run", *arguments[1:]])


def parsed_by_sandbox(arguments: list[str]) -> None:
    """The sandbox's own parser takes the words."""
    sandbox_cli._parser().parse_args(arguments[arguments.index("finetune_sandbox") + 1 :])


def names_tests(arguments: list[str]) -> None:
    """The paths that pytest is given exist."""
    paths = [word for word in arguments if word.startswith("tests/")]
    assert paths
    assert all((PROJECT / path).exists() for path in paths)


def names_extras(arguments: list[str]) -> None:
    """The package has the extras that pip is asked for."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    name, extras = re.fullmatch(r"([a-z-]+)\[([a-z,]+)\]", arguments[-1]).groups()  # type: ignore[union-attr]
    assert name == project["name"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])


def names_a_dockerfile(arguments: list[str]) -> None:
    """The Dockerfile exists and declares the arguments that are set."""
    file = PROJECT / arguments[arguments.index("-f") + 1]
    text = file.read_text()
    given = [value for flag, value in itertools.pairwise(arguments) if flag == "--build-arg"]
    assert all(f"ARG {value.partition('=')[0]}" in text for value in given)
    assert arguments[-1] == "."


def names_a_module(arguments: list[str]) -> None:
    """The module exists in this repository, or among what its tests share."""
    module = arguments[arguments.index("-m") + 1]
    places = [Path(root, *module.split(".")) for root in (PROJECT, PROJECT / "tests")]
    assert any(place.with_suffix(".py").is_file() or (place / "__main__.py").is_file() for place in places)


def is_shell(arguments: list[str]) -> None:
    """The shell can read it."""
    _succeeds(["bash", "-n", "-c", shlex.join(arguments)])


def _succeeds(command: list[str]) -> None:
    environment = os.environ | {"KUBECONFIG": os.devnull}
    done = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"


_OTHERS_CLUSTER = "needs the reader's own cluster, jobs or store"
KINDS = (
    Kind(r"(kubectl )?finetune ", parsed_by_finetune, _OTHERS_CLUSTER),
    Kind(r"kubectl ", parsed_by_kubectl, _OTHERS_CLUSTER),
    Kind(r"(helm|\"\$helm\"|\"\$\(python -m finetune_sandbox helm\)\") ", parsed_by_helm, "tests/chart runs the verbs"),
    Kind(r"make ", parsed_by_make, "the tests are started by one of the goals"),
    Kind(r"python -m finetune_sandbox ", parsed_by_sandbox, "tests/sandbox runs the verbs"),
    Kind(r"([A-Z_]+=\S+ )*(python -m |\.venv/bin/)pytest ", names_tests, "this is pytest"),
    Kind(r"(PYTHONPATH=tests )?python -m (scripts|support)\.", names_a_module, "takes minutes"),
    Kind(r"pip install ", names_extras, "the package is not published"),
    Kind(r"docker build ", names_a_dockerfile, "tests/images builds where a builder is at hand"),
    Kind(r"(eval|source|helm=)", is_shell, "for the reader's shell; first-job.md runs it"),
)


def kind_of(command: str) -> Kind | None:
    """The first kind that a command matches."""
    return next((kind for kind in KINDS if re.match(kind.pattern, command)), None)
