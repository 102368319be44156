"""Contenders take turns: each is a process that works a block of optimizer steps when it is told to, and then waits.

So both sides of a pair are measured within seconds of each other on a machine that others use too, and neither pays for
the other's imports, caches or threads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "DS_ACCELERATOR": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
}


@dataclass(frozen=True)
class Block:
    """One block of steps: CPU-seconds of the process, tokens without padding, losses in nats per token, and the largest
    RSS so far in MiB."""

    cpu: float
    tokens: int
    losses: tuple[float, ...]
    rss: float


class Contender:
    """The parent's end of a contender.

    Args:
        module: run with ``python -m``; it calls :class:`Turns`.
        arguments: given to the module after the number of steps of a block.
        log: where its output goes.
    """

    def __init__(self, module: str, block: int, arguments: list[str], log: Path, port: int) -> None:
        self._log = log
        reader, writer = os.pipe()
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", module, str(writer), str(block), *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[writer],
                env={**os.environ, **ONE_THREAD, "MASTER_PORT": str(port)},
                text=True,
            )
        os.close(writer)
        self._answers = os.fdopen(reader)

    def turn(self) -> Block:
        """Lets the contender work one block.

        Raises:
            RuntimeError: it ended; with the end of its output.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"the contender ended:\n{self._log.read_text()[-4000:]}")
        answer = json.loads(line)
        return Block(answer["cpu"], answer["tokens"], tuple(answer["losses"]), answer["rss"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._answers.close()


class Turns:
    """The contender's end: call :meth:`start` before the first step and :meth:`step` after each."""

    def __init__(self, answers: int, block: int) -> None:
        self._answers, self._block = answers, block
        self._losses: list[float] = []
        self._tokens = 0
        self._started = 0.0

    def start(self) -> None:
        """Waits for the first turn."""
        self._wait()

    def step(self, loss: float, tokens: int) -> None:
        """Notes a step over some tokens, padding not counted, and ends the block when it was its last."""
        self._losses.append(loss)
        self._tokens += tokens
        if len(self._losses) == self._block:
            cpu = time.process_time() - self._started
            block = {"cpu": cpu, "tokens": self._tokens, "losses": self._losses, "rss": largest_rss()}
            os.write(self._answers, (json.dumps(block) + "\n").encode())
            self._losses, self._tokens = [], 0
            self._wait()

    def _wait(self) -> None:
        sys.stdin.readline()
        self._started = time.process_time()


def largest_rss() -> float:
    """Of this process, so far, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the kernel does not tell the largest RSS")


def interleave(contenders: dict[str, Contender], pairs: int) -> dict[str, list[Block]]:
    """Blocks of all contenders, in turn, after one that warms up: ``pairs`` of each."""
    warm = {name: contender.turn() for name, contender in contenders.items()}
    blocks: dict[str, list[Block]] = {name: [block] for name, block in warm.items()}
    for _ in range(pairs):
        for name, contender in contenders.items():
            blocks[name].append(contender.turn())
    return blocks
