"""The effective spec: what the manifest says, what its profile gives, and the defaults of the rest. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from finetune_api.applicable import applicable, laid_under, value_at
from finetune_api.base import Object
from finetune_api.cel import violations
from finetune_api.crd import effective_spec_schema
from finetune_api.defaults import filled, known_to, left_out, remembered_defaults
from finetune_api.job import FineTuneJob
from finetune_api.profile import NAMESPACE_PLACEHOLDER, FineTuneProfileSpec
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import EffectiveField, FineTuneJobStatus, Origin
from finetune_api.upstream import Upstream
from finetune_api.uris import job_named

_LONGEST_VALUE = 512
# Where it is left out, a run ID has no number of epochs: writing 1 into the spec would give the same run another ID.
_NAMELESS = ("hyperparameters", "epochs")


@dataclass(frozen=True)
class Effective:
    """One field: its path, the value that counts, and who gave it."""

    path: str
    value: Any
    origin: Origin


def given_by(profile: FineTuneProfileSpec | None, written: Object, namespace: str) -> Object:
    """What a profile gives a job, in the shape of a spec: its defaults that mean anything to it."""
    if profile is None:
        return {}
    defaults = laid_under(_of_nodes(profile), profile.defaults or {})
    destination = value_at(defaults, "output.destination")
    if isinstance(destination, str):
        named = {"output": {"destination": destination.replace(NAMESPACE_PLACEHOLDER, namespace)}}
        defaults = laid_under(defaults, named)
    return applicable(defaults, written)


def _of_nodes(profile: FineTuneProfileSpec) -> Object:
    """A job that says nothing of its resources gets whole nodes."""
    shape = profile.node
    if shape is None:
        return {}
    resources = {
        "cpu": shape.cpu,
        "memory": shape.memory,
        "gpusPerNode": shape.gpus,
        "gpuResourceName": shape.gpu_resource_name,
    }
    return {"resources": {name: value for name, value in resources.items() if value is not None}}


def snapshot_of(manifest: Object) -> FineTuneProfileSpec | None:
    """The profile that a job runs under, as its status remembers it; None without one.

    Raises:
        pydantic.ValidationError: it is of another version.
    """
    known = value_at(manifest, "status.plan.profile.spec")
    return None if known is None else FineTuneProfileSpec.model_validate(known)


def effective_job(manifest: Object, profile: FineTuneProfileSpec | None, defaults: Object | None = None) -> FineTuneJob:
    """The job with its effective spec, and no status.

    Args:
        manifest: the job as it was written.
        profile: what it runs under.
        defaults: built-in defaults that it began with, which count for it instead of those of this version.

    Raises:
        pydantic.ValidationError: the spec lacks a field that neither the manifest nor the profile gives, or does not
            follow the schema.
    """
    written = manifest.get("spec") or {}
    namespace = manifest["metadata"].get("namespace", "default")
    spec = laid_under(given_by(profile, written, namespace), written)
    spec = filled(spec, known_to(effective_spec_schema(), defaults or {}))
    return FineTuneJob.from_manifest({**manifest, "spec": spec, "status": {}})


def remembered_job(manifest: Object) -> FineTuneJob:
    """The job with its effective spec, by the profile and the defaults that its status remembers, and with that status.

    Raises:
        pydantic.ValidationError: as :func:`effective_job`, or the status cannot be read.
    """
    status = FineTuneJobStatus.model_validate(manifest.get("status") or {})
    job = effective_job(manifest, snapshot_of(manifest), remembered_defaults(manifest))
    return job.model_copy(update={"status": status})


def built_in(written: Object, given: Object, spec: FineTuneJobSpec, upstream: Upstream | None = None) -> Object:
    """The built-in defaults that count in an effective spec: what neither its manifest nor its profile says.

    Args:
        written: the spec as the manifest has it.
        given: what the profile gives, see :func:`given_by`.
        spec: the effective spec.
        upstream: the job whose result is the model, as far as it is known.
    """
    effective = spec.to_wire()
    for path, value in _implied(spec, upstream):
        if path != _NAMELESS:
            _set(effective, path, value)
    return left_out(effective, laid_under(given, written)) or {}


def defaults_of(
    manifest: Object, job: FineTuneJob, profile: FineTuneProfileSpec | None, upstream: Upstream | None
) -> Object:
    """The built-in defaults of a job, as far as it is known which of them count.

    Args:
        manifest: the job as it was written.
        job: the same, effective.
        profile: what it runs under.
        upstream: the job whose result is the model, as far as it is known.
    """
    written = manifest.get("spec") or {}
    return built_in(written, given_by(profile, written, job.metadata.namespace), job.spec, upstream)


def effective_fields(
    written: Object, given: Object, spec: FineTuneJobSpec, planned: Collection[str] = ()
) -> tuple[Effective, ...]:
    """Every field of an effective spec with its origin, in the order of the reference.

    Args:
        written: the spec as the manifest has it.
        given: what the profile gives, see :func:`given_by`.
        planned: paths of fields that an attempt changed.
    """
    effective = spec.to_wire()
    for path, value in _implied(spec):
        _set(effective, path, value)
    return tuple(_walk(written, given, known_to(effective_spec_schema(), effective), "spec", planned))


def told_fields(fields: tuple[Effective, ...]) -> tuple[EffectiveField, ...]:
    """The fields as a status tells them: values as text, long ones cut."""
    return tuple(EffectiveField(path=item.path, value=_text(item.value), origin=item.origin) for item in fields)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def _implied(spec: FineTuneJobSpec, upstream: Upstream | None = None) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Defaults that depend on other fields, which a schema cannot give."""
    if spec.hyperparameters.epochs is None and spec.hyperparameters.max_steps is None:
        yield _NAMELESS, 1
    if spec.resources.gpus_per_node == 0 and spec.resources.processes_per_node is None:
        yield ("resources", "processesPerNode"), spec.resources.processes
    # Whoever continues the adapter of another job takes its options from there.
    may_continue = job_named(spec.model.source) is not None and (upstream is None or upstream.is_adapter)
    for name, options in spec.method.tuning_options.items():
        if getattr(spec.method, name) is None and not (name == "lora" and may_continue):
            yield ("method", name), options.to_wire()
    objective, options_of = spec.method.objective.value, spec.method.objective_options
    if options_of is not None and getattr(spec.method, objective) is None:
        yield ("method", objective), options_of.to_wire()
    if spec.model.source.startswith("hf://") and spec.model.revision is None:
        yield ("model", "revision"), "main"


