"""docs/first-job.md, followed to the letter in a shell: a sandbox, the chart, a job, its result; with a tiny model."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.clusters import PROJECT
from support.documents import Command, blocks, commands
from support.tiny_model import write_tiny_model

PAGE = PROJECT / "docs" / "first-job.md"
# What the test does in place of a command, with the reason.
INSTEAD = {
    "make env": ":",  # The test runs in it.
    "source .venv/bin/activate": ":",  # The same.
    # Training SmolLM2 takes minutes.
    "python -m scripts.demo.upload": f'{shlex.quote(sys.executable)} -m support.tiny_fill "$TINY_MODEL"',
}
# Where files of the reader are made; the rest happens in the clone.
OUTPUTS = ("report.html", "adapter")

pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Walk:
    """A shell that has run all commands of the page."""

    folder: Path
    code: int
    output: dict[str, str]

    def said(self, beginning: str) -> str:
        """What the last command that begins so printed."""
        return next(text for command, text in reversed(self.output.items()) if command.startswith(beginning))


def script(found: list[Command]) -> str:
    """All commands, each after a line that names it; the first that fails ends it."""
    lines = ["set -euo pipefail"]
    for number, command in enumerate(found):
        text = INSTEAD.get(command.text, command.text)
        lines += [f"printf '\\n@@ %s\\n' {shlex.quote(f'{number} {command.text}')}", text]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """The page, run from top to bottom."""
    folder = tmp_path_factory.mktemp("first-job")
    found = [command for block in blocks(PAGE) if block.language == "console" for command in commands(block)]
    text = script(found)
    for name in OUTPUTS:
        text = text.replace(f" {name}", f" {folder / name}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KUBE"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT / "tests"),
        "TINY_MODEL": str(write_tiny_model(folder / "model")),
        "XDG_STATE_HOME": str(folder / "state"),
    }
    try:
        done = subprocess.run(
            ["bash", "-c", text], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=800
        )
        parts = [part.split("\n", 1) for part in done.stdout.split("\n@@ ")[1:]]
        output = {head.split(" ", 1)[1]: rest for head, rest in parts}
        yield Walk(folder, done.returncode, output | {"stderr": done.stderr})
    finally:
        # Where a command failed, the page's own last one did not run.
        down = [sys.executable, "-m", "finetune_sandbox", "down"]
        subprocess.run(down, cwd=PROJECT, env=environment, capture_output=True, timeout=120)


def test_every_command_of_the_page_succeeds(walk: Walk) -> None:
    assert walk.code == 0, f"{list(walk.output)[-2]}: {walk.said('stderr')[-4000:]}"


def test_what_the_page_promises_is_there(walk: Walk) -> None:
    assert "True" in walk.said("kubectl finetune describe")
    assert "is intact" in walk.said("kubectl finetune artifacts verify")
    assert "polyline" in (walk.folder / "report.html").read_text()
    assert (walk.folder / "adapter" / "adapter_model.safetensors").is_file()
    assert walk.said("kubectl get ftj smollm2-lora -o jsonpath").strip() == "Adopted"
