"""Training processes that are killed and stopped at random: a few here, hundreds by `make faults`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.seeds import ROUNDS_VARIABLE, seeds

TESTS = Path(__file__).parents[1]
# Each scene starts some processes per count.
pytestmark = pytest.mark.timeout(3600)


def play(scene: str, seed: int, count: int, **environment: str) -> dict[str, Any]:
    """The record of a scene; a failure prints the command that repeats it."""
    command = [sys.executable, "-m", "support.survival", scene, "--seed", str(seed), "--count", str(count)]
    variables = os.environ | {"PYTHONPATH": str(TESTS)} | environment
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-8000:]
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(record))
    return record


def full() -> bool:
    return int(os.environ.get(ROUNDS_VARIABLE, "0")) > 1


@pytest.mark.parametrize("seed", seeds()[:1])
def test_stops_in_every_phase_cost_no_step_and_are_no_success(seed: int) -> None:
    count = 100 if full() else 9
    record = play("stops", seed, count)
    assert record["stops"] == sum(record["byPhase"].values()) == count
    assert record["stepsLostAtMost"] <= 1
    assert record["sameWeights"]


@pytest.mark.parametrize("seed", seeds()[:1])
def test_kills_of_random_ranks_change_no_bit(seed: int) -> None:
    count = 200 if full() else 3
    record = play("kills", seed, count)
    assert (record["kills"], record["attempts"], record["sameWeights"]) == (count, count + 1, True)
    # Three kills say nothing of a mean.
    assert record["ratioOfIdeal"] >= (0.95 if full() else 0.5)


@pytest.mark.parametrize("seed", seeds()[:1])
def test_frozen_ranks_are_found_and_named(seed: int) -> None:
    """In full with the limit of production: three times the 99th percentile of a step, and at least 15 s."""
    record = play("frozen", seed, 24) if full() else play("frozen", seed, 1, FINETUNE_HANG_LIMIT="6")
    assert record["freezes"] == (24 if full() else 1)
    assert record["byPhase"]["step"]["count"] > 0
    # A watchdog that does not get its share of a processor looks late.
    assert record["overLimitAtMost"] <= 5


@pytest.mark.parametrize("seed", seeds()[:1])
def test_a_steady_job_gives_no_false_alarm(seed: int) -> None:
    steps = 10_000 if full() else 100
    record = play("steady", seed, steps)
    assert (record["steps"], record["falseAlarms"]) == (steps, 0)
    assert record["evaluations"] >= steps // 50
    assert record["saves"] > 0
