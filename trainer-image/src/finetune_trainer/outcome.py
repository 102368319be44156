"""How a stage ends: whatever happens becomes an exit code and a termination message."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import NoReturn

from finetune_api.outcomes import EXIT_CODE_OF_CLASS, ExitCode, Failure, FailureClass, Stage, StageOutcome
from finetune_api.plan import DEFAULT_TERMINATION_LOG, TERMINATION_LOG_VARIABLE
from finetune_trainer.errors import OutOfMemory, Preempted, TrainerError

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_MAX_MESSAGE = 2048
_MAX_REMEDY = 1024
_SECRET_WORDS = ("SECRET", "TOKEN", "PASSWORD")
# Shorter values would blank out ordinary words, and are no secrets of any system that we use.
_MIN_SECRET_LENGTH = 8


class Terminated(BaseException):
    """SIGTERM arrived. No Exception, so that nothing on the way takes it for a failure and carries on."""


def raise_on_sigterm() -> None:
    """Makes SIGTERM end the work of the main thread by :class:`Terminated`."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)


def ignore_signals() -> None:
    """From here on the process is ending anyway: let it say how.

    Python itself would fall back to dying by the signal while it shuts down, and what was a success would be none.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def run_stage(stage: Stage, environment: Mapping[str, str], work: Callable[[], StageOutcome]) -> ExitCode:
    """Runs a stage to its end, whatever that is, and leaves the outcome in the termination message."""
    try:
        outcome, code = _tried(stage, environment, work)
        ignore_signals()
    except Terminated:
        ignore_signals()
        error = Preempted("the pod was asked to stop before the stage was done", "nothing: it is started again")
        outcome, code = failed(stage, error, environment)
    write_termination_message(outcome, environment)
    return code


def _tried(
    stage: Stage, environment: Mapping[str, str], work: Callable[[], StageOutcome]
) -> tuple[StageOutcome, ExitCode]:
    try:
        return work(), ExitCode.SUCCESS
    except MemoryError as memory:
        return failed(stage, _host_memory(memory), environment)
    except Exception as unexpected:
        return failed(stage, unexpected, environment)


def failed(stage: Stage, error: Exception, environment: Mapping[str, str]) -> tuple[StageOutcome, ExitCode]:
    """Outcome and exit code of an error; logs it, with the traceback when nobody foresaw it."""
    if isinstance(error, TrainerError):
        failure = _failure(error.failure_class, error.message, error.remedy, environment)
        logger.error("%s: %s\n%s", failure.failure_class.value, failure.message, failure.remedy)
    else:
        logger.error("%s", redacted("".join(traceback.format_exception(error)), environment))
        short = f"{type(error).__name__}: {error}"
        remedy = "this is a fault of the trainer: report it with the pod's log"
        failure = _failure(FailureClass.INTERNAL, short, remedy, environment)
    return StageOutcome(stage=stage, failure=failure), EXIT_CODE_OF_CLASS[failure.failure_class]


def redacted(text: str, environment: Mapping[str, str]) -> str:
    """The text without the values of environment variables that are secrets by their names."""
    for name, value in environment.items():
        if any(word in name.upper() for word in _SECRET_WORDS) and len(value) >= _MIN_SECRET_LENGTH:
            text = text.replace(value, "***")
    return text


def write_termination_message(outcome: StageOutcome, environment: Mapping[str, str]) -> None:
    """Writes the outcome where Kubernetes reads it; elsewhere there may be no such file, and the log says so."""
    path = Path(environment.get(TERMINATION_LOG_VARIABLE) or DEFAULT_TERMINATION_LOG)
    try:
        path.write_text(outcome.to_termination_message(), encoding="utf-8")
    except OSError as error:
        logger.warning("cannot write the outcome to %s: %s", path, error.strerror)


def exit_at_once(code: int) -> NoReturn:
    """Ends a training process. An orderly end would wait for peers that may be gone, and take libraries apart."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _failure(failure_class: FailureClass, message: str, remedy: str, environment: Mapping[str, str]) -> Failure:
    return Failure(
        failure_class=failure_class,
        message=_shortened(redacted(message, environment), _MAX_MESSAGE),
        remedy=_shortened(redacted(remedy, environment), _MAX_REMEDY),
    )


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _host_memory(error: MemoryError) -> OutOfMemory:
    return OutOfMemory(f"the pod's memory did not suffice: {error}".rstrip(": "), "raise spec.resources.memory")
