"""What prepared data must hold: thresholds of the spec against what was found. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from finetune_api.spec import ChecksSpec, DataFormat
from finetune_trainer.data.facts import DataFacts
from finetune_trainer.errors import DataError

_FIELD = "spec.dataset.checks"
_SHOWN_ROWS = 10
# Leaves room for the sentence around it in a failure's 2,048 characters.
_SHOWN_CHARACTERS = 1800
_EXAMPLES = {
    DataFormat.CHAT: '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}',
    DataFormat.INSTRUCTION: '{"instruction": "...", "output": "..."} or {"prompt": "...", "completion": "..."}',
    DataFormat.COMPLETION: '{"text": "..."}',
    DataFormat.PREFERENCE: '{"prompt": "...", "chosen": "...", "rejected": "..."}',
    DataFormat.UNPAIRED: '{"prompt": "...", "completion": "...", "label": true}',
}


def judge(facts: DataFacts, checks: ChecksSpec) -> None:
    """Ends the work when the data is not what the spec demands.

    Raises:
        DataError: naming the rows, or the threshold and what was found.
    """
    if facts.refused > checks.max_refused_rows:
        raise DataError(_refused(facts, checks.max_refused_rows), _remedy(facts))
    for name, allowed, found, of, what, remedy in _shares(facts, checks):
        if allowed is not None and found > Decimal(allowed) * of:
            raise DataError(
                f"{found} of {of} {what} ({found / of:.1%}), more than {_FIELD}.{name} {allowed!r} allows",
                f"{remedy}, or raise {_FIELD}.{name}",
            )


def _shares(facts: DataFacts, checks: ChecksSpec) -> Iterator[tuple[str, str | None, int, int, str, str]]:
    rows, held_out = facts.train_rows, facts.held_out_rows
    yield (
        *("maxDuplicateFraction", checks.max_duplicate_fraction, facts.duplicates, rows),
        *("training rows equal an earlier one", "remove the duplicates"),
    )
    yield (
        *("maxNearDuplicateFraction", checks.max_near_duplicate_fraction, facts.near_duplicates, rows),
        *("training rows nearly equal an earlier one", "remove what repeats itself"),
    )
    yield (
        *("maxValidationOverlap", checks.max_validation_overlap, facts.overlap, held_out),
        *("held-out rows are training rows too", "remove them from one of the splits"),
    )
    yield (
        *("maxTruncatedFraction", checks.max_truncated_fraction, facts.truncated, rows),
        *("training rows are truncated", "raise spec.hyperparameters.maxSequenceLength, shorten the rows"),
    )


def _refused(facts: DataFacts, allowed: int) -> str:
    shown, room = [], _SHOWN_CHARACTERS
    for row in facts.refused_rows[:_SHOWN_ROWS]:
        line = f"{row.place}: {row.reason}"
        if len(line) >= room:
            break
        shown.append(line)
        room -= len(line)
    rest = facts.refused - len(shown)
    more = [f"and {rest} more"] if rest else []
    noun = "row" if facts.rows == 1 else "rows"
    limit = f", more than {_FIELD}.maxRefusedRows {allowed}" if allowed else ""
    return "\n".join([f"{facts.refused} of {facts.rows} {noun} cannot be used{limit}:", *shown, *more])


def _remedy(facts: DataFacts) -> str:
    if facts.refused_too_long == facts.refused:
        return "raise hyperparameters.maxSequenceLength, shorten the rows or set spec.dataset.tooLong to Truncate"
    kinds = {DataFormat(source.format) for source in facts.sources if source.refused}
    examples = " or ".join(_EXAMPLES[kind] for kind in DataFormat if kind in kinds)
    return f"correct or remove these lines; each must be like {examples}"
