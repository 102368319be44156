"""Kubernetes quantities (resource.Quantity) as exact numbers."""

from __future__ import annotations

import math
from fractions import Fraction

_SUFFIXES = {
    "Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30),
    "Ti": Fraction(2**40), "Pi": Fraction(2**50), "Ei": Fraction(2**60),
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000),
    "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9),
    "T": Fraction(10**12), "P": Fraction(10**15), "E": Fraction(10**18),
}  # fmt: skip


def parse_quantity(text: str) -> Fraction:
    """The number that a quantity such as ``500m``, ``64Gi`` or ``1e3`` stands for; raises ValueError."""
    for suffix, factor in _SUFFIXES.items():
        if text.endswith(suffix):
            return Fraction(text.removesuffix(suffix)) * factor
    return Fraction(text)


def divide_quantity(text: str, divisor: str) -> str:
    """A quantity in units of ``divisor``, rounded up, as ``resourceFieldRef`` gives it; a divisor of 0 means 1."""
    unit = parse_quantity(divisor)
    return str(math.ceil(parse_quantity(text) / (unit or 1)))
