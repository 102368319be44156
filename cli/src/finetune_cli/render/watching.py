"""What ``finetune watch`` shows: a picture that is drawn anew in a terminal, plain lines elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from finetune_cli import jobview
from finetune_cli.documents import Object, number_at, object_at, objects_at, text_at, time_at, whole_at
from finetune_cli.render.curves import Point, Series, chart
from finetune_cli.render.describe import stage_mark
from finetune_cli.render.words import bar, loss, number, percent, size, state_text, took

TRAIN_STYLE, HELD_OUT_STYLE = "cyan", "magenta"
# More points than a screen has columns are not seen.
MAX_POINTS = 4000


@dataclass(frozen=True)
class Seen:
    """What a watch has seen of a job so far: its newest version and the losses on the way to it."""

    job: Object
    losses: tuple[Point, ...] = ()
    held_out: tuple[Point, ...] = ()
    trouble: str = ""

    def with_job(self, job: Object) -> Seen:
        """Another version of the job; a new attempt that starts below the last step redraws from there."""
        progress = jobview.progress_of(job)
        step = whole_at(progress, "step")
        if step is None:
            return replace(self, job=job, trouble="")
        losses = _extended(self.losses, step, number_at(progress, "loss"))
        held_out = _extended(self.held_out, step, number_at(progress, "evalLoss"), changes_only=True)
        return replace(self, job=job, losses=losses, held_out=held_out, trouble="")

    def with_losses(self, losses: tuple[Point, ...], held_out: tuple[Point, ...]) -> Seen:
        """With further points, such as those that a log tells; of a step that is known already the new one counts."""
        return replace(self, losses=_merged(self.losses, losses), held_out=_merged(self.held_out, held_out))

    @property
    def missing(self) -> int:
        """Steps before the newest that no loss is known of: a status tells of one step in many."""
        return int(self.losses[-1][0] - self.losses[-2][0]) - 1 if len(self.losses) > 1 else 0


def _merged(known: tuple[Point, ...], further: tuple[Point, ...]) -> tuple[Point, ...]:
    return tuple(sorted({**dict(known), **dict(further)}.items()))[-MAX_POINTS:]


def _extended(
    points: tuple[Point, ...], step: int, value: float | None, changes_only: bool = False
) -> tuple[Point, ...]:
    kept = tuple(point for point in points if point[0] < step or (changes_only and point[0] == step))
    if value is None or (changes_only and kept and kept[-1][1] == value):
        return kept
    return (*kept, (float(step), value))[-MAX_POINTS:]


def picture(seen: Seen, width: int, height: int, now: datetime) -> RenderableType:
    """The picture of one moment, at most ``height`` lines high."""
    job, parts = seen.job, list[RenderableType]()
    parts += [_title(job, now), _progress_line(job, width), _figures(job)]
    curves = [Series("loss", seen.losses, TRAIN_STYLE), Series("held-out", seen.held_out, HELD_OUT_STYLE, marked=True)]
    room = min(16, height - 10)
    if room >= 4:
        drawn = chart(curves, min(width, 120), room) if len(seen.losses) > 1 else []
        parts += [Text(""), *drawn] if drawn else []
    parts += [Text(""), _stage_line(job, now)]
    parts += _ending(job)
    if seen.trouble:
        parts.append(Text(f"! {seen.trouble}", style="yellow"))
    return Group(*parts)


def _title(job: Object, now: datetime) -> Text:
    message = jobview.message_of(job)
    return Text.assemble(
        (jobview.name_of(job), "bold"),
        ("  " + jobview.namespace_of(job) + "  ", "dim"),
        state_text(jobview.state_of(job)),
        # Of an ended job the last lines say more.
        (f"  {message}" if message and not jobview.is_final(job) else "", "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )


def _progress_line(job: Object, width: int) -> Text:
    fraction, progress = jobview.fraction_done(job), jobview.progress_of(job)
    if fraction is None:
        return Text("no step done yet", style="dim")
    eta = text_at(progress, "eta")
    rest = f"  ETA {eta}" if eta and not jobview.is_final(job) else ""
    said = f"{percent(fraction):>4}  step {text_at(progress, 'step')}/{text_at(progress, 'totalSteps')}{rest}"
    return Text.assemble(bar(fraction, max(10, min(width, 120) - len(said) - 1)), " ", said)


def _figures(job: Object) -> Text:
    progress = jobview.progress_of(job)
    shown = (
        ("loss", loss(number_at(progress, "loss"))),
        ("held-out", loss(jobview.held_out_loss(job))),
        ("tokens/s", number(number_at(progress, "tokensPerSecond"))),
        ("learning rate", number(number_at(progress, "learningRate"), 3)),
        ("grad norm", number(number_at(progress, "gradNorm"), 3)),
        ("GPUs", str(jobview.gpus_of(job) or "-")),
    )
    line = Text(no_wrap=True, overflow="ellipsis")
    for name, value in shown:
        if value != "-":
            line.append(f"{name} ", "dim").append(f"{value}   ")
    line.rstrip()
    return line


def _stage_line(job: Object, now: datetime) -> Text:
    line = Text()
    for stage in objects_at(job, "status", "stages"):
        start, end = time_at(stage, "started"), time_at(stage, "finished")
        until = end or time_at(job, "status", "completionTime")
        line.append(stage_mark(job, stage)).append(f" {text_at(stage, 'name')}")
        line.append(f" {took(start, until, now)}   ", "dim")
    attempt = jobview.attempt_of(job)
    if attempt > 1:
        line.append(f"attempt {attempt}", "yellow")
    return line


def _ending(job: Object) -> list[RenderableType]:
    if jobview.is_failed(job):
        failure = object_at(job, "status", "failure")
        said = Text.assemble((text_at(failure, "class") or "Failed", "bold red"), f": {text_at(failure, 'message')}")
        return [said, Text(text_at(failure, "remedy"), style="bold")]
    if jobview.is_complete(job):
        artifact = object_at(job, "status", "artifact")
        total = whole_at(artifact, "bytes")
        how_large = f"  {size(total)}" if total is not None else ""
        return [Text.assemble(("verified ", "green"), (text_at(artifact, "uri"), "bold"), (how_large, "dim"))]
    return []


def line(job: Object) -> str:
    """A job's state in one line, for logs: the same text means that there is nothing new."""
    progress, fraction = jobview.progress_of(job), jobview.fraction_done(job)
    parts = [f"{jobview.state_of(job):<10}"]
    if fraction is not None and not jobview.is_final(job):
        parts.append(f"step {text_at(progress, 'step')}/{text_at(progress, 'totalSteps')} {percent(fraction)}")
        named = (("loss", "loss"), ("held-out loss", "evalLoss"), ("tokens/s", "tokensPerSecond"), ("ETA", "eta"))
        parts += [f"{label} {value}" for label, name in named if (value := text_at(progress, name))]
    elif not jobview.is_final(job):
        parts.append(jobview.message_of(job))
    parts += _last_words(job)
    # A message may have several lines; a log has one for each state.
    return " ".join("  ".join(part for part in parts if part).splitlines()).rstrip()


def _last_words(job: Object) -> Sequence[str]:
    if jobview.is_failed(job):
        failure = object_at(job, "status", "failure")
        return [f"{text_at(failure, 'class')}: {text_at(failure, 'message')}", text_at(failure, "remedy")]
    if jobview.is_complete(job):
        change = _change(job)
        return [*([change] if change else []), text_at(job, "status", "artifact", "uri")]
    return []


def _change(job: Object) -> str:
    before, after = (number_at(job, "status", "evaluation", name) for name in ("lossBefore", "lossAfter"))
    return f"held-out loss {loss(before)} -> {loss(after)}" if before is not None and after is not None else ""
