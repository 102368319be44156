"""However a stage ends, it leaves an exit code and a termination message, and no secret."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from finetune_api.outcomes import CLASS_OF_EXIT_CODE, ExitCode, FailureClass, Stage, StageOutcome
from finetune_trainer import errors
from finetune_trainer.errors import TrainerError, UserError
from finetune_trainer.outcome import STOP_SIGNALS, Terminated, redacted, run_stage

SECRET = "very-secret-access-key"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "FINETUNE_TERMINATION_LOG": str(tmp_path / "termination-log"),
        "OUTPUT_AWS_SECRET_ACCESS_KEY": SECRET,
        "HUB_TOKEN": "hf_0123456789",
    }


def message_of(environment: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(environment["FINETUNE_TERMINATION_LOG"]).read_text())
    return found


def raising(error: BaseException) -> Any:
    def work() -> NoReturn:
        raise error

    return work


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A stage that ends has its process ignore signals; this one goes on."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.UserError, ExitCode.USER_ERROR),
        (errors.DataError, ExitCode.DATA_ERROR),
        (errors.StorageError, ExitCode.STORAGE),
        (errors.DeviceMissing, ExitCode.DEVICE_MISSING),
        (errors.RendezvousFailed, ExitCode.RENDEZVOUS),
        (errors.Diverged, ExitCode.DIVERGED),
        (errors.Preempted, ExitCode.PREEMPTED),
        (errors.OutOfMemory, ExitCode.OUT_OF_MEMORY),
        (errors.VerificationFailed, ExitCode.VERIFICATION),
        (errors.TrainerError, ExitCode.INTERNAL),
    ],
)
def test_every_error_has_its_exit_code(environment: dict[str, str], kind: type[TrainerError], code: ExitCode) -> None:
    assert run_stage(Stage.PREPARE, environment, raising(kind("what happened", "what to do"))) is code
    assert CLASS_OF_EXIT_CODE[code] is kind.failure_class
    assert message_of(environment) == {
        "stage": "prepare",
        "failure": {"class": kind.failure_class.value, "message": "what happened", "remedy": "what to do"},
    }


def test_success_leaves_the_result(environment: dict[str, str]) -> None:
    assert run_stage(Stage.TRAIN, environment, lambda: StageOutcome(stage=Stage.TRAIN)) is ExitCode.SUCCESS
    assert message_of(environment) == {"stage": "train"}


def test_an_error_that_nobody_foresaw_is_internal_and_its_traceback_in_the_log(
    environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    assert run_stage(Stage.PREPARE, environment, raising(KeyError("surprise"))) is ExitCode.INTERNAL
    assert message_of(environment)["failure"]["message"] == "KeyError: 'surprise'"
    assert "Traceback" in caplog.text
    assert "raise error" in caplog.text


@pytest.mark.parametrize(
    ("error", "failure_class"),
    [(Terminated(), FailureClass.PREEMPTED), (MemoryError(), FailureClass.OUT_OF_MEMORY)],
)
def test_signals_and_memory(environment: dict[str, str], error: BaseException, failure_class: FailureClass) -> None:
    code = run_stage(Stage.PREPARE, environment, raising(error))
    assert CLASS_OF_EXIT_CODE[code] is failure_class
    assert message_of(environment)["failure"]["class"] == failure_class.value


@pytest.mark.parametrize("error", [UserError(f"key {SECRET}", "use hf_0123456789"), RuntimeError(SECRET)])
def test_secrets_are_in_neither_message_nor_log(
    environment: dict[str, str], caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    run_stage(Stage.PREPARE, environment, raising(error))
    for text in (caplog.text, json.dumps(message_of(environment))):
        assert SECRET not in text
        assert "hf_0123456789" not in text


def test_short_values_are_no_secrets() -> None:
    assert redacted("a token of 1", {"SOME_TOKEN": "1"}) == "a token of 1"


def test_long_messages_are_cut_to_what_kubernetes_keeps(environment: dict[str, str]) -> None:
    run_stage(Stage.PREPARE, environment, raising(UserError("ü" * 5000, "ä" * 5000)))
    assert Path(environment["FINETUNE_TERMINATION_LOG"]).stat().st_size <= 4096
    assert message_of(environment)["failure"]["message"].endswith("…")


def test_where_there_is_no_termination_log_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    environment = {"FINETUNE_TERMINATION_LOG": str(tmp_path / "missing" / "file")}
    with caplog.at_level(logging.WARNING):
        assert run_stage(Stage.PREPARE, environment, lambda: StageOutcome(stage=Stage.PREPARE)) is ExitCode.SUCCESS
    assert "cannot write the outcome to" in caplog.text


def test_a_stage_that_is_done_hears_no_signal_any_more(environment: dict[str, str]) -> None:
    run_stage(Stage.PREPARE, environment, lambda: StageOutcome(stage=Stage.PREPARE))
    assert {signal.getsignal(number) for number in STOP_SIGNALS} == {signal.SIG_IGN}
