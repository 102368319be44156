"""The table of ``finetune list``. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.table import Table
from rich.text import Text

from finetune_cli import jobview
from finetune_cli.documents import Object, number_at, text_at, whole_at
from finetune_cli.render.words import NOTHING, age, loss, number, percent, state_text

Cell = Callable[[Object, datetime], str | Text]


@dataclass(frozen=True)
class Column:
    """One column: its heading, what it says of a job, and whether it holds numbers."""

    title: str
    cell: Cell
    right: bool = False


def _steps(job: Object, _: datetime) -> str:
    step, total = (whole_at(jobview.progress_of(job), name) for name in ("step", "totalSteps"))
    return NOTHING if step is None else f"{step}/{total}"


NAMESPACE = Column("NAMESPACE", lambda job, _: jobview.namespace_of(job))
COLUMNS = (
    Column("NAME", lambda job, _: jobview.name_of(job)),
    Column("STATE", lambda job, _: state_text(jobview.state_of(job))),
    Column("PROGRESS", lambda job, _: percent(jobview.fraction_done(job)), right=True),
    Column("STEP", _steps, right=True),
    Column("LOSS", lambda job, _: loss(number_at(jobview.progress_of(job), "loss")), right=True),
    Column("ETA", lambda job, _: NOTHING if jobview.is_final(job) else _or_nothing(job, "eta"), right=True),
    Column("GPUS", lambda job, _: str(jobview.gpus_of(job)), right=True),
    Column("MODEL", lambda job, _: _shrinking(jobview.model_of(job).removeprefix("hf://"))),
    Column("AGE", lambda job, now: age(jobview.created(job), now), right=True),
)
WIDE = (
    Column("HELD-OUT", lambda job, _: loss(jobview.held_out_loss(job)), right=True),
    Column("TOKENS/S", lambda job, _: number(number_at(jobview.progress_of(job), "tokensPerSecond")), right=True),
    Column("ATTEMPT", lambda job, _: str(jobview.attempt_of(job) or NOTHING), right=True),
    Column("REASON", lambda job, _: jobview.reason_of(job) or NOTHING),
    Column("RUN", lambda job, _: text_at(job, "status", "runID") or NOTHING),
    Column("ARTIFACT", lambda job, _: text_at(job, "status", "artifact", "uri") or NOTHING),
)


def _shrinking(text: str) -> Text:
    """The cell that gives way where a terminal is too narrow."""
    return Text(text, no_wrap=True, overflow="ellipsis")


def _or_nothing(job: Object, field: str) -> str:
    return text_at(jobview.progress_of(job), field) or NOTHING


def job_table(jobs: Sequence[Object], now: datetime, wide: bool = False, all_namespaces: bool = False) -> Table:
    """One line a job, by namespace and name."""
    columns = (*((NAMESPACE,) if all_namespaces else ()), *COLUMNS, *(WIDE if wide else ()))
    table = plain_table()
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=column.title != "MODEL")
    for job in sorted(jobs, key=lambda one: (jobview.namespace_of(one), jobview.name_of(one))):
        table.add_row(*(column.cell(job, now) for column in columns))
    return table


def plain_table() -> Table:
    """A table as kubectl draws them: no lines, three blanks between columns."""
    return Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
