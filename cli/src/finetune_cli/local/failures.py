"""Why a stage failed, from what its processes left behind. Pure but for reading their outcome."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.outcomes import CLASS_OF_EXIT_CODE, EXIT_CODE_OF_CLASS, ExitCode, Failure, FailureClass, StageOutcome

# What a rank says when another one vanished under it: not a cause of its own.
_ECHOES = frozenset({FailureClass.INTERNAL, FailureClass.RENDEZVOUS, FailureClass.PREEMPTED, FailureClass.POD_LOST})
_CLASSES = {int(code): failure for code, failure in CLASS_OF_EXIT_CODE.items()}
_SEE_LOG = "Look at the log; the last lines are shown above."


@dataclass(frozen=True)
class Ended:
    """One ended process: its node, exit code (negative for a signal) and what it said of its stage."""

    node: int
    exit_code: int
    outcome: StageOutcome | None


def failure_of(ended: Ended) -> Failure | None:
    """What one process failed of; None if it succeeded."""
    if ended.outcome and ended.outcome.failure:
        return ended.outcome.failure
    if ended.exit_code == ExitCode.SUCCESS:
        return None
    killer = _signal_name(ended.exit_code)
    if killer:
        return Failure(
            failure_class=FailureClass.POD_LOST,
            message=f"the trainer of node {ended.node} was killed by {killer}",
            remedy="If nobody killed it, the machine ran out of memory: lower spec.deepspeed.microBatchSize or "
            "spec.hyperparameters.maxSequenceLength.",
        )
    return Failure(
        failure_class=_CLASSES.get(ended.exit_code, FailureClass.INTERNAL),
        message=f"the trainer of node {ended.node} ended with exit code {ended.exit_code}",
        remedy=_SEE_LOG,
    )


def _signal_name(exit_code: int) -> str | None:
    """The signal that ended a process (negative codes), or that ended one of its own (128 and more)."""
    number = -exit_code if exit_code < 0 else exit_code - 128
    return signal.Signals(number).name if number in list(signal.Signals) else None


def root_cause(processes: Sequence[Ended]) -> Failure | None:
    """The failure that took the others down with it: one that names its own cause, else the first."""
    failures = [failure for ended in processes if (failure := failure_of(ended))]
    causes = [failure for failure in failures if failure.failure_class not in _ECHOES]
    lost = [failure for failure in failures if failure.failure_class is FailureClass.POD_LOST]
    return next(iter((*causes, *lost, *failures)), None)


def exit_code_of(failure: Failure) -> int:
    """Exit code of the command line for a failure: that of the trainer's table."""
    return EXIT_CODE_OF_CLASS.get(failure.failure_class, ExitCode.INTERNAL)
