"""What the commands say of a FineTuneJob, read from the resource as the API server gives it back. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from finetune_api.applicable import applicable, laid_under, remembered_resources
from finetune_api.base import Document
from finetune_api.defaults import filled, remembered_defaults
from finetune_api.outcomes import EXIT_CODE_OF_CLASS, ExitCode, FailureClass
from finetune_api.profile import NAMESPACE_PLACEHOLDER
from finetune_api.spec import OPERATOR, DeepSpeedSpec, HyperparametersSpec, MethodSpec, ResourcesSpec
from finetune_api.status import State
from finetune_cli.documents import Object, number_at, object_at, objects_at, text_at, time_at, value_at, whole_at

_DEFAULTS: dict[str, Callable[[], Document]] = {
    "method": MethodSpec,
    "hyperparameters": HyperparametersSpec,
    "resources": ResourcesSpec,
    "deepspeed": DeepSpeedSpec,
}
_COMPLETE, _FAILED = "Complete", "Failed"


def name_of(job: Object) -> str:
    return text_at(job, "metadata", "name")


def namespace_of(job: Object) -> str:
    return text_at(job, "metadata", "namespace")


def with_defaults(job: Object) -> Object:
    """The job with what its profile gave and the defaults that it began with; before it began, those of this version in
    the groups that it says little of."""
    written = object_at(job, "spec")
    given = applicable(object_at(job, "status", "plan", "profile", "spec", "defaults"), written)
    spec = laid_under(given, written) | {"resources": remembered_resources(job)}
    if destination := text_at(spec, "output", "destination"):
        spec["output"]["destination"] = destination.replace(NAMESPACE_PLACEHOLDER, namespace_of(job))
    spec = filled(spec, remembered_defaults(job))
    groups = {name: default().to_wire() | object_at(spec, name) for name, default in _DEFAULTS.items()}
    return job | {"spec": spec | groups}


def condition_of(job: Object, kind: str) -> Object:
    """One condition; empty where there is none."""
    found = (item for item in objects_at(job, "status", "conditions") if text_at(item, "type") == kind)
    return next(found, {})


def is_true(job: Object, kind: str) -> bool:
    return text_at(condition_of(job, kind), "status") == "True"


def is_complete(job: Object) -> bool:
    return is_true(job, _COMPLETE)


def is_failed(job: Object) -> bool:
    return is_true(job, _FAILED)


def is_final(job: Object) -> bool:
    """Whether the job will not change any more."""
    return is_complete(job) or is_failed(job)


def state_of(job: Object) -> str:
    """The word for people; Pending while the operator has not seen the job."""
    return text_at(job, "status", "state") or State.PENDING.value


def other_manager(job: Object) -> str:
    """The controller that ``spec.managedBy`` names in place of the operator; empty where that is the operator."""
    named = text_at(job, "spec", "managedBy")
    return "" if named == OPERATOR else named


def telling_condition(job: Object) -> Object:
    """The condition that says why the job is where it is."""
    order = (_FAILED, _COMPLETE, "Suspended", "Reconciling", "Running")
    true = (condition_of(job, kind) for kind in order if is_true(job, kind))
    return next(true, condition_of(job, "Reconciling"))


def reason_of(job: Object) -> str:
    return text_at(telling_condition(job), "reason")


def message_of(job: Object) -> str:
    """Why the job is where it is, in words."""
    if not value_at(job, "status", "state"):
        manager = other_manager(job)
        return f"left to {manager}, which spec.managedBy names" if manager else "the operator has not seen this job yet"
    return text_at(telling_condition(job), "message")


def processes_per_node(job: Object) -> int:
    """Ranks of one training pod: one per GPU, or as many as asked for in CPU training."""
    asked = remembered_resources(job)
    return whole_at(asked, "gpusPerNode") or whole_at(asked, "processesPerNode") or 1


def nodes_of(job: Object) -> int:
    """Training pods."""
    return whole_at(remembered_resources(job), "nodes") or 1


def gpus_of(job: Object) -> int:
    """GPUs of all training pods."""
    return nodes_of(job) * (whole_at(remembered_resources(job), "gpusPerNode") or 0)


def model_of(job: Object) -> str:
    return text_at(job, "spec", "model", "name") or text_at(job, "spec", "model", "source")


def created(job: Object) -> datetime | None:
    return time_at(job, "metadata", "creationTimestamp")


def progress_of(job: Object) -> Object:
    return object_at(job, "status", "progress")


def fraction_done(job: Object) -> float | None:
    """Share of the optimizer steps that are done, from 0 to 1; None before training."""
    step, total = whole_at(progress_of(job), "step"), whole_at(progress_of(job), "totalSteps")
    if step is None or not total:
        return None
    return min(1.0, step / total)


def attempt_of(job: Object) -> int:
    """Number of the newest attempt; 0 before the first."""
    numbers = [whole_at(item, "number") or 0 for item in objects_at(job, "status", "attempts")]
    return max(numbers, default=0)


def held_out_loss(job: Object) -> float | None:
    """The newest held-out loss."""
    after = number_at(job, "status", "evaluation", "lossAfter")
    return after if after is not None else number_at(progress_of(job), "evalLoss")


def exit_code_of(job: Object) -> int:
    """The exit code that stands for a finished job: 0 when Complete, else that of its failure class."""
    if is_complete(job):
        return ExitCode.SUCCESS
    named = text_at(job, "status", "failure", "class")
    known = {failure.value: failure for failure in FailureClass}
    return EXIT_CODE_OF_CLASS.get(known[named], ExitCode.INTERNAL) if named in known else ExitCode.INTERNAL


def event_time(event: Object) -> datetime | None:
    """When an Event happened, in whichever of its fields says so."""
    places = (("eventTime",), ("deprecatedLastTimestamp",), ("metadata", "creationTimestamp"))
    return next((moment for place in places if (moment := time_at(event, *place))), None)
