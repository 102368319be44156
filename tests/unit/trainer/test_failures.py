"""What exceptions and ends of workers mean."""

from __future__ import annotations

import pytest
import torch

from finetune_api.outcomes import Failure, FailureClass, Stage, StageOutcome
from finetune_trainer.errors import Diverged, OutOfMemory, RendezvousFailed
from finetune_trainer.failures import Killed, as_trainer_error, node_failure


def outcome(failure_class: FailureClass | None) -> StageOutcome:
    failure = Failure(failure_class=failure_class, message="m", remedy="r") if failure_class else None
    return StageOutcome(stage=Stage.TRAIN, failure=failure)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemory),
        (MemoryError(), OutOfMemory),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), OutOfMemory),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:9"), RendezvousFailed),
        (torch.distributed.DistStoreError("wait timeout"), RendezvousFailed),
        (torch.distributed.DistBackendError("NCCL error"), RendezvousFailed),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError),
        (KeyError("out of memory"), KeyError),
        (Diverged("NaN", "lower it"), Diverged),
    ],
)
def test_class_of_an_exception(error: Exception, expected: type[Exception]) -> None:
    assert type(as_trainer_error(error, 3)) is expected


def test_message_names_the_rank_and_the_first_line() -> None:
    found = as_trainer_error(torch.OutOfMemoryError("CUDA out of memory.\nmore"), 3)
    assert str(found) == "rank 3 ran out of memory: CUDA out of memory."


PREEMPTED, RENDEZVOUS = outcome(FailureClass.PREEMPTED), outcome(FailureClass.RENDEZVOUS)
DIVERGED, STORAGE, FINE = outcome(FailureClass.DIVERGED), outcome(FailureClass.STORAGE), outcome(None)


@pytest.mark.parametrize(
    ("outcomes", "signals", "expected"),
    [
        ([FINE, FINE], {}, None),
        ([], {}, None),
        ([DIVERGED, STORAGE], {}, DIVERGED),
        ([RENDEZVOUS, PREEMPTED, STORAGE], {}, STORAGE),
        ([PREEMPTED, RENDEZVOUS], {}, RENDEZVOUS),
        ([FINE, PREEMPTED], {}, PREEMPTED),
        ([PREEMPTED, RENDEZVOUS], {2: 9}, Killed(2, 9)),
        ([DIVERGED], {2: 15}, DIVERGED),
        ([], {3: 11, 1: 9}, Killed(1, 9)),
    ],
)
def test_failure_of_a_pod(
    outcomes: list[StageOutcome], signals: dict[int, int], expected: StageOutcome | Killed | None
) -> None:
    assert node_failure(outcomes, signals) == expected
