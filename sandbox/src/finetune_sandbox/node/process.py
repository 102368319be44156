"""One container's process: starts the launcher, carries its output to the log and tells how it ended."""

from __future__ import annotations

import asyncio
import marshal
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from finetune_sandbox.node.rootfs import Operation
from finetune_sandbox.node.warm import WarmInterpreter
from finetune_sandbox.processes import MARKER, Identity, descendants

LAUNCHER = Path(__file__).with_name("launcher.py")
_CHUNK = 65536
# capabilities(7), by number: what container runtimes leave to a container by default.
_DEFAULT_CAPABILITIES = frozenset({0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31})
_ALL_CAPABILITIES = range(41)


@dataclass(frozen=True)
class LaunchSpec:
    """What the launcher is told. ``staging`` is an existing empty folder; paths are absolute."""

    command: list[str]
    environment: dict[str, str]
    operations: list[Operation]
    staging: str
    hostname: str
    workdir: str = "/"
    uid: int = 0
    gid: int = 0
    read_only_root: bool = False
    no_new_privileges: bool = False
    drop_all_capabilities: bool = False

    def arguments(self) -> dict[str, Any]:
        """What the launcher is told of the container."""
        kept = frozenset() if self.drop_all_capabilities else _DEFAULT_CAPABILITIES
        values = {name: value for name, value in vars(self).items() if name != "drop_all_capabilities"}
        values["drop_capabilities"] = [number for number in _ALL_CAPABILITIES if number not in kept]
        return values


@dataclass(frozen=True)
class ExitStatus:
    """How a process ended: ``code`` is 128 plus the signal when a signal ended it."""

    code: int
    signal: int = 0
    start_error: str = ""


class Handle(Protocol):
    """A container that was started: ``started`` tells whether its command came to run, ``exited`` how it ended."""

    started: asyncio.Future[bool]
    exited: asyncio.Future[ExitStatus]

    def signal(self, number: int) -> None:
        """Send a signal to the command; nothing happens when it has ended."""

    def kill(self) -> None:
        """End the command and all its descendants at once."""

    def processes(self) -> list[Identity]:
        """The container's processes, as the machine sees them, parents first."""


class Launched(Protocol):
    """The launcher's process. ``sentinel`` is a descriptor that can be read from when it has ended."""

    pid: int
    sentinel: int

    def wait(self) -> int:
        """Its exit code, or the negative number of the signal that ended it."""


class Program:
    """A launcher that was started as a program."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self.pid = popen.pid
        self.sentinel = os.pidfd_open(popen.pid)

    def wait(self) -> int:
        """Its exit code, or the negative number of the signal that ended it."""
        os.close(self.sentinel)
        return self._popen.wait()


@dataclass
class ContainerProcess:
    """A running container. Make it with ``launch``; every method is for the event loop's thread only."""

    launched: Launched
    started: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    exited: asyncio.Future[ExitStatus] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def __post_init__(self) -> None:
        self._report = b""
        self._open = 0
        self._returncode: int | None = None

    def signal(self, number: int) -> None:
        """Send a signal to the command; nothing happens when it has ended."""
        if self._returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.launched.pid, number)

    def kill(self) -> None:
        """End the command and all its descendants at once."""
        self.signal(signal.SIGKILL)

    def processes(self) -> list[Identity]:
        """All but the launcher, which stays to say how they ended."""
        return descendants(self.launched.pid)

    def _watch(self, descriptor: int, consume: Callable[[bytes], None]) -> None:
        os.set_blocking(descriptor, False)
        self._open += 1
        asyncio.get_running_loop().add_reader(descriptor, self._read, descriptor, consume)

    def _read(self, descriptor: int, consume: Callable[[bytes], None]) -> None:
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return
        if data:
            consume(data)
            return
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        self._closed()

    def _watch_exit(self) -> None:
        self._open += 1

        def ended() -> None:
            asyncio.get_running_loop().remove_reader(self.launched.sentinel)
            self._returncode = self.launched.wait()
            self._closed()

        asyncio.get_running_loop().add_reader(self.launched.sentinel, ended)

    def _take_report(self, data: bytes) -> None:
        self._report += data
        if self._report.startswith(b"started\n") and not self.started.done():
            self.started.set_result(True)

    def _closed(self) -> None:
        """Count what has closed; when all has, every descendant is dead and all output is in the log."""
        self._open -= 1
        if self._open:
            return
        if not self.started.done():
            self.started.set_result(False)
        self.exited.set_result(exit_status(self._report.decode(), self._returncode or 0))


def exit_status(report: str, returncode: int) -> ExitStatus:
    """How the command ended, from the launcher's report and, where that is incomplete, its own exit code."""
    lines = [line.partition(" ") for line in report.splitlines()]
    for word, _, rest in lines:
        if word == "failed":
            return ExitStatus(128, start_error=rest)
        if word == "exited":
            code, number = rest.split()
            return ExitStatus(int(code), int(number))
    if returncode < 0:
        return ExitStatus(128 - returncode, -returncode)
    return ExitStatus(returncode)


def launch(
    spec: LaunchSpec,
    stdout: Callable[[bytes], None],
    stderr: Callable[[bytes], None],
    warm: WarmInterpreter | None = None,
) -> ContainerProcess:
    """Start a container, as a fork of ``warm`` if that is given.

    Its output goes to ``stdout`` and ``stderr`` as it comes, b"" never.

    Must be called in the main thread: the kernel ends the container with the thread that started it.
    """
    output, errors, report = os.pipe(), os.pipe(), os.pipe()
    start = warm.fork if warm else _start_program
    launched = start(spec.arguments(), output[1], errors[1], report[1])
    for descriptor in (output[1], errors[1], report[1]):
        os.close(descriptor)
    process = ContainerProcess(launched)
    process._watch(output[0], stdout)
    process._watch(errors[0], stderr)
    process._watch(report[0], process._take_report)
    process._watch_exit()
    return process


def _start_program(arguments: Mapping[str, Any], output: int, errors: int, report: int) -> Launched:
    file = os.memfd_create("container")
    os.write(file, marshal.dumps({**arguments, "report": report, "parent": os.getpid()}))
    os.lseek(file, 0, os.SEEK_SET)
    popen = subprocess.Popen(
        [sys.executable, "-I", "-S", str(LAUNCHER), str(file)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        pass_fds=(file, report),
        start_new_session=True,
        cwd="/",
        env={MARKER: os.environ[MARKER]} if MARKER in os.environ else {},
    )
    os.close(file)
    return Program(popen)
