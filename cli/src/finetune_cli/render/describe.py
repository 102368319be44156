"""The page of ``finetune describe``. Pure.

Parts that are known have a layout of their own. Whatever else a status holds follows field by field, so that a newer
operator's fields show up in an older command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from finetune_api.status import Origin
from finetune_cli import jobview
from finetune_cli.documents import (
    Object,
    leaves,
    number_at,
    object_at,
    objects_at,
    scalar_text,
    text_at,
    time_at,
    whole_at,
)
from finetune_cli.render.joblist import plain_table
from finetune_cli.render.words import NOTHING, age, bar, loss, number, percent, size, spelled, state_text, took

_BAR_WIDTH = 40
# Shown by a layout of their own, or in the head.
_KNOWN = frozenset(
    (
        "conditions",
        "observedGeneration",
        "state",
        "runID",
        "plan",
        "stages",
        "progress",
        "attempts",
        "artifact",
        "evaluation",
        "failure",
        "startTime",
        "completionTime",
    )
)
_STYLES = {"True": "green", "False": "dim", "Unknown": "yellow", "Warning": "yellow", "Normal": ""}
# Of the plan: shown apart, or in the resource only.
_UNTOLD = frozenset(("profile", "fields", "defaults"))
_FAILURE_FIELDS = frozenset(("class", "message", "remedy"))
_EVALUATED = frozenset(("lossBefore", "lossAfter", "before", "after", "history"))
_BAD_WHEN_TRUE = frozenset(("Failed", "Stalled"))
_ATTEMPT_COLUMNS = frozenset(("number", "started", "running", "firstStep", "finished", "outcome", "message"))


def facts(pairs: Iterable[tuple[str, str | Text]]) -> Table:
    """Names and values under each other; what has no value is left out."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        if value and value != NOTHING:
            table.add_row(name, value if isinstance(value, Text) else Text(value))
    return table


def section(title: str, *body: RenderableType) -> Group:
    return Group(Text(""), Text(title, style="bold"), Padding(Group(*body), (0, 0, 0, 2)))


def description(job: Object, events: Sequence[Object] | None, now: datetime) -> Group:
    """Everything about one job. ``events`` None: they may not be read."""
    parts: list[RenderableType] = [_head(jobview.with_defaults(job), now)]
    for build in (
        _failure,
        _progress,
        _stages,
        _attempts,
        _plan,
        _settings,
        _evaluation,
        _artifact,
        _others,
        _conditions,
    ):
        parts += [part for part in (build(job, now),) if part is not None]
    parts.append(_events(events, now))
    return Group(*parts)


def _head(job: Object, now: datetime) -> RenderableType:
    # Of a failure its own section says why.
    message = "" if jobview.is_failed(job) else jobview.message_of(job)
    state = Text.assemble(state_text(jobview.state_of(job)), (f"  {message}" if message else "", "dim"))
    return facts(
        (
            ("Name", Text(jobview.name_of(job), style="bold")),
            ("Namespace", jobview.namespace_of(job)),
            ("State", state),
            ("Run", text_at(job, "status", "runID")),
            ("Created", _moment(jobview.created(job), now)),
            ("Finished", _moment(time_at(job, "status", "completionTime"), now)),
            ("Model", _model(job)),
            ("Data", ", ".join(text_at(item, "source") for item in objects_at(job, "spec", "dataset", "train"))),
            ("Method", _method(object_at(job, "spec", "method"))),
            ("Resources", _resources(job)),
            ("Output", text_at(job, "spec", "output", "destination")),
        )
    )


def _moment(moment: datetime | None, now: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S %Z} ({age(moment, now)} ago)" if moment else ""


def _model(job: Object) -> str:
    source, revision = text_at(job, "spec", "model", "source"), text_at(job, "spec", "model", "revision")
    return f"{source} at {revision}" if revision else source


def _method(method: Object) -> str:
    objective, tuning = text_at(method, "objective"), text_at(method, "tuning")
    chosen = (leaf for name in method if object_at(method, name) for leaf in leaves(object_at(method, name)))
    options = ", ".join(f"{spelled(name).lower()} {_inline(value)}" for name, value in chosen if name)
    return f"{objective}, {tuning}" + (f" ({options})" if options else "")


def _inline(value: object) -> str:
    return scalar_text(value) or "none"


