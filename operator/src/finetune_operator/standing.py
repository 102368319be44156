"""Where a job stands: its status as last written, and as it is written next. Pure."""

from __future__ import annotations

from typing import Any

from finetune_api.conditions import Phase, conditions, is_true
from finetune_api.status import ConditionType, FineTuneJobStatus
from finetune_operator.observation import Observation


def is_final(status: FineTuneJobStatus) -> bool:
    """Whether a job is Complete or Failed, which it stays."""
    return is_true(status.conditions, ConditionType.COMPLETE) or is_true(status.conditions, ConditionType.FAILED)


def status_in(seen: Observation, status: FineTuneJobStatus, phase: Phase, **changes: Any) -> FineTuneJobStatus:
    """The status of a job in a phase, also where its spec cannot be read."""
    generation = seen.manifest["metadata"].get("generation", 0)
    said = {
        "conditions": conditions(phase, status.conditions, generation, seen.now),
        "observed_generation": generation,
        "state": phase.state,
        "start_time": status.start_time or seen.now,
    }
    return status.model_copy(update=said | changes)
