"""What a profile allows: every way in which an effective spec is out of its bounds, with the remedy. Pure."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from finetune_api.base import quantity_value
from finetune_api.profile import (
    NAMESPACE_PLACEHOLDER,
    BoundsSpec,
    DecimalRange,
    FineTuneProfileSpec,
    IntegerRange,
    LimitsSpec,
    ModelRule,
    NodeShape,
    QuantityRange,
)
from finetune_api.spec import FineTuneJobSpec, S3Access, WeightsSource
from finetune_api.weights import weight_sources, weights_field

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
Range = IntegerRange | DecimalRange | QuantityRange


@dataclass(frozen=True)
class Violation:
    """A field that is out of bounds.

    Attributes:
        field: its path.
        value: what the job comes to.
        bound: what the profile says of it.
        remedy: what to do.
    """

    field: str
    value: object
    bound: str
    remedy: str

    def __str__(self) -> str:
        value = "is not set" if self.value is None else f"{self.value}"
        return f"{self.field}: {value}: {self.bound}; {self.remedy}"


def out_of_bounds(spec: FineTuneJobSpec, profile: FineTuneProfileSpec, namespace: str) -> tuple[Violation, ...]:
    """Every way in which an effective spec is out of a profile's bounds, in the order of the spec's fields."""
    bounds = profile.bounds or BoundsSpec()
    return (
        *_models(spec, bounds.models),
        *_prefixes(spec, bounds, namespace),
        *_endpoints(spec, bounds.endpoints),
        *_chosen(spec, bounds),
        *_named("spec.output.serviceAccountName", spec.output.service_account_name, bounds.service_accounts),
        *outside_run_policy(spec, profile),
        *_numbers(spec, bounds.limits or LimitsSpec()),
        *_shape(spec, profile.node),
        *_selected(spec, profile),
    )


def outside_run_policy(spec: FineTuneJobSpec, profile: FineTuneProfileSpec) -> tuple[Violation, ...]:
    """What is out of bounds among the names that may change while a job runs."""
    bounds = profile.bounds or BoundsSpec()
    return (
        *_named("spec.queueName", spec.queue_name, bounds.queues, needed=True),
        *_named("spec.priorityClassName", spec.priority_class_name, bounds.priority_classes),
    )


def _named(field: str, name: str | None, allowed: tuple[str, ...] | None, needed: bool = False) -> Iterator[Violation]:
    """``needed``: without a name the job would not be bounded at all."""
    if allowed is None or (name is None and not needed):
        return
    if name is None or not any(fnmatch.fnmatchcase(name, _pattern(item)) for item in allowed):
        remedies = ("set it to one of these",) * bool(allowed) + ("remove it",) * (not needed)
        remedy = " or ".join(remedies) or "ask for another profile"
        yield Violation(field, name, f"the profile allows {_listed(allowed)}", remedy)


def too_many_steps(profile: FineTuneProfileSpec, steps: int) -> Violation | None:
    """Whether a run is longer than a profile allows, which is known of epochs once the rows are counted."""
    limits = (profile.bounds or BoundsSpec()).limits or LimitsSpec()
    if limits.max_steps is None or limits.max_steps.max is None or steps <= limits.max_steps.max:
        return None
    most = limits.max_steps.max
    remedy = f"set spec.hyperparameters.maxSteps to at most {most}, or fewer epochs"
    return Violation("spec.hyperparameters.epochs", f"{steps} optimizer steps", f"at most {most}", remedy)


def _models(spec: FineTuneJobSpec, rules: tuple[ModelRule, ...] | None) -> Iterator[Violation]:
    if rules is None:
        return
    for use, weights in weight_sources(spec).items():
        if not weights.source.startswith("job://"):
            yield from _weights(weights_field(spec, use), weights, rules)


def _weights(field: str, weights: WeightsSource, rules: tuple[ModelRule, ...]) -> Iterator[Violation]:
    source, revision = weights.source, weights.revision
    fitting = [rule for rule in rules if fnmatch.fnmatchcase(source, _pattern(rule.source))]
    if not fitting:
        allowed = _listed(rule.source for rule in rules)
        yield Violation(f"{field}.source", source, f"the profile allows {allowed}", "name one of these models")
    elif source.startswith("hf://") and not any(_revision_fits(rule, revision or "main") for rule in fitting):
        allowed = " or ".join(_described_revisions(rule) for rule in fitting)
        yield Violation(
            f"{field}.revision", revision or "main", f"the profile asks for {allowed}", f"set {field}.revision"
        )


def _pattern(text: str) -> str:
    """As fnmatch reads it: only * is special."""
    return text.replace("[", "[[]").replace("?", "[?]")


def _revision_fits(rule: ModelRule, revision: str) -> bool:
    named = rule.revisions is None or any(fnmatch.fnmatchcase(revision, _pattern(item)) for item in rule.revisions)
    return named and (not rule.pinned or _COMMIT.fullmatch(revision) is not None)


def _described_revisions(rule: ModelRule) -> str:
    named = "any revision" if rule.revisions is None else _listed(rule.revisions)
    return "a full commit" if rule.pinned and rule.revisions is None else named + " as a commit" * rule.pinned


def _prefixes(spec: FineTuneJobSpec, bounds: BoundsSpec, namespace: str) -> Iterator[Violation]:
    if bounds.data is not None:
        allowed = [prefix.replace(NAMESPACE_PLACEHOLDER, namespace) for prefix in bounds.data]
        for field, source in _data_sources(spec):
            yield from _outside(field, source, allowed, "read data below one of these")
    if bounds.destinations is not None:
        allowed = [prefix.replace(NAMESPACE_PLACEHOLDER, namespace) for prefix in bounds.destinations]
        yield from _published_outside(spec.output.destination, namespace, allowed)


def _data_sources(spec: FineTuneJobSpec) -> Iterator[tuple[str, str]]:
    for index, source in enumerate(spec.dataset.train):
        yield f"spec.dataset.train[{index}].source", source.source
    held_out = (spec.dataset.validation.sources if spec.dataset.validation else None) or ()
    for index, source in enumerate(held_out):
        yield f"spec.dataset.validation.sources[{index}].source", source.source


def _published_outside(destination: str, namespace: str, allowed: list[str]) -> Iterator[Violation]:
    """What a job writes is below its namespace's folder in the destination, and that is what is bounded."""
    folder = f"{destination.rstrip('/')}/{namespace}"
    if not any(below(folder, prefix) for prefix in allowed):
        told = f"the profile allows {_listed(allowed)} for {folder}"
        yield Violation("spec.output.destination", destination, told, "publish below one of these")


