"""What a manifest comes to: every field with its effective value and origin, pods, GPUs and steps. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api import effective
from finetune_api.effective import Effective, given_by
from finetune_api.job import FineTuneJob
from finetune_api.plan import claims_of, gradient_accumulation_steps, store_uses
from finetune_api.profile import FineTuneProfileSpec
from finetune_api.spec import FineTuneJobSpec
from finetune_api.weights import jobs_needed
from finetune_cli.documents import Object, object_at
from finetune_cli.local.planning import secret_names


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
        upstreams: jobs whose results it starts from.
        stores: endpoints of object stores that it reads or writes; empty text for that of the environment.
    """

    pods: int
    gpus: int
    processes: int
    accumulation: int
    steps: int | None
    secrets: tuple[str, ...]
    claims: tuple[str, ...]
    upstreams: tuple[str, ...]
    stores: tuple[str, ...]

    def to_wire(self) -> Object:
        """As JSON."""
        return {
            "pods": {"prepare": 1, "train": self.pods},
            "gpus": self.gpus,
            "processes": self.processes,
            "gradientAccumulationSteps": self.accumulation,
            "steps": self.steps,
            "needs": {"secrets": list(self.secrets), "claims": list(self.claims), "jobs": list(self.upstreams)},
        }


def effective_fields(
    given: Object, job: FineTuneJob, profile: FineTuneProfileSpec | None = None
) -> tuple[Effective, ...]:
    """Every field of the effective spec with its origin, in the order of the reference.

    Args:
        given: the manifest as it was written.
        job: the same, valid and effective.
        profile: what it runs under.
    """
    written = object_at(given, "spec")
    return effective.effective_fields(written, given_by(profile, written, job.metadata.namespace), job.spec)


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
        upstreams=tuple(dict.fromkeys(jobs_needed(spec).values())),
        stores=_stores(spec),
    )


def _stores(spec: FineTuneJobSpec) -> tuple[str, ...]:
    return tuple(sorted({access.endpoint_url or "" for access in store_uses(spec).values()}))


def plan_document(job: FineTuneJob, fields: tuple[Effective, ...]) -> Object:
    """The plan of a valid job as JSON."""
    listed = [{"path": field.path, "value": field.value, "origin": field.origin.value.lower()} for field in fields]
    named = {"name": job.metadata.name, "namespace": job.metadata.namespace}
    return {"valid": True, **named, **forecast(job).to_wire(), "fields": listed}
