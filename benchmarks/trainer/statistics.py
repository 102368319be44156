"""Ratios of interleaved pairs and how sure they are."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Ratio:
    """Median of the pairs' ratios, with a 95 % confidence interval."""

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}] of {self.pairs} pairs"


def ratio_of(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Ratio of paired measurements.

    The interval is the percentile bootstrap of the median (Efron and Tibshirani 1993, chapter 13), with fixed random
    numbers.

    Raises:
        ValueError: the sequences differ in length or are empty.
    """
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    generator = random.Random(0)
    medians = sorted(statistics.median(generator.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES))
    low, high = medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES) - 1]
    return Ratio(statistics.median(ratios), low, high, len(ratios))
