"""``metrics.jsonl``: curves by name. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetune_cli.documents import Object, number_at, text_at, whole_at
from finetune_cli.render.curves import Point

# Fields of a line that are no measurement.
_PLACE = frozenset(("kind", "step"))

Curves = dict[str, tuple[Point, ...]]


@dataclass(frozen=True)
class Metrics:
    """Curves over optimizer steps, by name, such as ``loss``: of the training steps and of the evaluations."""

    steps: Curves
    evaluations: Curves

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all curves, loss first."""
        found = dict.fromkeys((*self.steps, *self.evaluations))
        return tuple(sorted(found, key=lambda name: (name != "loss", name)))


def parse_metrics(content: bytes) -> Metrics:
    """Reads the file. Lines that are no JSON, such as one that was cut off, are left out."""
    lines = list(_lines(content))
    return Metrics(_curves(lines, "step"), _curves(lines, "evaluation"))


def _lines(content: bytes) -> Iterator[Object]:
    for line in content.splitlines():
        try:
            found: Any = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def _curves(lines: list[Object], kind: str) -> Curves:
    """Points of one kind of line. A step that was computed again counts as it was the last time."""
    found: dict[str, dict[int, float]] = {}
    for line in lines:
        step = whole_at(line, "step")
        if text_at(line, "kind") != kind or step is None:
            continue
        for name, value in {**line, **_rates(line)}.items():
            number = number_at({"value": value}, "value")
            if name not in _PLACE and number is not None:
                found.setdefault(name, {})[step] = number
    return {name: _ordered(points) for name, points in found.items()}


def _ordered(points: dict[int, float]) -> tuple[Point, ...]:
    return tuple(sorted((float(step), value) for step, value in points.items()))


def _rates(line: Object) -> Object:
    tokens, seconds = number_at(line, "tokens"), number_at(line, "seconds")
    return {"tokensPerSecond": tokens / seconds} if tokens is not None and seconds else {}
