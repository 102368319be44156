"""A prepared API server, and the command line that talks to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.answering_server import Answers, answering_server, write_kubeconfig
from support.command_line import CommandLine


@pytest.fixture
def api() -> Iterator[Answers]:
    with answering_server() as answers:
        yield answers


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


@pytest.fixture
def connected(cli: CommandLine, api: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """The command line with a kubeconfig of the prepared server."""
    file = write_kubeconfig(tmp_path / "kubeconfig", api.address, namespace="team-a")
    monkeypatch.setenv("KUBECONFIG", str(file))
    return cli
