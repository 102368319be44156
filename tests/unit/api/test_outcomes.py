"""Exit codes, failure classes and the termination message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune_api.outcomes import (
    CLASS_OF_EXIT_CODE,
    EXIT_CODE_OF_CLASS,
    MAX_TERMINATION_MESSAGE_BYTES,
    ExitCode,
    FailureClass,
    Stage,
    StageOutcome,
)
from support.builders import artifact, evaluation, failure, prepare_outcome, progress, published_outcome

# JSON cannot hold lone surrogates; every other character may come out of a trainer's exception.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def test_exit_codes_and_classes_are_one_to_one() -> None:
    assert len(CLASS_OF_EXIT_CODE) == len(EXIT_CODE_OF_CLASS)
    assert {CLASS_OF_EXIT_CODE[code.value] for code in EXIT_CODE_OF_CLASS.values()} == set(EXIT_CODE_OF_CLASS)
    assert set(EXIT_CODE_OF_CLASS.values()) == set(ExitCode) - {ExitCode.SUCCESS}


def test_exit_codes_are_written_down() -> None:
    """Pods of one version are read by operators of another: a code never changes its meaning."""
    assert {failure.value: int(code) for failure, code in EXIT_CODE_OF_CLASS.items()} == {
        "UserError": 10,
        "DataError": 11,
        "OutOfMemory": 12,
        "Diverged": 13,
        "Storage": 14,
        "Rendezvous": 15,
        "Hung": 16,
        "Preempted": 17,
        "DeviceMissing": 18,
        "Verification": 19,
        "Internal": 20,
    }


def test_classes_that_no_pod_can_report_have_no_exit_code() -> None:
    without = set(FailureClass) - set(EXIT_CODE_OF_CLASS)
    assert without == {
        FailureClass.POD_LOST,
        FailureClass.DISRUPTED,
        FailureClass.NODE_LOST,
        FailureClass.EVICTED,
        FailureClass.DEADLINE_EXCEEDED,
        FailureClass.IMAGE_PULL,
        FailureClass.SECRET_MISSING,
        FailureClass.UNSCHEDULABLE,
    }


def test_exit_codes_keep_clear_of_interpreters_shells_and_signals() -> None:
    assert all(3 <= code <= 125 for code in CLASS_OF_EXIT_CODE)


@given(message=TEXT, repeat=st.sampled_from([1, 50, 2048]), stage=st.sampled_from(Stage))
def test_termination_message_of_any_failure_fits_and_can_be_read(message: str, repeat: int, stage: Stage) -> None:
    said = (message * repeat)[:2048]
    text = StageOutcome(stage=stage, failure=failure(FailureClass.INTERNAL, said)).to_termination_message()
    assert len(text.encode()) <= MAX_TERMINATION_MESSAGE_BYTES
    read = StageOutcome.model_validate_json(text).failure
    assert read
    assert read.failure_class is FailureClass.INTERNAL
    assert said.startswith(read.message.removesuffix("…"))


@pytest.mark.parametrize("character", ["a", "é", "語", "😀", "\\", '"', "\x00", "\x1f"])
def test_termination_message_fits_for_characters_of_any_width(character: str) -> None:
    outcome = StageOutcome(stage=Stage.TRAIN, failure=failure(FailureClass.DATA_ERROR, character * 2048))
    text = outcome.to_termination_message()
    assert len(text.encode()) <= MAX_TERMINATION_MESSAGE_BYTES
    assert StageOutcome.model_validate_json(text).failure is not None


def test_short_failure_is_told_whole() -> None:
    outcome = StageOutcome(stage=Stage.PREPARE, failure=failure(FailureClass.DATA_ERROR, "train.jsonl:17: broken JSON"))
    assert StageOutcome.model_validate_json(outcome.to_termination_message()) == outcome


@pytest.mark.parametrize("outcome", [prepare_outcome(), prepare_outcome(adopted=True), published_outcome()])
def test_results_survive_the_termination_message(outcome: StageOutcome) -> None:
    text = outcome.to_termination_message()
    assert len(text.encode()) <= MAX_TERMINATION_MESSAGE_BYTES
    assert StageOutcome.model_validate_json(text) == outcome


def test_results_with_the_longest_destination_fit() -> None:
    """Both URIs lie below spec.output.destination, which has at most 1,024 characters."""
    longest = "s3://bucket/" + "x" * 1012 + "/" + "n" * 63 + "/" + "j" * 48 + "/" + "f" * 80
    outcome = prepare_outcome(adopted=True)
    assert outcome.prepared
    changes = {"data_uri": longest, "adopted": artifact().model_copy(update={"uri": longest})}
    text = outcome.model_copy(update={"prepared": outcome.prepared.model_copy(update=changes)}).to_termination_message()
    assert len(text.encode()) <= MAX_TERMINATION_MESSAGE_BYTES


def test_progress_gives_way_to_a_failure_that_takes_all_the_room() -> None:
    short, long = (failure(FailureClass.INTERNAL, character * 2048) for character in ("a", "語"))
    kept, dropped = (
        StageOutcome.model_validate_json(
            StageOutcome(stage=Stage.TRAIN, failure=said, progress=progress(7)).to_termination_message()
        )
        for said in (short, long)
    )
    assert (kept.progress, kept.failure) == (progress(7), short)
    assert dropped.progress is None
    assert dropped.failure


def test_outcome_uses_the_names_of_the_resource() -> None:
    wire = published_outcome().to_wire()
    assert wire["artifact"]["bytes"] == 12345
    assert wire["evaluation"] == {"lossBefore": "2.5", "lossAfter": "1.25"}
    assert failure(FailureClass.HUNG).to_wire()["class"] == "Hung"


@pytest.mark.parametrize("text", ["", "Traceback (most recent call last)", "{}", '{"stage": "train", "typo": 1}'])
def test_what_is_no_outcome_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        StageOutcome.model_validate_json(text)


def test_evaluation_is_in_decimal_strings() -> None:
    with pytest.raises(ValidationError):
        type(evaluation()).model_validate({"lossBefore": 2.5, "lossAfter": "1"})
