"""The one time axis of a report: the wall clock, with long pauses cut short. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from finetune_trainer.training.metrics import duration

# A gap between two records is a pause when it is at least this long, and this share of the rest.
_LEAST_PAUSE_SECONDS, _PAUSE_SHARE = 60.0, 0.15
# Width of a pause on the page, as a share of the time without pauses.
_DRAWN_SHARE = 0.04
_TICK_SECONDS = (
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    10800,
    21600,
    43200,
    86400,
)
_MOST_TICKS = 8


@dataclass(frozen=True)
class Pause:
    """Nothing was recorded between two instants (Unix seconds), as in a suspended job."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True)
class Timeline:
    """The span between the first and the last instant, in Unix seconds."""

    begin: float
    end: float
    pauses: Sequence[Pause] = field(default=())

    def place(self, instant: float) -> float:
        """Where an instant is: 0 at the begin, 1 at the end."""
        return self._drawn(instant) / (self._drawn(self.end) or 1.0)

    def _drawn(self, instant: float) -> float:
        drawn = self._width_of_a_pause
        cut = sum(
            (min(instant, pause.end) - pause.begin) * (1 - drawn / pause.seconds)
            for pause in self.pauses
            if instant > pause.begin
        )
        return instant - self.begin - cut

    @property
    def _width_of_a_pause(self) -> float:
        busy = self.end - self.begin - sum(pause.seconds for pause in self.pauses)
        return min([_DRAWN_SHARE * busy, *(pause.seconds for pause in self.pauses)])

    def ticks(self) -> list[tuple[float, str]]:
        """Places that have a label, with the time since the begin; none within a pause."""
        busy = self.end - self.begin - sum(pause.seconds for pause in self.pauses)
        apart = next((step for step in _TICK_SECONDS if busy / step <= _MOST_TICKS), max(busy / _MOST_TICKS, 1.0))
        found: list[tuple[float, str]] = []
        for number in range(int((self.end - self.begin) / apart) + 1):
            instant = self.begin + number * apart
            near = found and self.place(instant) - found[-1][0] < 0.5 / _MOST_TICKS
            if not near and not any(pause.begin < instant < pause.end for pause in self.pauses):
                found.append((self.place(instant), _label(number * apart)))
        return found


def _label(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 or not seconds else f"{seconds:.1f}s"


def timeline_of(instants: Iterable[float]) -> Timeline | None:
    """The axis of some instants, in any order; None without any."""
    ordered = sorted(instants)
    if not ordered:
        return None
    span = ordered[-1] - ordered[0]
    pauses: list[Pause] = []
    # The longest gap first: what is a pause is judged by the time that is left without the longer ones.
    for begin, end in sorted(pairwise(ordered), key=lambda gap: gap[0] - gap[1]):
        span -= end - begin
        if end - begin < max(_LEAST_PAUSE_SECONDS, _PAUSE_SHARE * span):
            break
        pauses.append(Pause(begin, end))
    return Timeline(ordered[0], ordered[-1], tuple(sorted(pauses, key=lambda pause: pause.begin)))
