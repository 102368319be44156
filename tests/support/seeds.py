"""Seeds of the fault suite: one in the short form, many in the full one, or the one to repeat.

A failure shows its seed in the test's name; ``FAULT_SEED=n python -m pytest <test>`` repeats it.
"""

from __future__ import annotations

import os

# The number of seeds of each test; `make faults` sets it.
ROUNDS_VARIABLE = "FAULT_ROUNDS"
SEED_VARIABLE = "FAULT_SEED"


def seeds(short: int = 1) -> list[int]:
    """Seeds to run a test with; a failure shows the seed in the test's name."""
    if given := os.environ.get(SEED_VARIABLE):
        return [int(given)]
    return list(range(max(short, int(os.environ.get(ROUNDS_VARIABLE, "0")))))


def command(test: str, seed: int) -> str:
    """What repeats a test with a seed."""
    return f"{SEED_VARIABLE}={seed} python -m pytest {test}"
