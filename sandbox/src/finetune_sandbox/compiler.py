"""Running the Go compiler, with a line that shows how far it is."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TextIO

from finetune_sandbox.errors import CompileFailed, ProgramUnavailable

_TAIL_LINES = 20
_TERMINAL_SECONDS, _FILE_SECONDS = 1.0, 30.0


@dataclass(frozen=True)
class Program:
    """A Go program and how it is built.

    Attributes:
        title: what messages call it.
        duration: how long compiling takes when nothing is cached.
        package: what is compiled; the folder of its go.mod by default.
        stamps: string variables that the linker sets, such as versions.
        tags: build tags.
    """

    title: str
    duration: str
    package: str = "."
    stamps: Mapping[str, str] = field(default_factory=dict)
    tags: str = ""


def compile_program(go: Path, source: Path, output: Path, program: Program, progress: TextIO) -> None:
    """Compile a program whose go.mod and go.sum are in ``source`` to ``output``.

    Raises:
        ProgramUnavailable: the Go modules cannot be fetched.
        CompileFailed: the compiler failed for another reason.
    """
    packages = _fetch(go, source, program, progress)
    reporter = Progress(progress, f"Compiling {program.title} (once, about {program.duration}), of {packages}")
    result = _follow([str(go), *build_arguments(program, output)], source, reporter)
    if result.code != 0:
        raise CompileFailed(f"go build ended with code {result.code}:\n{result.problems}")


def build_arguments(program: Program, output: Path) -> list[str]:
    """The arguments of ``go`` that build a program, reproducibly."""
    stamps = "".join(f" -X {name}={value}" for name, value in program.stamps.items())
    return [
        "build",
        "-v",
        "-mod=readonly",
        "-trimpath",
        "-buildvcs=false",
        f"-tags={program.tags}",
        f"-ldflags=-s -w{stamps}",
        f"-o={output}",
        program.package,
    ]


def go_environment() -> dict[str, str]:
    """The caller's environment (proxies, caches) with what the result depends on fixed."""
    fixed = {"GO111MODULE": "on", "GOWORK": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": ""}
    # A GOROOT of another toolchain would be used in place of this one's own.
    return {name: value for name, value in os.environ.items() if name != "GOROOT"} | fixed


def _fetch(go: Path, source: Path, program: Program, progress: TextIO) -> int:
    """Fetch the modules and return how many packages there are to compile."""
    arguments = ["list", "-mod=readonly", f"-tags={program.tags}", "-deps", program.package]
    result = _follow([str(go), *arguments], source, Progress(progress, f"Fetching the Go modules of {program.title}"))
    if result.code != 0:
        raise ProgramUnavailable(f"the Go modules cannot be fetched:\n{result.problems}")
    return len(result.output.split())


@dataclass(frozen=True)
class _Result:
    code: int
    output: str
    problems: str


def _follow(command: Sequence[str], source: Path, reporter: Progress) -> _Result:
    """Run ``go``, counting the lines on standard error that tell of progress; the others are problems."""
    problems: list[str] = []
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(
            command,
            cwd=source,
            env=go_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        assert process.stderr is not None
        for line in _lines(process.stderr, reporter):
            if tells_progress(line):
                reporter.count += 1
            else:
                problems.append(line)
        process.wait()
        reporter.finish()
        output.seek(0)
        return _Result(process.returncode, output.read(), "\n".join(problems[-_TAIL_LINES:]))


def tells_progress(line: str) -> bool:
    """Whether a line names a module that is being fetched or a package that is being compiled (``go build -v``)."""
    return line.startswith("go: downloading ") or (bool(line) and not {" ", ":", "#"} & set(line))


def _lines(stream: IO[bytes], reporter: Progress) -> Iterator[str]:
    """The lines that a process writes until it ends; keeps the progress line moving in between."""
    rest = b""
    while True:
        readable, _, _ = select.select([stream], [], [], _TERMINAL_SECONDS)
        reporter.show()
        if not readable:
            continue
        chunk = os.read(stream.fileno(), 65_536)
        if not chunk:
            break
        *complete, rest = (rest + chunk).split(b"\n")
        yield from (line.decode(errors="replace") for line in complete)
    if rest:
        yield rest.decode(errors="replace")


class Progress:
    """One line that is rewritten on a terminal every second, or a new line every 30 s elsewhere.

    It tells how many lines of progress there were and how many seconds have passed.
    """

    def __init__(self, stream: TextIO, task: str) -> None:
        """Show the task at once."""
        self.count = 0
        self._task = task
        self._stream = stream
        self._started = time.monotonic()
        self._terminal = stream.isatty()
        self._print()

    def show(self) -> None:
        """Print the line when it is time to."""
        if time.monotonic() - self._shown >= (_TERMINAL_SECONDS if self._terminal else _FILE_SECONDS):
            self._print()

    def finish(self) -> None:
        """Print the last count and end the line."""
        self._print()
        if self._terminal:
            print(file=self._stream, flush=True)

    def _print(self) -> None:
        self._shown = time.monotonic()
        line = f"{self._task}: {self.count}, {self._shown - self._started:.0f} s"
        print(f"\r{line}" if self._terminal else line, end="" if self._terminal else "\n", file=self._stream)
        self._stream.flush()
