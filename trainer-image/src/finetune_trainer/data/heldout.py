"""Which training rows are held out, and how often an epoch sees the others: by the keys of their content. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from finetune_trainer.errors import UserError

_KEYS = 1 << 64
FRACTION_FIELD = "spec.dataset.validation.fraction"


def threshold_of(fraction: Decimal) -> int:
    """Rows whose key is below it are held out: the lowest ``fraction`` of all keys."""
    return int((fraction * _KEYS).to_integral_value(ROUND_CEILING))


@dataclass
class Bounds:
    """What is known of the keys of all training rows after they were read."""

    rows: int = 0
    held_out: int = 0
    lowest: int = _KEYS
    highest: int = -1

    def add(self, key: int, held_out: bool) -> None:
        """Notes one row."""
        self.rows += 1
        self.held_out += held_out
        self.lowest, self.highest = min(self.lowest, key), max(self.highest, key)

    def settled(self, fraction: Decimal) -> int:
        """The threshold that these rows need.

        Where chance leaves a side empty though a row or more is due to it, the row that is nearest goes there.
        """
        if self.lowest < self.highest:
            if not self.held_out and self.rows * fraction >= 1:
                return self.lowest + 1
            if self.held_out == self.rows and self.rows * (1 - fraction) >= 1:
                return self.highest
        return threshold_of(fraction)

    def problem(self, fraction: str) -> UserError | None:
        """The error when one side has no rows."""
        if 0 < self.held_out < self.rows:
            return None
        left, change = ("train on", "lower") if self.held_out else ("hold out", "raise")
        return UserError(
            f"{FRACTION_FIELD} {fraction!r} of {self.rows} rows leaves nothing to {left}",
            f"{change} it, add rows that differ, or name held-out files in spec.dataset.validation.sources",
        )


def copies(weight: str, share: int) -> int:
    """How often an epoch sees a row of a weight: the whole part of it, and once more for a fraction of the rows.

    ``share`` is 64 bits of the row's key: which rows those are depends on their content only.
    """
    if weight == "1":
        return 1
    whole, part = divmod(Decimal(weight), 1)
    return int(whole) + (share < threshold_of(part))
