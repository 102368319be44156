"""Pure edits of the status: stages, attempts and what prepare found."""

from __future__ import annotations

from datetime import datetime

from finetune_api.base import Object
from finetune_api.outcomes import Stage
from finetune_api.plan import gradient_accumulation_steps
from finetune_api.results import Prepared
from finetune_api.serving import serving_notes
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import (
    AttemptStatus,
    EffectiveField,
    FineTuneJobStatus,
    PlanStatus,
    ProfileSnapshot,
    StageStatus,
)

_ORDER = tuple(Stage)

# A job may be suspended a thousand times: its status keeps how it began and how it goes on.
FIRST_ATTEMPTS, LAST_ATTEMPTS = 20, 80


def attempt_number(status: FineTuneJobStatus) -> int:
    """The attempt that is under way or comes next."""
    if not status.attempts:
        return 1
    last = status.attempts[-1]
    return last.number + (1 if last.finished else 0)


def open_attempt(status: FineTuneJobStatus) -> AttemptStatus | None:
    """The attempt that was started and has not ended, as far as the status knows."""
    return next((attempt for attempt in status.attempts if attempt.finished is None), None)


def with_stage(status: FineTuneJobStatus, stage: StageStatus) -> FineTuneJobStatus:
    """The status with one stage's entry replaced."""
    others = [entry for entry in status.stages if entry.name is not stage.name]
    stages = sorted((*others, stage), key=lambda entry: _ORDER.index(entry.name))
    return status.model_copy(update={"stages": tuple(stages)})


def stage_of(status: FineTuneJobStatus, name: Stage) -> StageStatus:
    return next((entry for entry in status.stages if entry.name is name), StageStatus(name=name))


def entered(status: FineTuneJobStatus, name: Stage, now: datetime) -> FineTuneJobStatus:
    """The status when a stage of the training pods is under way: those before it are done."""
    for earlier in _ORDER[: _ORDER.index(name)]:
        entry = stage_of(status, earlier)
        if entry.finished is None:
            done = {"started": entry.started or now, "finished": now}
            status = with_stage(status, entry.model_copy(update=done))
    entry = stage_of(status, name)
    return status if entry.started else with_stage(status, entry.model_copy(update={"started": now}))


def finished(status: FineTuneJobStatus, now: datetime) -> FineTuneJobStatus:
    """The status when the last stage is done."""
    status = entered(status, Stage.PUBLISH, now)
    return with_stage(status, stage_of(status, Stage.PUBLISH).model_copy(update={"finished": now}))


def stage_reached(status: FineTuneJobStatus) -> Stage:
    """The furthest stage that the status knows of: reports may be missing after a restart of the operator."""
    started = [entry.name for entry in status.stages if entry.started and entry.name is not Stage.PREPARE]
    return started[-1] if started else Stage.TRAIN


def with_attempt(status: FineTuneJobStatus, attempt: AttemptStatus) -> FineTuneJobStatus:
    """The status with one attempt's entry replaced."""
    others = [entry for entry in status.attempts if entry.number != attempt.number]
    attempts = sorted((*others, attempt), key=lambda entry: entry.number)
    return status.model_copy(update={"attempts": _bounded(tuple(attempts))})


def running(status: FineTuneJobStatus, now: datetime) -> FineTuneJobStatus:
    """The status when all pods of the open attempt run."""
    attempt = open_attempt(status)
    if attempt is None or attempt.running:
        return status
    return with_attempt(status, attempt.model_copy(update={"running": now}))


def _bounded(attempts: tuple[AttemptStatus, ...]) -> tuple[AttemptStatus, ...]:
    if len(attempts) <= FIRST_ATTEMPTS + LAST_ATTEMPTS:
        return attempts
    return attempts[:FIRST_ATTEMPTS] + attempts[-LAST_ATTEMPTS:]


def ended_attempt(
    status: FineTuneJobStatus, number: int, outcome: str, message: str, now: datetime, node: str | None = None
) -> FineTuneJobStatus:
    """The status when an attempt is over; the stages of its pods begin anew with the next one."""
    known = next((entry for entry in status.attempts if entry.number == number), AttemptStatus(number=number))
    end = {"finished": now, "outcome": outcome, "message": message[:1024] or None, "node": node}
    done = known.model_copy(update=end)
    kept = tuple(entry for entry in status.stages if entry.name is Stage.PREPARE)
    return with_attempt(status, done).model_copy(update={"stages": kept})


