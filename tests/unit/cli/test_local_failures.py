"""Which of several failed processes is the cause, and how the command then ends."""

from __future__ import annotations

import pytest

from finetune_api.outcomes import Failure, FailureClass, Stage, StageOutcome
from finetune_cli.local.failures import Ended, exit_code_of, root_cause


def ended(node: int, code: int, kind: FailureClass | None = None) -> Ended:
    outcome = None
    if kind:
        failure = Failure(failure_class=kind, message=f"node {node}", remedy="-")
        outcome = StageOutcome(stage=Stage.TRAIN, failure=failure)
    return Ended(node, code, outcome)


@pytest.mark.parametrize(
    ("processes", "kind", "message"),
    [
        pytest.param(
            [ended(0, 15, FailureClass.RENDEZVOUS), ended(1, 12, FailureClass.OUT_OF_MEMORY)],
            FailureClass.OUT_OF_MEMORY,
            "node 1",
            id="a cause before an echo",
        ),
        pytest.param(
            [ended(0, 20, FailureClass.INTERNAL), ended(1, -9)],
            FailureClass.POD_LOST,
            "the trainer of node 1 was killed by SIGKILL",
            id="a killed process before an echo",
        ),
        pytest.param(
            [ended(0, 15, FailureClass.RENDEZVOUS), ended(1, 128 + 15)],
            FailureClass.POD_LOST,
            "the trainer of node 1 was killed by SIGTERM",
            id="a killed worker of a trainer",
        ),
        pytest.param(
            [ended(0, 200)], FailureClass.INTERNAL, "the trainer of node 0 ended with exit code 200", id="no signal"
        ),
        pytest.param(
            [ended(0, 15, FailureClass.RENDEZVOUS), ended(1, 17, FailureClass.PREEMPTED)],
            FailureClass.RENDEZVOUS,
            "node 0",
            id="the first of echoes",
        ),
        pytest.param(
            [ended(0, 14)], FailureClass.STORAGE, "the trainer of node 0 ended with exit code 14", id="exit code only"
        ),
        pytest.param(
            [ended(0, 1)], FailureClass.INTERNAL, "the trainer of node 0 ended with exit code 1", id="unknown exit code"
        ),
    ],
)
def test_the_root_cause(processes: list[Ended], kind: FailureClass, message: str) -> None:
    failure = root_cause(processes)

    assert failure is not None
    assert (failure.failure_class, failure.message) == (kind, message)


def test_no_failure_when_all_succeeded() -> None:
    assert root_cause([ended(0, 0), ended(1, 0)]) is None


@pytest.mark.parametrize(
    ("kind", "code"),
    [(FailureClass.USER_ERROR, 10), (FailureClass.DATA_ERROR, 11), (FailureClass.POD_LOST, 20)],
)
def test_the_exit_code_is_that_of_the_trainers_table(kind: FailureClass, code: int) -> None:
    assert exit_code_of(Failure(failure_class=kind, message="-", remedy="-")) == code
