"""Running the Go compiler, with a line that shows how far it is."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TextIO

from finetune_sandbox.errors import CompileFailed, ControlPlaneUnavailable

_VERSION_PACKAGE = "k8s.io/component-base/version"
_TAIL_LINES = 20
_TERMINAL_SECONDS, _FILE_SECONDS = 1.0, 30.0


def compile_program(go: Path, source: Path, output: Path, version: str, progress: TextIO) -> None:
    """Compile the Go program in ``source`` to ``output``; about 6 minutes on 2 cores when nothing is cached.

    Raises:
        ControlPlaneUnavailable: the Go modules cannot be fetched.
        CompileFailed: the compiler failed for another reason.
    """
    packages = _download(go, source, progress)
    reporter = Progress(progress, packages)
    with subprocess.Popen(
        [str(go), *build_arguments(version, output)],
        cwd=source,
        env=go_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        problems = [line for line in _lines(process.stderr, reporter) if not _is_package(line)]
    reporter.finish()
    if process.returncode != 0:
        raise CompileFailed(f"go build ended with code {process.returncode}:\n" + "\n".join(problems[-_TAIL_LINES:]))


def build_arguments(version: str, output: Path) -> list[str]:
    """The arguments of ``go`` that build the control plane as Kubernetes version ``version`` (``v1.36.3``)."""
    major, minor = version.removeprefix("v").split(".")[:2]
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    stamps = " ".join(f"-X {_VERSION_PACKAGE}.{name}={value}" for name, value in values.items())
    return [
        "build",
        "-v",
        "-mod=readonly",
        "-trimpath",
        "-buildvcs=false",
        # As Kubernetes' own build does: without it the linker cannot drop unused methods.
        "-tags=grpcnotrace",
        f"-ldflags=-s -w {stamps}",
        f"-o={output}",
        ".",
    ]


def go_environment() -> dict[str, str]:
    """The caller's environment (proxies, caches) with what the result depends on fixed."""
    fixed = {"GO111MODULE": "on", "GOWORK": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": ""}
    # A GOROOT of another toolchain would be used in place of this one's own.
    return {name: value for name, value in os.environ.items() if name != "GOROOT"} | fixed


def _download(go: Path, source: Path, progress: TextIO) -> int:
    """Fetch the modules and return how many packages there are to compile."""
    print("Fetching the control plane's Go modules", file=progress, flush=True)
    listing = subprocess.run(
        [str(go), "list", "-mod=readonly", "-tags=grpcnotrace", "-deps", "."],
        cwd=source,
        env=go_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if listing.returncode != 0:
        problems = [line for line in listing.stderr.splitlines() if not line.startswith("go: downloading")]
        raise ControlPlaneUnavailable("the Go modules cannot be fetched:\n" + "\n".join(problems[-_TAIL_LINES:]))
    return len(listing.stdout.split())


def _is_package(line: str) -> bool:
    """Whether a line of ``go build -v`` names a package that it has begun to compile."""
    return bool(line) and not line.startswith(("#", "go:")) and " " not in line and ":" not in line


def _lines(stream: IO[bytes], reporter: Progress) -> Iterator[str]:
    """The lines that a process writes until it ends, reporting each and the time in between."""
    os.set_blocking(stream.fileno(), False)
    rest = b""
    while (chunk := _read(stream, reporter)) != b"":
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            text = line.decode(errors="replace")
            reporter.packages += _is_package(text)
            yield text
    if rest:
        yield rest.decode(errors="replace")


def _read(stream: IO[bytes], reporter: Progress) -> bytes:
    """What is there next, waiting for it; empty at the end of the stream."""
    while True:
        reporter.show()
        chunk = stream.read(65_536)
        if chunk is not None:
            return chunk
        time.sleep(0.2)


class Progress:
    """One line that is rewritten on a terminal every second, or a new line every 30 s elsewhere."""

    def __init__(self, stream: TextIO, total: int) -> None:
        self.packages = 0
        self._total = total
        self._stream = stream
        self._started = self._shown = time.monotonic()
        self._terminal = stream.isatty()

    def line(self) -> str:
        """How far the compiler is."""
        elapsed = time.monotonic() - self._started
        return (
            f"Compiling the control plane (once, about 6 minutes on 2 cores): "
            f"{self.packages} of at most {self._total} packages, {elapsed:.0f} s"
        )

    def show(self) -> None:
        """Print the line when it is time to."""
        now = time.monotonic()
        if now - self._shown < (_TERMINAL_SECONDS if self._terminal else _FILE_SECONDS):
            return
        self._shown = now
        print(f"\r{self.line()}" if self._terminal else self.line(), end="" if self._terminal else "\n",
              file=self._stream, flush=True)

    def finish(self) -> None:
        """End the line on a terminal."""
        if self._terminal:
            print(f"\r{self.line()}", file=self._stream, flush=True)
