"""A network of its own for a benchmark over the loopback device, with Linux's default congestion control.

Where a machine's default is BBR, connections over loopback are paced by timers at a bandwidth that is only guessed; the
faster of two clients is held back by that, the slower one is not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# Set in a process that is in it.
ENTERED = "FINETUNE_BENCHMARK_NETWORK"
_ROUTE = "ip route replace local 127.0.0.1 dev lo table local proto kernel scope host src 127.0.0.1 congctl cubic"
_BEGIN = f'ip link set lo up && {_ROUTE} && exec "$@"'


def command(program: Sequence[str]) -> list[str]:
    """A program in a network namespace that has the loopback device only; also without being root."""
    return ["unshare", "--user", "--map-root-user", "--net", "sh", "-e", "-c", _BEGIN, "sh", *program]


def enter(module: str, arguments: Sequence[str]) -> None:
    """Starts this module again in such a network, in place of this process; returns where it is in it.

    Raises:
        FileNotFoundError: util-linux is not installed.
    """
    if ENTERED not in os.environ:
        program = command([sys.executable, "-m", module, *arguments])
        os.execvpe(program[0], program, {**os.environ, ENTERED: "1"})