def _outside(field: str, uri: str, allowed: list[str], remedy: str) -> Iterator[Violation]:
    if not any(below(uri, prefix) for prefix in allowed):
        yield Violation(field, uri, f"the profile allows {_listed(allowed)}", remedy)


def below(uri: str, prefix: str) -> bool:
    """Whether a URI is a prefix or below it. Whole path segments count: s3://b/team is not above s3://b/team-2, and a
    segment ``..`` leads nowhere that could be trusted."""
    whole = prefix.rstrip("/") if not prefix.endswith("://") else prefix
    if ".." in uri.split("/"):
        return False
    return uri == whole or uri.startswith(whole if whole.endswith("/") else f"{whole}/")


def _endpoints(spec: FineTuneJobSpec, allowed: tuple[str, ...] | None) -> Iterator[Violation]:
    if allowed is None:
        return
    for field, access in _accesses(spec):
        if access.endpoint_url is None or access.endpoint_url.rstrip("/") not in {url.rstrip("/") for url in allowed}:
            yield Violation(
                f"{field}.endpointURL",
                access.endpoint_url,
                f"the profile allows {_listed(allowed)}",
                "set it to one of these",
            )


def _accesses(spec: FineTuneJobSpec) -> Iterator[tuple[str, S3Access]]:
    for use, weights in weight_sources(spec).items():
        if weights.s3:
            yield f"{weights_field(spec, use)}.s3", weights.s3
    for index, source in enumerate(spec.dataset.train):
        if source.s3:
            yield f"spec.dataset.train[{index}].s3", source.s3
    held_out = (spec.dataset.validation.sources if spec.dataset.validation else None) or ()
    for index, source in enumerate(held_out):
        if source.s3:
            yield f"spec.dataset.validation.sources[{index}].s3", source.s3
    yield "spec.output.s3", spec.output.s3


def _chosen(spec: FineTuneJobSpec, bounds: BoundsSpec) -> Iterator[Violation]:
    pairs = (
        ("spec.method.objective", spec.method.objective, bounds.objectives),
        ("spec.method.tuning", spec.method.tuning, bounds.tunings),
    )
    for field, value, allowed in pairs:
        if allowed is not None and value not in allowed:
            yield Violation(field, value.value, f"the profile allows {_listed(allowed)}", "set it to one of these")


_Value = Callable[[FineTuneJobSpec], str | int | None]


def _rank(spec: FineTuneJobSpec) -> int | None:
    options = spec.method.tuning_options.get("lora")
    return getattr(options, "rank", None)


def _epochs(spec: FineTuneJobSpec) -> int | None:
    return None if spec.hyperparameters.max_steps else spec.hyperparameters.epochs or 1


def _gpus(spec: FineTuneJobSpec) -> int:
    return spec.resources.nodes * spec.resources.gpus_per_node


