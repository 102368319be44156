"""A process that does one piece of work each time it is told to, and answers with figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from benchmarks.trainer.workload import PROJECT


class Told:
    """The parent's end. ``module`` gets the arguments and a pipe's number, for one JSON document per line of input."""

    def __init__(self, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        reader, writer = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, str(writer)],
            stdin=subprocess.PIPE,
            pass_fds=[writer],
            cwd=PROJECT,
            env={**os.environ, **environment},
            text=True,
        )
        os.close(writer)
        self._answers = os.fdopen(reader)

    def tell(self) -> dict[str, Any]:
        """Has it work once."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._answers.readline())
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()
        self._answers.close()
