"""Training processes that are killed and stopped at random: a few here, hundreds by `make faults`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.seeds import ROUNDS_VARIABLE, seeds
from support.warm import Program

# Each scene starts some processes per count.
pytestmark = pytest.mark.timeout(3600)


Play = Callable[..., dict[str, Any]]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Gives the record of a scene; a failure prints the command that repeats it."""
    return partial(_play, tmp_path / "log")


def _play(log: Path, scene: str, seed: int, count: int, **environment: str) -> dict[str, Any]:
    arguments = [scene, "--seed", str(seed), "--count", str(count)]
    code = Program("support.survival", arguments, log, os.environ | environment).wait()
    told = log.read_text()
    assert code == 0, told[-8000:]
    record: dict[str, Any] = json.loads(told.splitlines()[-1])
    print(json.dumps(record))
    return record


def full() -> bool:
    return int(os.environ.get(ROUNDS_VARIABLE, "0")) > 1


@pytest.mark.parametrize("seed", seeds()[:1])
def test_stops_in_every_phase_cost_no_step_and_are_no_success(play: Play, seed: int) -> None:
    count = 100 if full() else 9
    record = play("stops", seed, count)
    assert record["stops"] == sum(record["byPhase"].values()) == count
    assert record["stepsLostAtMost"] <= 1
    assert record["sameWeights"]


@pytest.mark.parametrize("seed", seeds()[:1])
def test_kills_of_random_ranks_change_no_bit(play: Play, seed: int) -> None:
    count = 200 if full() else 3
    record = play("kills", seed, count)
    assert (record["kills"], record["attempts"], record["sameWeights"]) == (count, count + 1, True)
    # Three kills say nothing of a mean.
    assert record["ratioOfIdeal"] >= (0.95 if full() else 0.5)


@pytest.mark.parametrize("seed", seeds()[:1])
def test_frozen_ranks_are_found_and_named(play: Play, seed: int) -> None:
    """In full with the limit of production: three times the 99th percentile of a step, and at least 15 s."""
    record = play("frozen", seed, 24) if full() else play("frozen", seed, 1, FINETUNE_HANG_LIMIT="6")
    assert record["freezes"] == (24 if full() else 1)
    assert record["byPhase"]["step"]["count"] > 0
    # A watchdog that does not get its share of a processor looks late.
    assert record["overLimitAtMost"] <= 5


@pytest.mark.parametrize("seed", seeds()[:1])
def test_a_steady_job_gives_no_false_alarm(play: Play, seed: int) -> None:
    steps = 10_000 if full() else 100
    record = play("steady", seed, steps)
    assert (record["steps"], record["falseAlarms"]) == (steps, 0)
    assert record["evaluations"] >= steps // 50
    assert record["saves"] > 0