# Each limit with the field that it bounds, and the value of that in a spec; None where the field plays no part.
_LIMITED: dict[str, tuple[str, _Value]] = {
    "rank": ("spec.method.lora.rank", _rank),
    "learning_rate": ("spec.hyperparameters.learningRate", lambda spec: spec.hyperparameters.learning_rate),
    "epochs": ("spec.hyperparameters.epochs", _epochs),
    "max_steps": ("spec.hyperparameters.maxSteps", lambda spec: spec.hyperparameters.max_steps),
    "global_batch_size": (
        "spec.hyperparameters.globalBatchSize",
        lambda spec: spec.hyperparameters.global_batch_size,
    ),
    "micro_batch_size": ("spec.deepspeed.microBatchSize", lambda spec: spec.deepspeed.micro_batch_size),
    "max_sequence_length": (
        "spec.hyperparameters.maxSequenceLength",
        lambda spec: spec.hyperparameters.max_sequence_length,
    ),
    "nodes": ("spec.resources.nodes", lambda spec: spec.resources.nodes),
    "gpus_per_node": ("spec.resources.gpusPerNode", lambda spec: spec.resources.gpus_per_node),
    "gpus": ("spec.resources.nodes times gpusPerNode", _gpus),
    "cpu": ("spec.resources.cpu", lambda spec: spec.resources.cpu),
    "memory": ("spec.resources.memory", lambda spec: spec.resources.memory),
}


def _numbers(spec: FineTuneJobSpec, limits: LimitsSpec) -> Iterator[Violation]:
    for name, (field, value_of) in _LIMITED.items():
        allowed: Range | None = getattr(limits, name)
        value = value_of(spec)
        if allowed is not None and value is not None:
            yield from _out_of_range(field, value, allowed)
    yield from _deadline(spec.active_deadline_seconds, limits.active_deadline_seconds)


def _deadline(seconds: int | None, allowed: IntegerRange | None) -> Iterator[Violation]:
    field = "spec.activeDeadlineSeconds"
    if allowed is None or (seconds is None and allowed.max is None):
        return
    if seconds is None:
        remedy = f"set it to at most {allowed.max}"
        yield Violation(field, None, f"the profile lets a job train for {allowed.max} s", remedy)
    else:
        yield from _out_of_range(field, seconds, allowed)


def within_deadline(spec: FineTuneJobSpec, profile: FineTuneProfileSpec) -> FineTuneJobSpec:
    """The spec of a running job whose deadline was raised since it began: what the profile allows counts."""
    limits = (profile.bounds or BoundsSpec()).limits or LimitsSpec()
    most = limits.active_deadline_seconds.max if limits.active_deadline_seconds else None
    if most is None or (spec.active_deadline_seconds or most + 1) <= most:
        return spec
    return spec.model_copy(update={"active_deadline_seconds": most})


def _out_of_range(field: str, value: str | int, allowed: Range) -> Iterator[Violation]:
    number = _number(allowed, value)
    if allowed.min is not None and number < _number(allowed, allowed.min):
        yield Violation(field, value, f"the profile asks for at least {allowed.min}", "raise it")
    if allowed.max is not None and number > _number(allowed, allowed.max):
        yield Violation(field, value, f"the profile allows at most {allowed.max}", "lower it")


def _number(allowed: Range, value: str | int) -> Decimal:
    return quantity_value(str(value)) if isinstance(allowed, QuantityRange) else Decimal(value)


def _shape(spec: FineTuneJobSpec, shape: NodeShape | None) -> Iterator[Violation]:
    """A pod that no node can hold would wait for ever."""
    if shape is None:
        return
    most = partial(QuantityRange, min=None)
    if shape.cpu is not None:
        yield from _too_large("spec.resources.cpu", spec.resources.cpu, most(max=shape.cpu))
    if shape.memory is not None:
        yield from _too_large("spec.resources.memory", spec.resources.memory, most(max=shape.memory))
    if shape.gpus is not None:
        gpus = IntegerRange(min=None, max=shape.gpus)
        yield from _too_large("spec.resources.gpusPerNode", spec.resources.gpus_per_node, gpus)


def _too_large(field: str, value: str | int, allowed: Range) -> Iterator[Violation]:
    for found in _out_of_range(field, value, allowed):
        yield Violation(field, value, f"a node of the profile has {allowed.max}", found.remedy)


def _selected(spec: FineTuneJobSpec, profile: FineTuneProfileSpec) -> Iterator[Violation]:
    given = (profile.scheduling.node_selector if profile.scheduling else None) or {}
    for key, value in (spec.resources.node_selector or {}).items():
        if given.get(key, value) != value:
            field = f"spec.resources.nodeSelector[{key}]"
            yield Violation(field, value, f"the profile places pods on nodes with {given[key]}", "remove it")


def _listed(values: Iterable[object]) -> str:
    texts = [str(value) for value in values]
    return ", ".join(texts) or "none"