def requeued(status: FineTuneJobStatus) -> FineTuneJobStatus:
    """The status when the pods of the open attempt wait in their queue, once more if they ran before."""
    attempt = open_attempt(status)
    if attempt is None:
        return status
    # What was seen of its pods while they ended says nothing of the next ones.
    fresh: dict[str, object] = {"outcome": None, "message": None, "node": None}
    if attempt.running is None:
        return with_attempt(status, attempt.model_copy(update=fresh))
    fresh |= {"running": None, "first_step": None, "evictions": (attempt.evictions or 0) + 1}
    kept = tuple(entry for entry in status.stages if entry.name is Stage.PREPARE)
    return with_attempt(status, attempt.model_copy(update=fresh)).model_copy(update={"stages": kept})


def announced(status: FineTuneJobStatus, change: str | None) -> FineTuneJobStatus:
    """The status with what comes of the end of the last attempt."""
    return with_attempt(status, status.attempts[-1].model_copy(update={"change": change}))


def first_plan(
    spec: FineTuneJobSpec,
    profile: ProfileSnapshot | None,
    fields: tuple[EffectiveField, ...],
    defaults: Object | None = None,
) -> PlanStatus:
    """What is decided before the inputs are looked at."""
    return PlanStatus(
        attempt=1,
        world_size=spec.resources.world_size,
        micro_batch_size=spec.deepspeed.micro_batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps(spec),
        zero_stage=spec.deepspeed.zero_stage,
        profile=profile,
        defaults=defaults,
        fields=fields,
    )


def with_defaults(status: FineTuneJobStatus, defaults: Object) -> FineTuneJobStatus:
    """The status with the built-in defaults that count, where it remembers any: an older version wrote none."""
    if status.plan is None or status.plan.defaults is None:
        return status
    return status.model_copy(update={"plan": status.plan.model_copy(update={"defaults": defaults})})


def with_fields(status: FineTuneJobStatus, fields: tuple[EffectiveField, ...]) -> FineTuneJobStatus:
    """The status with what each field of the spec comes to."""
    if status.plan is None:
        return status
    return status.model_copy(update={"plan": status.plan.model_copy(update={"fields": fields})})


def with_prepared(
    status: FineTuneJobStatus,
    spec: FineTuneJobSpec,
    prepared: Prepared,
    number: int,
    started: datetime | None,
    now: datetime,
) -> FineTuneJobStatus:
    """The status when prepare has resolved the run; ``spec`` is that of the attempt, with its adjustments."""
    plan = PlanStatus(
        attempt=number,
        world_size=spec.resources.world_size,
        micro_batch_size=spec.deepspeed.micro_batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps(spec),
        zero_stage=spec.deepspeed.zero_stage,
        avoided_nodes=status.plan.avoided_nodes if status.plan else (),
        profile=status.plan.profile if status.plan else None,
        defaults=status.plan.defaults if status.plan else None,
        fields=status.plan.fields if status.plan else None,
        total_steps=prepared.steps,
        model_digest=prepared.model_digest,
        model_revision=prepared.model_revision,
        adapter=prepared.adapter,
        reference=prepared.reference,
        data_uri=prepared.data_uri,
        train=prepared.train,
        validation=prepared.validation,
        data=prepared.data,
        notes=serving_notes(spec.method) or None,
    )
    stage = StageStatus(name=Stage.PREPARE, started=started, finished=now, message=_summary(prepared))
    return with_stage(status.model_copy(update={"run_id": prepared.run_id, "plan": plan}), stage)


def _summary(prepared: Prepared) -> str:
    held_out = f", {prepared.validation.rows} held out" if prepared.validation else ""
    truncated = f", {prepared.train.truncated} truncated" if prepared.train.truncated else ""
    refused = f", {prepared.data.refused} refused" if prepared.data and prepared.data.refused else ""
    return f"{prepared.train.rows} rows, {prepared.train.tokens} tokens{refused}{truncated}{held_out}"


def prepared_from(status: FineTuneJobStatus, number: int) -> Prepared | None:
    """What prepare found for an attempt, as the status remembers it."""
    plan = status.plan
    if plan is None or plan.attempt != number or status.run_id is None:
        return None
    if plan.model_digest is None or plan.data_uri is None or plan.train is None or plan.total_steps is None:
        return None
    return Prepared(
        run_id=status.run_id,
        model_digest=plan.model_digest,
        model_revision=plan.model_revision,
        adapter=plan.adapter,
        reference=plan.reference,
        data_uri=plan.data_uri,
        train=plan.train,
        validation=plan.validation,
        data=plan.data,
        steps=plan.total_steps,
    )
