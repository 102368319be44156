"""Losses from before a watch began, read from the log of rank 0."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from finetune_api.outcomes import Stage
from finetune_cli.cluster.jobs import pods_of
from finetune_cli.cluster.podlogs import Wanted, lines, source_of
from finetune_cli.documents import Object
from finetune_cli.errors import CliError
from finetune_cli.render.curves import Point

if TYPE_CHECKING:
    from finetune_cli.cluster.kube import Kube

# The lines that the trainer prints for each step and each evaluation.
_STEP = re.compile(rb"\bstep (\d+)/\d+\s+loss ([0-9.e+-]+)")
_HELD_OUT = re.compile(rb"\bheld-out loss ([0-9.e+-]+) after step (\d+)")
_ALL_LINES = 5000
# The trainer logs little more than its steps.
_LINES_PER_STEP, _FURTHER_LINES = 2, 50

Losses = tuple[tuple[Point, ...], tuple[Point, ...]]


def logged_losses(kube: Kube, job: Object, steps: int | None = None) -> Losses:
    """Training and held-out losses that the newest attempt has logged, all or of about the last ``steps``.

    A curve without its beginning is no reason to show nothing: without pods, or the right to read their logs, there are
    none.
    """
    tail = _ALL_LINES if steps is None else min(_ALL_LINES, steps * _LINES_PER_STEP + _FURTHER_LINES)
    try:
        source = source_of(job, pods_of(kube, job), Wanted(stage=Stage.TRAIN))
        return losses_in(lines(kube.log(kube.namespace, source.pod, tail=tail)))
    except CliError:
        return (), ()


def losses_in(log: Iterable[bytes]) -> Losses:
    """Training and held-out losses by step, from a log's lines; of a step that comes twice the later one counts."""
    train: dict[int, float] = {}
    held_out: dict[int, float] = {}
    for line in log:
        if match := _STEP.search(line):
            train[int(match[1])] = float(match[2])
        elif match := _HELD_OUT.search(line):
            held_out[int(match[2])] = float(match[1])
    return tuple(sorted(train.items())), tuple(sorted(held_out.items()))
