"""``report.html``: the whole course of a run in one page that needs nothing else. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from finetune_api.plan import PastAttempt
from finetune_api.results import EvaluationResult
from finetune_trainer.artifact.charts import Curve, Mark, Panel, Point, Span, draw
from finetune_trainer.artifact.samples import Answered, Text, answered
from finetune_trainer.artifact.timeline import timeline_of
from finetune_trainer.data.datareport import data_details, data_totals
from finetune_trainer.data.facts import DataFacts
from finetune_trainer.pages import beside, facts, folded, heading, page, paragraph, preformatted, table
from finetune_trainer.training.checkpoints.history import History
from finetune_trainer.training.metrics import EvaluationMetrics, StepMetrics, decimal, duration, thinned

_TABLE_ROWS = 50
_CHART = "Loss, learning rate, throughput and memory over the time since training began"
_READING = (
    "All curves share one time axis: the time since the first attempt began. Pauses are cut short and shaded. "
    "Steps that a lost attempt had computed after its last checkpoint are not shown, since they were computed again. "
    "Memory is that of the first process: the most that a step took of its GPU, or on a CPU what the process held."
)
_SAMPLING = (
    "What the model answered to held-out prompts before the first step and with the published weights: the likeliest "
    "token each time, at most 64, and […] where it would have gone on."
)


@dataclass(frozen=True)
class Report:
    """What the page tells.

    Attributes:
        title: the job.
        provenance: names and values, such as the run ID.
        history: everything that was measured.
        settings: path, value and origin of every field that shaped the run.
        evaluation: before and after, if anything was held out.
        data: what was found in the data, if it is known.
        past: attempts before the last one, of which the history knows those that left a checkpoint.
    """

    title: str
    provenance: Sequence[tuple[str, object]]
    history: History
    settings: Sequence[tuple[str, object, str]]
    evaluation: EvaluationResult | None = None
    data: DataFacts | None = None
    past: Sequence[PastAttempt] = ()


def render_report(report: Report) -> str:
    """The page."""
    history = report.history
    body = [
        facts([*report.provenance, *_course(history)]),
        heading("Course"),
        _chart(history, report.past),
        folded("Values as a table", _values(history)),
        *_evaluation(report.evaluation, history.evaluations),
        *_samples(answered(history.samples)),
        *_attempts(history, report.past),
        *_data(report.data),
        heading("Configuration"),
        paragraph("Every field that shaped this run, and who set it: manifest, profile or default."),
        table(("field", "value", "origin"), ((path, _value(value), origin) for path, value, origin in report.settings)),
    ]
    return page(report.title, body)


def _course(history: History) -> Iterator[tuple[str, object]]:
    """The run in a few numbers."""
    steps = history.steps
    if not steps:
        return
    yield "optimizer steps", steps[-1].step
    yield "training loss", f"{decimal(steps[0].loss)} → {decimal(steps[-1].loss)}"
    if history.evaluations:
        yield "held-out loss", f"{decimal(history.evaluations[0].loss)} → {decimal(history.evaluations[-1].loss)}"
    yield "tokens seen", sum(step.tokens for step in steps)
    yield "time in these steps", duration(sum(step.seconds for step in steps))
    if instants := _instants(history):
        yield "began", _clock(min(instants))
        yield "ended", _clock(max(instants))


def _clock(instant: float) -> str:
    return f"{datetime.fromtimestamp(instant, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _instants(history: History) -> list[float]:
    """All times that are known."""
    records = (history.attempts, history.steps, history.evaluations, history.checkpoints)
    return [record.time for kind in records for record in kind if record.time]


def _chart(history: History, past: Sequence[PastAttempt]) -> str:
    lost = list(_lost_spans(history, past))
    timeline = timeline_of([*_instants(history), *(instant for span in lost for instant in (span.begin, span.end))])
    if timeline is None:
        return paragraph("No step was measured.")
    ends = [attempt.time for attempt in history.attempts[1:]] + [math.inf]
    spans = [
        Span(f"attempt {attempt.number}", attempt.time, _last_before(end, history))
        for attempt, end in zip(history.attempts, ends, strict=bool(history.attempts))
    ]
    marks = [Mark(f"checkpoint of step {saved.step}", saved.time) for saved in history.checkpoints]
    picture = draw(_CHART, timeline, tuple(_panels(history)), sorted(lost + spans, key=lambda span: span.begin), marks)
    return f'<figure><div class="wide">{picture}</div><figcaption>{paragraph(_READING, "faint")}</figcaption></figure>'


def _lost(history: History, past: Sequence[PastAttempt]) -> list[PastAttempt]:
    """Attempts that left nothing to go on from."""
    known = {attempt.number for attempt in history.attempts}
    return [attempt for attempt in past if attempt.number not in known]


def _lost_spans(history: History, past: Sequence[PastAttempt]) -> Iterator[Span]:
    for attempt in _lost(history, past):
        if attempt.began and attempt.ended:
            yield Span(f"attempt {attempt.number}", attempt.began.timestamp(), attempt.ended.timestamp())


def _last_before(end: float, history: History) -> float:
    """The last record before an instant: when an attempt is known to have lived."""
    return max(instant for instant in _instants(history) if instant < end)


def _panels(history: History) -> Iterator[Panel]:
    steps = [step for step in history.steps if step.time]
    held_out = [
        Point(point.time, point.loss, f"after step {point.step}: held-out loss {decimal(point.loss)}")
        for point in history.evaluations
        if point.time
    ]
    training = [Point(step.time, step.loss, f"step {step.step}: loss {decimal(step.loss)}") for step in steps]
    yield Panel("Loss", [Curve("training", training), Curve("held out", held_out, marked=True)], _short)
    yield _panel("Learning rate", steps, [step.learning_rate for step in steps], _short)
    yield _panel("Tokens per second", steps, [step.tokens_per_second for step in steps], _whole)
    if any(step.memory for step in steps):
        yield _panel("Memory in MiB", steps, [step.memory / 2**20 for step in steps], _whole)


def _panel(title: str, steps: Sequence[StepMetrics], values: Sequence[float], spell: Callable[[float], str]) -> Panel:
    points = [
        Point(step.time, value, f"step {step.step}: {spell(value)}") for step, value in zip(steps, values, strict=True)
    ]
    return Panel(title, [Curve(title, points)], spell)


def _short(value: float) -> str:
    return f"{value:.3g}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _values(history: History) -> str:
    rows = (
        (
            step.step,
            decimal(step.loss),
            decimal(step.learning_rate),
            decimal(step.grad_norm),
            _whole(step.tokens_per_second),
            _whole(step.memory / 2**20),
        )
        for step in thinned(history.steps, _TABLE_ROWS)
    )
    return table(("step", "loss", "learning rate", "gradient norm", "tokens per second", "memory in MiB"), rows)


def _evaluation(result: EvaluationResult | None, evaluations: Sequence[EvaluationMetrics]) -> list[str]:
    """What the held-out split gave: of the base model beside the published one, and each time."""
    if result is None or not evaluations:
        return []
    after = result.after or {}
    compared = [("loss", result.loss_before, result.loss_after)]
    compared += [(name, value, after.get(name, "")) for name, value in (result.before or {}).items()]
    names = ("loss", *evaluations[0].metrics)
    every = ((point.step, *_measures(point, names)) for point in thinned(evaluations, _TABLE_ROWS))
    return [
        heading("Evaluation"),
        table(("held-out split", "before", "after"), compared),
        folded("Every evaluation", table(("step", *names), every)),
    ]


def _measures(point: EvaluationMetrics, names: Iterable[str]) -> Iterator[str]:
    measured = {"loss": point.loss, **point.metrics}
    yield from (decimal(measured[name]) if name in measured else "" for name in names)


def _samples(found: Sequence[Answered]) -> list[str]:
    """Prompts with their answers before and after."""
    parts = [heading("Samples"), paragraph(_SAMPLING)] if found else []
    for sample in found:
        parts += [
            heading(f"Held-out row {sample.row + 1}", 3),
            preformatted(sample.prompt),
            beside(
                ("in the data", sample.expected), ("before", _answer(sample.before)), ("after", _answer(sample.after))
            ),
        ]
    return parts


def _answer(text: Text | None) -> str:
    if text is None:
        return "(not asked)"
    return f"{text.text} […]" if text.cut else text.text


def _attempts(history: History, past: Sequence[PastAttempt]) -> list[str]:
    """Attempts and checkpoints that led to the result, and the attempts that did not."""
    parts = []
    outcomes = {attempt.number: attempt.outcome for attempt in past}
    rows: dict[int, tuple[object, ...]] = {
        one.number: (
            f"attempt {one.number}",
            one.step,
            one.processes,
            _clock(one.time),
            outcomes.get(one.number, "published this result"),
        )
        for one in history.attempts
    }
    for one in _lost(history, past):
        began = _clock(one.began.timestamp()) if one.began else ""
        rows[one.number] = f"attempt {one.number}", "", "", began, f"{one.outcome}, left no checkpoint"
    if rows:
        head = ("attempt", "steps done before", "processes", "began", "end")
        parts += [heading("Attempts"), table(head, (rows[number] for number in sorted(rows)))]
    if history.checkpoints:
        saved = ((f"step {one.step}", _clock(one.time)) for one in history.checkpoints)
        parts.append(folded("Checkpoints", table(("checkpoint", "committed"), saved)))
    return parts


def _data(data: DataFacts | None) -> list[str]:
    if data is None:
        return []
    return [heading("Data"), data_totals(data), folded("Data report", *data_details(data, level=3))]


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
