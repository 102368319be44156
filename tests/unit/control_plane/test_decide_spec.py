"""A spec that breaks a rule only with its defaults never gets a pod."""

from __future__ import annotations

import pytest

from finetune_api.status import Reason, State
from finetune_operator.decide import Decision, decide
from finetune_operator.observation import observe
from support.broken_defaults import BROKEN
from support.builders import NOW, POLICY, RUN_ID, Object, stored


def _decision(document: Object) -> Decision:
    return decide(observe(document, [], [], None, NOW), POLICY)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_rule_fails_the_job_before_anything_is_made(case: str) -> None:
    changes, words = BROKEN[case]
    decision = _decision(stored(**changes))
    assert decision.status is not None
    assert (decision.status.state, decision.create) == (State.FAILED, ())
    assert decision.status.failure is not None
    assert decision.status.failure.message == words


def test_everything_that_is_wrong_is_said_at_once() -> None:
    decision = _decision(stored(deepspeed={"zeroStage": 0}, hyperparameters={"decaySteps": 5}))
    assert decision.status is not None
    assert decision.status.failure is not None
    message = decision.status.failure.message
    assert "bf16 with ZeRO stage 0" in message
    assert "belongs to schedule wsd" in message
    assert {item.reason for item in decision.status.conditions if item.type == "Failed"} == {Reason.SPEC_INVALID}


def test_a_run_that_has_begun_is_not_held_against_newer_rules() -> None:
    decision = _decision(stored(status={"runID": RUN_ID}, deepspeed={"zeroStage": 0}))
    assert decision.status is not None
    assert decision.status.state is not State.FAILED