def _resources(job: Object) -> str:
    pods, gpus = jobview.nodes_of(job), whole_at(job, "spec", "resources", "gpusPerNode") or 0
    ranks = jobview.processes_per_node(job)
    each = f"{gpus} GPUs" if gpus else f"{ranks} CPU process{'es' if ranks > 1 else ''}"
    cpu, memory = (text_at(job, "spec", "resources", name) for name in ("cpu", "memory"))
    stage = whole_at(job, "spec", "deepspeed", "zeroStage")
    return f"{pods} x ({each}, {cpu} CPU, {memory})" + (f", ZeRO stage {stage}" if stage is not None else "")


def _failure(job: Object, now: datetime) -> RenderableType | None:
    failure = object_at(job, "status", "failure")
    if not failure:
        return None
    named = (("Class", Text(text_at(failure, "class"), style="bold red")), ("Message", text_at(failure, "message")))
    others = [(spelled(name), scalar_text(value)) for name, value in leaves(failure) if name not in _FAILURE_FIELDS]
    return section("Failure", facts((*named, ("Remedy", Text(text_at(failure, "remedy"), style="bold")), *others)))


def _progress(job: Object, now: datetime) -> RenderableType | None:
    progress, fraction = jobview.progress_of(job), jobview.fraction_done(job)
    if fraction is None:
        return None
    step = f"  step {text_at(progress, 'step')} of {text_at(progress, 'totalSteps')}"
    head = Text.assemble(bar(fraction, _BAR_WIDTH), (f" {percent(fraction)}", "bold"), step)
    eta = "" if jobview.is_final(job) else text_at(progress, "eta")
    known = ("step", "totalSteps", "percent", "eta", "updated")
    measured = [(spelled(name), _measured(progress, name)) for name in progress if name not in known]
    updated = time_at(progress, "updated")
    said = f"{age(updated, now)} ago" if updated and not jobview.is_final(job) else ""
    return section("Progress", head, facts((("ETA", eta), *measured, ("Updated", said))))


def _measured(progress: Object, name: str) -> str:
    value = number_at(progress, name)
    if value is None:
        return text_at(progress, name)
    return loss(value) if name.lower().endswith("loss") else number(value)


def _stages(job: Object, now: datetime) -> RenderableType | None:
    stages = objects_at(job, "status", "stages")
    if not stages:
        return None
    table = _table("STAGE", "STARTED", "TOOK", "")
    for stage in stages:
        start, end = time_at(stage, "started"), time_at(stage, "finished")
        until = end or time_at(job, "status", "completionTime")
        name = Text.assemble(stage_mark(job, stage), " ", text_at(stage, "name"))
        table.add_row(name, _clock(start), took(start, until, now), Text(text_at(stage, "message")))
    return section("Stages", table)


def stage_mark(job: Object, stage: Object) -> Text:
    """Whether a stage is done, under way, or where the job failed."""
    if time_at(stage, "finished"):
        return Text("✓", style="green")
    return Text("✗", style="red") if jobview.is_failed(job) else Text("•", style="blue")


def _clock(moment: datetime | None) -> str:
    return f"{moment:%H:%M:%S}" if moment else NOTHING


def _attempts(job: Object, now: datetime) -> RenderableType | None:
    attempts = objects_at(job, "status", "attempts")
    if not attempts:
        return None
    table = _table("ATTEMPT", "OUTCOME", "STARTED", "TOOK", "")
    for attempt in attempts:
        start, end = time_at(attempt, "started"), time_at(attempt, "finished")
        others = ((name, value) for name, value in leaves(attempt) if name not in _ATTEMPT_COLUMNS)
        more = [f"{spelled(name).lower()} {_inline(value)}" for name, value in others]
        said = "; ".join(part for part in (text_at(attempt, "message"), *more) if part)
        outcome = text_at(attempt, "outcome") or ("running" if end is None else NOTHING)
        table.add_row(text_at(attempt, "number"), outcome, _clock(start), took(start, end, now), Text(said))
    return section("Attempts", table)


def _plan(job: Object, now: datetime) -> RenderableType | None:
    plan = object_at(job, "status", "plan")
    profile = object_at(plan, "profile")
    named = f"{text_at(profile, 'name')} (generation {text_at(profile, 'generation')})" if profile else ""
    others = {name: value for name, value in plan.items() if name not in _UNTOLD}
    return section("Plan", facts((("Profile", named), *_spelled_leaves(others)))) if plan else None


