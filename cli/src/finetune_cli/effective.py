"""What a manifest comes to: every field with its effective value and origin, pods, GPUs and steps. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from finetune_api.job import FineTuneJob
from finetune_api.plan import claims_of, gradient_accumulation_steps, store_uses
from finetune_api.spec import FineTuneJobSpec
from finetune_api.uris import job_named
from finetune_cli.documents import Object, object_at
from finetune_cli.local.planning import secret_names


class Origin(StrEnum):
    MANIFEST = "manifest"
    DEFAULT = "default"


@dataclass(frozen=True)
class Effective:
    """One field: its path, the value that counts, and who gave it."""

    path: str
    value: Any
    origin: Origin


@dataclass(frozen=True)
class Forecast:
    """What a job will do, as far as its manifest says.

    Attributes:
        pods: training pods, each on a node of its own shape.
        gpus: GPUs of all training pods.
        processes: training processes (ranks) over all pods.
        accumulation: micro-batches per process and optimizer step.
        steps: optimizer steps; None while they depend on the number of rows.
        secrets: Secrets that must exist in the namespace.
        claims: PersistentVolumeClaims that must exist there.
        upstream: job whose result it starts from; None for none.
        stores: endpoints of object stores that it reads or writes; empty text for that of the environment.
    """

    pods: int
    gpus: int
    processes: int
    accumulation: int
    steps: int | None
    secrets: tuple[str, ...]
    claims: tuple[str, ...]
    upstream: str | None
    stores: tuple[str, ...]

    def to_wire(self) -> Object:
        """As JSON."""
        return {
            "pods": {"prepare": 1, "train": self.pods},
            "gpus": self.gpus,
            "processes": self.processes,
            "gradientAccumulationSteps": self.accumulation,
            "steps": self.steps,
            "needs": {"secrets": list(self.secrets), "claims": list(self.claims), "job": self.upstream},
        }


def effective_fields(given: Object, job: FineTuneJob) -> tuple[Effective, ...]:
    """Every field of the effective spec with its origin, in the order of the reference.

    Args:
        given: the manifest as it was written.
        job: the same, valid and with the schema's defaults.
    """
    written, order = object_at(given, "spec"), list(FineTuneJobSpec.model_fields.values())
    effective = job.spec.to_wire()
    for path, value in _implied(job.spec):
        _set(effective, path, value)
    names = [field.alias or "" for field in order]
    ordered = {name: effective[name] for name in sorted(effective, key=names.index)}
    return tuple(_walk(written, ordered, "spec"))


def _implied(spec: FineTuneJobSpec) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Defaults that depend on other fields, which a schema cannot give."""
    if spec.hyperparameters.epochs is None and spec.hyperparameters.max_steps is None:
        yield ("hyperparameters", "epochs"), 1
    if spec.resources.gpus_per_node == 0 and spec.resources.processes_per_node is None:
        yield ("resources", "processesPerNode"), spec.resources.processes
    # Whoever continues the adapter of another job takes its options from there.
    if job_named(spec.model.source) is None:
        for name, options in spec.method.tuning_options.items():
            if getattr(spec.method, name) is None:
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


def _walk(given: Any, effective: Any, path: str) -> Iterator[Effective]:
    if isinstance(effective, dict) and effective:
        for name, value in effective.items():
            yield from _walk(given.get(name) if isinstance(given, dict) else None, value, f"{path}.{name}")
    elif isinstance(effective, list) and any(isinstance(item, dict) for item in effective):
        for index, value in enumerate(effective):
            item = given[index] if isinstance(given, list) and index < len(given) else None
            yield from _walk(item, value, f"{path}[{index}]")
    elif effective != {}:
        yield Effective(path, effective, Origin.DEFAULT if given is None else Origin.MANIFEST)


def forecast(job: FineTuneJob) -> Forecast:
    """What a valid job will do."""
    spec = job.spec
    return Forecast(
        pods=spec.resources.nodes,
        gpus=spec.resources.nodes * spec.resources.gpus_per_node,
        processes=spec.resources.world_size,
        accumulation=gradient_accumulation_steps(spec),
        steps=spec.hyperparameters.max_steps,
        secrets=secret_names(spec),
        claims=claims_of(spec),
        upstream=job_named(spec.model.source),
        stores=_stores(spec),
    )


def _stores(spec: FineTuneJobSpec) -> tuple[str, ...]:
    return tuple(sorted({access.endpoint_url or "" for access in store_uses(spec).values()}))


def plan_document(job: FineTuneJob, fields: tuple[Effective, ...]) -> Object:
    """The plan of a valid job as JSON."""
    listed = [{"path": field.path, "value": field.value, "origin": field.origin.value} for field in fields]
    named = {"name": job.metadata.name, "namespace": job.metadata.namespace}
    return {"valid": True, **named, **forecast(job).to_wire(), "fields": listed}
