"""An operator of another version: the same code with other built-in defaults."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel

from finetune_api.job import FineTuneJob
from finetune_api.spec import (
    DatasetSpec,
    DataSource,
    DeepSpeedSpec,
    FineTuneJobSpec,
    HyperparametersSpec,
    LoraOptions,
    MethodSpec,
    ResourcesSpec,
    ValidationSpec,
)

# What the other version has otherwise: one in a list, one two groups deep, one that names the run, one that does not,
# and one that a user may change at any time.
OTHER: dict[type[BaseModel], dict[str, Any]] = {
    LoraOptions: {"rank": 8},
    DataSource: {"weight": "3"},
    HyperparametersSpec: {"learning_rate": "7e-7", "seed": 7},
    DeepSpeedSpec: {"zero_stage": 3},
    ResourcesSpec: {"memory": "7Gi"},
    FineTuneJobSpec: {"backoff_limit": 0},
}
# Each after those that it has fields of.
_MODELS = (
    LoraOptions,
    DataSource,
    ValidationSpec,
    DatasetSpec,
    HyperparametersSpec,
    DeepSpeedSpec,
    ResourcesSpec,
    MethodSpec,
    FineTuneJobSpec,
    FineTuneJob,
)


@contextmanager
def newer_version() -> Iterator[None]:
    """While it lasts, the models have the defaults of :data:`OTHER`."""
    before = {model: {name: model.model_fields[name].default for name in fields} for model, fields in OTHER.items()}
    _set(OTHER)
    try:
        yield
    finally:
        _set(before)


def _set(defaults: dict[type[BaseModel], dict[str, Any]]) -> None:
    for model, fields in defaults.items():
        for name, value in fields.items():
            model.model_fields[name].default = value
    for model in _MODELS:
        model.model_rebuild(force=True)
