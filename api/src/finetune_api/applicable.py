"""Which defaults of a profile mean anything to a job: one table of fields and when each applies. Pure."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from finetune_api.base import Object

Condition = Callable[[Object], bool]


def value_at(document: Object, path: str) -> Any:
    """The value at a path such as ``method.lora.rank``; None where there is none."""
    node: Any = document
    for name in path.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def _is(path: str, *values: str) -> Condition:
    """A field has one of these values; the first is what it has where nothing is said."""
    return lambda spec: (value_at(spec, path) or values[0]) in values


def _model_from(*schemes: str) -> Condition:
    return lambda spec: str(value_at(spec, "model.source")).startswith(schemes)


def _sources(spec: Object) -> list[Object]:
    return [*(value_at(spec, "dataset.train") or ()), *(value_at(spec, "dataset.validation.sources") or ())]


def _data_on_hub(spec: Object) -> bool:
    return any(str(source.get("source")).startswith("hf://") for source in _sources(spec))


def _data_is_rendered(spec: Object) -> bool:
    return any(source.get("format") != "completion" for source in _sources(spec))


def _holds_out(spec: Object) -> bool:
    return value_at(spec, "dataset.validation") is not None


def _evaluates(spec: Object) -> bool:
    return value_at(spec, "evaluation.everySteps") is not None


def _has_no_gpus(spec: Object) -> bool:
    return not value_at(spec, "resources.gpusPerNode")


def _partitions_weights(spec: Object) -> bool:
    return bool(value_at(spec, "deepspeed.zeroStage") == 3)


def _objective(name: str) -> Condition:
    return lambda spec: value_at(spec, "method.objective") == name


_ADAPTS = _is("method.tuning", "lora", "qlora")
# In this order: evaluations during training decide what comes after them.
_TABLE: tuple[tuple[str, Condition], ...] = (
    ("method.lora", _ADAPTS),
    ("method.quantization", lambda spec: value_at(spec, "method.tuning") == "qlora"),
    ("method.partial", lambda spec: value_at(spec, "method.tuning") == "partial"),
    *((f"method.{name}", _objective(name)) for name in ("dpo", "orpo", "kto", "reward")),
    ("model.revision", _model_from("hf://")),
    ("model.huggingFace", _model_from("hf://")),
    ("model.s3", _model_from("s3://", "job://")),
    ("dataset.huggingFace", _data_on_hub),
    ("dataset.chatTemplate", _data_is_rendered),
    ("dataset.checks.maxValidationOverlap", _holds_out),
    ("evaluation.everySteps", _holds_out),
    ("evaluation.samples", lambda spec: _holds_out(spec) and not _objective("reward")(spec)),
    ("evaluation.earlyStopping", _evaluates),
    ("evaluation.publish", _evaluates),
    ("hyperparameters.decaySteps", lambda spec: value_at(spec, "hyperparameters.schedule") == "wsd"),
    *(
        (f"hyperparameters.{name}", lambda spec: value_at(spec, "hyperparameters.optimizer") != "adafactor")
        for name in ("beta1", "beta2", "epsilon")
    ),
    ("hyperparameters.packing", _is("method.objective", "sft")),
    ("hyperparameters.compile", lambda spec: not (_partitions_weights(spec) or _is("method.tuning", "qlora")(spec))),
    ("resources.processesPerNode", _has_no_gpus),
    ("output.artifact", _ADAPTS),
)
# Of these a job has one: what it writes takes the place of what it does not.
_EITHER = (
    ("hyperparameters.epochs", "hyperparameters.maxSteps"),
    ("checkpoint.everySteps", "checkpoint.everySeconds"),
    ("dataset.validation.fraction", "dataset.validation.sources"),
)


def laid_under(defaults: Object, written: Object) -> Object:
    """``written`` over ``defaults``: maps are merged, everything else is taken whole; null counts as left out."""
    result = copy.deepcopy(defaults)
    for name, value in written.items():
        known = result.get(name)
        if isinstance(value, dict):
            result[name] = laid_under(known if isinstance(known, dict) else {}, value)
        elif value is not None:
            result[name] = copy.deepcopy(value)
    return result


# Fields of a profile's node, and what they are the default of in spec.resources.
_NODE_FIELDS = {"cpu": "cpu", "memory": "memory", "gpus": "gpusPerNode", "gpuResourceName": "gpuResourceName"}


def remembered_resources(manifest: Object) -> Object:
    """spec.resources as the manifest, the remembered profile and the remembered defaults give them, read without any
    judgement."""
    spec = value_at(manifest, "status.plan.profile.spec") or {}
    node = value_at(spec, "node") or {}
    given = {field: node[name] for name, field in _NODE_FIELDS.items() if node.get(name) is not None}
    given = laid_under(value_at(manifest, "status.plan.defaults.resources") or {}, given)
    return laid_under(given | (value_at(spec, "defaults.resources") or {}), value_at(manifest, "spec.resources") or {})


def applicable(defaults: Object, written: Object) -> Object:
    """The defaults without those that mean nothing to what the job asks for."""
    kept = copy.deepcopy(defaults)
    for pair in _EITHER:
        for chosen, other in (pair, pair[::-1]):
            if value_at(written, chosen) is not None:
                _remove(kept, other)
    for path, applies in _TABLE:
        if value_at(kept, path) is not None and not applies(laid_under(kept, written)):
            _remove(kept, path)
    return kept


def _remove(document: Object, path: str) -> None:
    *parents, last = path.split(".")
    group = value_at(document, ".".join(parents))
    if isinstance(group, dict):
        group.pop(last, None)
