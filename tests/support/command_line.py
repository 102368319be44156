"""Runs the command line inside the test's process, which saves its start-up."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from finetune_cli.main import main


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class CommandLine:
    """``finetune`` with the arguments that it is called with."""

    monkeypatch: pytest.MonkeyPatch
    captured: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> Ended:
        self.monkeypatch.setattr(sys, "argv", ["finetune", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self.captured.readouterr()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 0, out, err)