def _set(document: Object, path: tuple[str, ...], value: Any) -> None:
    *parents, last = path
    for name in parents:
        document = document[name]
    document[last] = value


def _walk(written: Any, given: Any, effective: Any, path: str, planned: Collection[str]) -> Iterator[Effective]:
    if isinstance(effective, dict) and effective:
        for name, value in effective.items():
            yield from _walk(_part(written, name), _part(given, name), value, f"{path}.{name}", planned)
    elif isinstance(effective, list) and any(isinstance(item, dict) for item in effective):
        for index, value in enumerate(effective):
            yield from _walk(_part(written, index), _part(given, index), value, f"{path}[{index}]", planned)
    elif effective != {}:
        yield Effective(path, effective, Origin.PLANNED if path in planned else _origin(written, given))


def _part(document: Any, key: str | int) -> Any:
    if isinstance(key, str):
        return document.get(key) if isinstance(document, dict) else None
    return document[key] if isinstance(document, list) and key < len(document) else None


def _origin(written: Any, given: Any) -> Origin:
    if written is not None:
        return Origin.MANIFEST
    return Origin.DEFAULT if given is None else Origin.PROFILE


def broken_rules(spec: FineTuneJobSpec) -> tuple[str, ...]:
    """What is wrong with an effective spec across its fields, every broken rule at once.

    The API server has held the rules against what was written; a default may break one that it could not decide.
    """
    found = violations(spec.to_wire(), effective_spec_schema(), "spec")
    return tuple(f"{broken.path}: {broken.message}" for broken in found)