def _settings(job: Object, now: datetime) -> RenderableType | None:
    """What somebody chose; the many defaults are in the resource and in ``finetune plan``."""
    fields = objects_at(job, "status", "plan", "fields")
    chosen = [field for field in fields if text_at(field, "origin") != Origin.DEFAULT]
    if not chosen:
        return None
    table = _table("FIELD", "ORIGIN", "")
    for field in chosen:
        table.add_row(text_at(field, "path"), text_at(field, "origin").lower(), Text(text_at(field, "value")))
    return section("Settings", table, Text(f"the others ({len(fields) - len(chosen)}) are defaults", style="dim"))


def _evaluation(job: Object, now: datetime) -> RenderableType | None:
    """Each measure before and after, how the held-out loss went in between, and whatever else is said."""
    evaluation = object_at(job, "status", "evaluation")
    if not evaluation:
        return None
    table = _table("HELD OUT", "BEFORE", "AFTER", "")
    before, after = number_at(evaluation, "lossBefore"), number_at(evaluation, "lossAfter")
    table.add_row("Loss", loss(before), loss(after), _change(before, after))
    measures = [object_at(evaluation, side) for side in ("before", "after")]
    for name in dict.fromkeys((*measures[0], *measures[1])):
        table.add_row(spelled(name), *(number(number_at(side, name)) for side in measures), "")
    others = {name: value for name, value in evaluation.items() if name not in _EVALUATED}
    history = ", ".join(_evaluated(item) for item in objects_at(evaluation, "history"))
    return section("Evaluation", table, facts((("Loss after steps", history), *_spelled_leaves(others))))


def _change(before: float | None, after: float | None) -> Text:
    if not before or after is None:
        return Text("")
    return Text(f"{100 * (after - before) / before:+.1f} %", "green" if after < before else "yellow")


def _evaluated(item: Object) -> str:
    return f"{text_at(item, 'step')}: {loss(number_at(item, 'loss'))}"


def _artifact(job: Object, now: datetime) -> RenderableType | None:
    artifact = object_at(job, "status", "artifact")
    if not artifact:
        return None
    total = whole_at(artifact, "bytes")
    shown = (
        ("URI", Text(text_at(artifact, "uri"), style="bold")),
        ("Size", f"{size(total)} in {text_at(artifact, 'files')} files" if total is not None else ""),
    )
    others = [pair for pair in _spelled_leaves(artifact) if pair[0] not in ("URI", "Uri", "Bytes", "Files")]
    return section("Artifact", facts((*shown, *others)))


def _others(job: Object, now: datetime) -> RenderableType | None:
    """What a newer operator says: a section for each object, one for all that is no object."""
    unknown = {name: value for name, value in object_at(job, "status").items() if name not in _KNOWN}
    parts = [
        section(spelled(name), facts(_spelled_leaves(value)))
        for name, value in unknown.items()
        if isinstance(value, dict)
    ]
    scalars = {name: value for name, value in unknown.items() if not isinstance(value, dict)}
    if scalars:
        parts.append(section("Further", facts(_spelled_leaves(scalars))))
    return Group(*parts) if parts else None


def _spelled_leaves(value: Object) -> Iterator[tuple[str, str]]:
    """Every field below an object, its path in words."""
    for path, leaf in leaves(value):
        if path:
            yield spelled(path), scalar_text(leaf)


def _conditions(job: Object, now: datetime) -> RenderableType | None:
    conditions = objects_at(job, "status", "conditions")
    if not conditions:
        return None
    table = _table("CONDITION", "STATUS", "REASON", "SINCE", "")
    for item in conditions:
        said, since = text_at(item, "status"), age(time_at(item, "lastTransitionTime"), now)
        bad = said == "True" and text_at(item, "type") in _BAD_WHEN_TRUE
        status = Text(said, "red" if bad else _STYLES.get(said, ""))
        table.add_row(text_at(item, "type"), status, text_at(item, "reason"), since, Text(text_at(item, "message")))
    return section("Conditions", table)


def _events(events: Sequence[Object] | None, now: datetime) -> RenderableType:
    if events is None:
        return section("Events", Text("may not be read with your rights", style="dim"))
    if not events:
        return section("Events", Text("none; the cluster keeps them for an hour", style="dim"))
    table = _table("AGE", "TYPE", "REASON", "")
    for event in events:
        kind = text_at(event, "type")
        shown = Text(kind, style=_STYLES.get(kind, ""))
        table.add_row(
            age(jobview.event_time(event), now), shown, text_at(event, "reason"), Text(text_at(event, "note"))
        )
    return section("Events", table)


def _table(*titles: str) -> Table:
    """A table whose last column wraps."""
    table = plain_table()
    table.header_style = "dim"
    for title in titles:
        table.add_column(title, no_wrap=title != "", overflow="fold")
    return table
