"""Time limits of the training pods, changed by the environment."""

from __future__ import annotations

from collections.abc import Mapping

RENDEZVOUS_TIMEOUT_VARIABLE = "FINETUNE_RENDEZVOUS_TIMEOUT"
COLLECTIVE_TIMEOUT_VARIABLE = "FINETUNE_COLLECTIVE_TIMEOUT"
HANG_LIMIT_VARIABLE = "FINETUNE_HANG_LIMIT"
_DEFAULT_SECONDS = 600.0
_LEAST_HANG_SECONDS = 15.0


def rendezvous_timeout(environment: Mapping[str, str]) -> float:
    """Seconds that the pods of a job wait for each other before training."""
    return float(environment.get(RENDEZVOUS_TIMEOUT_VARIABLE, _DEFAULT_SECONDS))


def collective_timeout(environment: Mapping[str, str]) -> float:
    """Seconds that a process waits for its peers during training before it gives up."""
    return float(environment.get(COLLECTIVE_TIMEOUT_VARIABLE, _DEFAULT_SECONDS))


def hang_limit(environment: Mapping[str, str]) -> float:
    """Seconds after which a step counts as stuck at the earliest."""
    return float(environment.get(HANG_LIMIT_VARIABLE, _LEAST_HANG_SECONDS))
