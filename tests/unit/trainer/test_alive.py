"""When a prepare pod tells the operator that it gets on."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.outcomes import Stage
from finetune_api.plan import RunPlan
from finetune_trainer.alive import others_work, telling
from support.listener import endpoint_of, listening
from support.run_plans import Place

INTERVAL = 0.05


Heard = list[dict[str, Any]]


@pytest.fixture
def heard_by(tmp_path: Path) -> Iterator[tuple[RunPlan, Heard]]:
    """A plan whose operator listens, and what it hears."""
    with listening() as (url, heard):
        plan = Place(f"file://{tmp_path}", "bucket", tmp_path).plan()
        yield plan.model_copy(update={"progress": endpoint_of(url, tmp_path), "attempt": 3}), heard


def _until(reached: Callable[[], bool], work: Callable[[], object] = lambda: time.sleep(0.01)) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        work()


def _work() -> None:
    sum(range(200_000))


def test_it_tells_that_work_goes_on(heard_by: tuple[RunPlan, Heard]) -> None:
    plan, heard = heard_by
    with telling(plan, INTERVAL):
        _until(lambda: len(heard) >= 3, _work)
    wanted = {"uid": plan.job.uid, "attempt": 3, "sequence": 0, "stage": Stage.PREPARE.value}
    assert all(report == wanted for report in heard)


# A process of its own: the listener, too, takes CPU time.
STAGE = """
import sys, time
from finetune_api.plan import RunPlan
from finetune_trainer.alive import telling
with telling(RunPlan.model_validate_json(sys.argv[1]), float(sys.argv[2])):
    for line in sys.stdin:
        sum(range(1_000_000))
"""


def test_it_tells_nothing_while_nothing_is_done(heard_by: tuple[RunPlan, Heard]) -> None:
    """As in a read of a file server that is gone."""
    plan, heard = heard_by
    command = [sys.executable, "-c", STAGE, plan.to_json(), str(INTERVAL)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdin
        _until(lambda: len(heard) >= 1)
        # What was done until the first report arrived may be told once more.
        time.sleep(10 * INTERVAL)
        known = len(heard)
        time.sleep(20 * INTERVAL)
        assert len(heard) == known
        process.stdin.write("work\n")
        process.stdin.flush()
        _until(lambda: len(heard) > known)


def test_an_operator_that_is_away_is_asked_again_and_holds_nothing_up(heard_by: tuple[RunPlan, Heard]) -> None:
    plan, heard = heard_by
    assert plan.progress
    token = Path(plan.progress.token_file)
    content = token.read_text()
    token.unlink()
    with telling(plan, INTERVAL):
        _work()
        time.sleep(4 * INTERVAL)
        assert heard == []
        token.write_text(content)
        # What was done before is told although nothing more is done.
        _until(lambda: len(heard) >= 1)


def test_without_an_operator_nobody_is_told(heard_by: tuple[RunPlan, Heard]) -> None:
    before = threading.active_count()
    with telling(heard_by[0].model_copy(update={"progress": None})):
        assert threading.active_count() == before


def test_own_work_is_not_counted() -> None:
    before = others_work()
    for _ in range(20):
        _work()
    assert others_work() - before < 0.01
