"""``data-report.html``: what prepare found in the data. Pure; the report of a run has the same sections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from finetune_trainer.data.facts import DataFacts, ExampleFacts
from finetune_trainer.pages import heading, page, paragraph, table

_NOTE = (
    "Rows are counted before weights. Near duplicates are estimated by MinHash over runs of eight bytes: rows that "
    "share about 80 % of them or more."
)


def render_data_report(facts: DataFacts) -> str:
    """The page."""
    return page("Data report", [data_totals(facts), *data_details(facts)])


def data_totals(facts: DataFacts) -> str:
    """How many rows and tokens there are of each kind."""
    return table(("kind", "rows", "share"), _totals(facts)) + paragraph(_NOTE, "faint")


def data_details(facts: DataFacts, level: int = 2) -> list[str]:
    """Sources, refused rows, lengths and examples, each under a heading of a level."""
    return [
        heading("Sources", level),
        table(
            ("field", "source", "revision", "format", "weight", "files", "rows", "refused"),
            (
                (one.split, one.uri, one.revision or "", one.format, one.weight, one.files, one.rows, one.refused)
                for one in facts.sources
            ),
        ),
        _refused(facts, level),
        heading("Tokens per sequence, before truncation", level),
        _histogram(facts.lengths),
        heading("Examples as the model sees them", level),
        paragraph("Tokens that carry loss are marked."),
        *map(_example, facts.examples),
    ]


def _totals(facts: DataFacts) -> Iterable[tuple[object, ...]]:
    rows = (
        ("read", facts.rows, facts.rows),
        ("refused", facts.refused, facts.rows),
        ("training rows", facts.train_rows, facts.rows),
        ("held-out rows", facts.held_out_rows, facts.rows),
        ("training rows that equal an earlier one", facts.duplicates, facts.train_rows),
        ("training rows that nearly equal an earlier one", facts.near_duplicates, facts.train_rows),
        ("held-out rows that equal a training row", facts.overlap, facts.held_out_rows),
        ("held-out rows that nearly equal a training row", facts.near_overlap, facts.held_out_rows),
        ("training rows that were truncated", facts.truncated, facts.train_rows),
        ("rows without a token that carries loss", facts.without_loss, facts.train_rows + facts.held_out_rows),
        ("tokens", facts.tokens, facts.tokens),
        ("tokens that carry loss", facts.loss_tokens, facts.tokens),
    )
    return ((name, count, f"{count / of:.1%}" if of else "") for name, count, of in rows)


def _refused(facts: DataFacts, level: int) -> str:
    if not facts.refused:
        return ""
    rest = facts.refused - len(facts.refused_rows)
    more = paragraph(f"and {rest:,} more") if rest else ""
    rows = ((row.place, row.reason) for row in facts.refused_rows)
    return heading("Refused rows", level) + table(("file and row", "reason"), rows) + more


def _histogram(lengths: Sequence[tuple[int, int]]) -> str:
    most = max((count for _, count in lengths), default=1)
    lines = (
        f'<tr><th scope="row" class="number">at most {bound:,}</th><td class="number">{count:,}</td>'
        f'<td class="bar"><div style="width:{count / most:.1%}"></div></td></tr>'
        for bound, count in lengths
    )
    return f'<div class="wide"><table><tbody>{"".join(lines)}</tbody></table></div>'


def _example(example: ExampleFacts) -> str:
    pieces, end = [], 0
    for begin, stop in example.spans:
        pieces += [escape(example.text[end:begin]), f"<mark>{escape(example.text[begin:stop])}</mark>"]
        end = stop
    pieces.append(escape(example.text[end:]))
    return f"<p>{escape(example.place)}</p><pre>{''.join(pieces)}{' …' if example.cut else ''}</pre>"
