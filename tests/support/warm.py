"""Programs that train, as forks of a process that has imported what they need: imports take longer than most tests."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path

TESTS = str(Path(__file__).parents[1])
_context = multiprocessing.get_context("forkserver")


class Program:
    """``python -m module arguments``, which finds what it needs imported; like a ``subprocess.Popen``."""

    def __init__(self, module: str, arguments: Sequence[str], output: Path, environment: Mapping[str, str]) -> None:
        """Starts it.

        Args:
            output: a file for what it writes.
            environment: all of its environment. What libraries read when they are imported is that of a process that
                trains on a CPU with one thread.
        """
        with _tests_in_path():
            _context.set_forkserver_preload(["support.preloaded"])
            forkserver.ensure_running()
        output.write_bytes(b"")
        call = (module, list(arguments), str(output), dict(environment))
        # As a daemon it does not keep the tests from ending.
        self._process = _context.Process(target=_become, args=call, daemon=True)
        self._process.start()
        assert self._process.pid
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, or the negative number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, when it has ended.

        Raises:
            subprocess.TimeoutExpired: it runs for longer than ``timeout`` seconds.
        """
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Nothing happens when it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it at once."""
        self.send_signal(signal.SIGKILL)


@contextmanager
def _tests_in_path() -> Iterator[None]:
    """For a process that is started meanwhile."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (TESTS, before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _become(module: str, arguments: Sequence[str], output: str, environment: Mapping[str, str]) -> None:
    multiprocessing.current_process().daemon = False
    written = os.open(output, os.O_WRONLY | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(written, standard)
    os.close(written)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
