"""report.html: the loss curves of a run in one file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Sequence

from finetune_trainer.training.metrics import EvaluationMetrics, StepMetrics, decimal, thinned

_WIDTH, _HEIGHT, _MARGIN = 860, 360, 60
# A browser draws no more points than this apart; longer runs are thinned.
_MAX_POINTS = 2000

Point = tuple[float, float]


def render_report(title: str, steps: Sequence[StepMetrics], evaluations: Sequence[EvaluationMetrics]) -> str:
    """A page with training and held-out loss over the optimizer steps, and the table of evaluations."""
    training = [(float(point.step), point.loss) for point in thinned(steps, _MAX_POINTS)]
    held_out = [(float(point.step), point.loss) for point in evaluations]
    table = _table(evaluations)
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font:15px system-ui,sans-serif;margin:2em auto;max-width:60em;color:#222}"
        "td,th{padding:.2em 1em;text-align:right}svg text{font-size:12px;fill:#555}</style></head><body>\n"
        f"<h1>{html.escape(title)}</h1>\n{_chart(training, held_out)}\n{table}\n</body></html>\n"
    )


def _table(evaluations: Sequence[EvaluationMetrics]) -> str:
    """Every evaluation with all that it measured."""
    if not evaluations:
        return ""
    names = ("loss", *evaluations[0].metrics)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("step", *names))
    rows = (
        f"<tr><td>{point.step}</td>"
        + "".join(f"<td>{decimal({'loss': point.loss, **point.metrics}[name])}</td>" for name in names)
        + "</tr>"
        for point in evaluations
    )
    return f"<h2>Held-out split</h2><table><tr>{head}</tr>{''.join(rows)}</table>"


def _chart(training: list[Point], held_out: list[Point]) -> str:
    points = training + held_out
    if not points:
        return "<p>No step was measured.</p>"
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    width, height = (right - left) or 1.0, (high - low) or 1.0

    def place(point: Point) -> Point:
        x, y = point
        across = _MARGIN + (x - left) / width * (_WIDTH - 2 * _MARGIN)
        down = _MARGIN + (high - y) / height * (_HEIGHT - 2 * _MARGIN)
        return round(across, 1), round(down, 1)

    bottom = _HEIGHT - _MARGIN
    curves = _line([place(point) for point in training], "#2563eb") + _line(
        [place(point) for point in held_out], "#dc2626"
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="loss over optimizer steps">'
        f'<path d="M{_MARGIN} {_MARGIN}V{bottom}H{_WIDTH - _MARGIN}" fill="none" stroke="#bbb"/>'
        f'<text x="{_MARGIN - 8}" y="{_MARGIN + 4}" text-anchor="end">{high:.3f}</text>'
        f'<text x="{_MARGIN - 8}" y="{bottom + 4}" text-anchor="end">{low:.3f}</text>'
        f'<text x="{_MARGIN}" y="{bottom + 20}">step {left:.0f}</text>'
        f'<text x="{_WIDTH - _MARGIN}" y="{bottom + 20}" text-anchor="end">step {right:.0f}</text>'
        f'<text x="{_MARGIN}" y="24" style="fill:#2563eb">training loss</text>'
        f'<text x="{_MARGIN + 100}" y="24" style="fill:#dc2626">held-out loss</text>'
        f"{curves}</svg>"
    )


def _line(points: list[Point], colour: str) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>' for x, y in points[:200])
    return f'<polyline points="{path}" fill="none" stroke="{colour}"/>{dots}' if points else ""
