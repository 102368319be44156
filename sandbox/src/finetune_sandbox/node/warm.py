"""A Python process that has imported a package once, and containers that start as its forks, seconds sooner.

The fork takes the way of any container (``launcher.py``); only where that one would start a new interpreter for
``python -m PACKAGE``, it runs the package in the interpreter that it is.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import marshal
import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing import reduction
from typing import Any

from finetune_sandbox.node import launcher
from finetune_sandbox.processes import MARKER

_log = logging.getLogger(__name__)

# Libraries read these once, when they are imported: a container with other values than the warm process gets an
# interpreter of its own. Nothing else of a container's environment comes into the warm process, least of all secrets.
_READ_ONCE = ("HOME", "LANG", "PATH", "TMPDIR")
_READ_ONCE_PREFIXES = (
    "CUDA",
    "DS_",
    "HF_HOME",
    "HF_HUB",
    "HF_ENDPOINT",
    "LC_",
    "LD_",
    "MKL",
    "OMP",
    "OPENBLAS",
    "PYTHON",
    "TORCH",
    "TRANSFORMERS",
    "XDG",
)
# A container that waits for longer starts cold.
_IMPORT_SECONDS = 120.0
_FIRST_FREE = 64
_REPORT = 3

_context = multiprocessing.get_context("forkserver")


def read_once(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of a container's environment that imported libraries have read already."""
    return {
        name: value for name, value in environment.items() if name in _READ_ONCE or name.startswith(_READ_ONCE_PREFIXES)
    }


class WarmInterpreter:
    """Forks for ``python -m PACKAGE``, where PACKAGE is the one that ``module`` belongs to.

    The first container that it could serve starts like any other, and says with its environment what is to be
    imported under which variables; those after it are forks. They wait until everything is imported: as many imports
    at once, one in each of them, would take the machine longer.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._command = ["-m", module.partition(".")[0]]
        self._environment: dict[str, str] | None = None
        self._imported: Future[bool] = Future()

    async def serves(self, command: Sequence[str], environment: Mapping[str, str]) -> bool:
        """Whether a container may start as a fork; returns when it can."""
        program = shutil.which(command[0], path=environment.get("PATH"))
        if list(command[1:3]) != self._command or not program or not os.path.samefile(program, sys.executable):
            return False
        if self._environment is None:
            self._start(read_once(environment))
            return False
        return read_once(environment) == self._environment and await self._is_imported()

    async def _is_imported(self) -> bool:
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._imported)), _IMPORT_SECONDS)
        except TimeoutError:
            return False

    def fork(self, arguments: Mapping[str, Any], output: int, errors: int, report: int) -> Fork:
        """Start a container; ``arguments`` are the launcher's."""
        shared = (_Shared(output), _Shared(errors), _Shared(report))
        # As a daemon it does not keep the agent from ending, should that fail.
        process = _context.Process(target=_enter, args=(marshal.dumps(dict(arguments)), *shared), daemon=True)
        process.start()
        return Fork(process)

    def _start(self, environment: dict[str, str]) -> None:
        self._environment = environment
        _context.set_forkserver_preload([self._module])
        with _only(environment):
            # Only starts the process, which this one does not wait for.
            multiprocessing.forkserver.ensure_running()
        threading.Thread(target=self._wait_until_imported, daemon=True).start()

    def _wait_until_imported(self) -> None:
        probe = _context.Process(target=_probe, args=(self._module,), daemon=True)
        probe.start()
        probe.join()
        if probe.exitcode:
            _log.warning("%s cannot be imported: containers start cold", self._module)
        else:
            _log.info("%s is imported: containers start warm", self._module)
        self._imported.set_result(not probe.exitcode)


class Fork:
    """The launcher's process of a container, a child of the warm process."""

    def __init__(self, process: multiprocessing.context.ForkServerProcess) -> None:
        assert process.pid is not None
        self._process = process
        self.pid: int = process.pid
        self.sentinel: int = process.sentinel

    def wait(self) -> int:
        """Its exit code, or the negative number of the signal that ended it."""
        self._process.join()
        code = self._process.exitcode
        self._process.close()
        return code or 0


class _Shared:
    """A descriptor that is sent along; the receiver gets its number there."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self._descriptor),)


def _received(duplicate: Any) -> int:
    return int(duplicate.detach())


def _probe(module: str) -> None:
    sys.exit(module not in sys.modules)


def _enter(arguments: bytes, output: int, errors: int, report: int) -> None:
    """The fork: becomes what a launcher that was started as a program would be."""
    multiprocessing.current_process().daemon = False
    standard = os.open(os.devnull, os.O_RDONLY)
    # First out of the way, since one may be where another goes.
    kept = [fcntl.fcntl(number, fcntl.F_DUPFD, _FIRST_FREE) for number in (standard, output, errors, report)]
    for target, number in enumerate(kept):
        os.dup2(number, target)
    os.closerange(_REPORT + 1, os.sysconf("SC_OPEN_MAX"))
    os.setsid()
    os.chdir("/")
    launcher.run(marshal.loads(arguments) | {"report": _REPORT, "parent": os.getppid(), "warm": True})


@contextmanager
def _only(environment: Mapping[str, str]) -> Iterator[None]:
    """While in it, this process's environment is another one, but for the mark of the sandbox."""
    own = dict(os.environ)
    os.environ.clear()
    os.environ.update({**environment, **{name: own[name] for name in (MARKER,) if name in own}})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(own)
