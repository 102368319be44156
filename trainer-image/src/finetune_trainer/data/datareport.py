"""``data-report.html``: what prepare found in the data, in one page that needs nothing else. Pure.

Everything that comes from the data is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from finetune_trainer.data.facts import DataFacts, ExampleFacts

_STYLE = """
body{font:14px/1.5 system-ui,sans-serif;max-width:960px;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{border:1px solid #ddd;padding:.25rem .6rem;text-align:left}
td.number{text-align:right;font-variant-numeric:tabular-nums}
pre{background:#f6f6f6;padding:.75rem;white-space:pre-wrap;overflow-wrap:anywhere;border-radius:4px}
mark{background:#bbf7d0}.bar{background:#2563eb;height:.8rem}
"""
_NOTE = (
    "Rows are counted before weights. Near duplicates are estimated by MinHash over runs of eight bytes: rows that "
    "share about 80 % of them or more."
)


def render_data_report(facts: DataFacts) -> str:
    """The page."""
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Data report</title>',
            f"<style>{_STYLE}</style></head><body><h1>Data report</h1>",
            _table(("", "rows", "share"), _totals(facts)),
            f"<p>{_NOTE}</p><h2>Sources</h2>",
            _table(
                ("field", "source", "revision", "format", "weight", "files", "rows", "refused"),
                (
                    (one.split, one.uri, one.revision or "", one.format, one.weight, one.files, one.rows, one.refused)
                    for one in facts.sources
                ),
            ),
            _refused(facts),
            "<h2>Tokens per sequence, before truncation</h2>",
            _histogram(facts.lengths),
            "<h2>Examples as the model sees them</h2><p>Tokens that carry loss are marked.</p>",
            *map(_example, facts.examples),
            "</body></html>\n",
        ]
    )


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


def _refused(facts: DataFacts) -> str:
    if not facts.refused:
        return ""
    rest = facts.refused - len(facts.refused_rows)
    more = f"<p>and {rest:,} more</p>" if rest else ""
    rows = ((row.place, row.reason) for row in facts.refused_rows)
    return f"<h2>Refused rows</h2>{_table(('file and row', 'reason'), rows)}{more}"


def _histogram(lengths: Sequence[tuple[int, int]]) -> str:
    most = max((count for _, count in lengths), default=1)
    lines = (
        f'<tr><td class="number">at most {bound:,}</td><td class="number">{count:,}</td>'
        f'<td style="width:30rem"><div class="bar" style="width:{count / most:.1%}"></div></td></tr>'
        for bound, count in lengths
    )
    return f"<table>{''.join(lines)}</table>"


def _example(example: ExampleFacts) -> str:
    pieces, end = [], 0
    for begin, stop in example.spans:
        pieces += [escape(example.text[end:begin]), f"<mark>{escape(example.text[begin:stop])}</mark>"]
        end = stop
    pieces.append(escape(example.text[end:]))
    return f"<p>{escape(example.place)}</p><pre>{''.join(pieces)}{' …' if example.cut else ''}</pre>"


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _cell(value: object) -> str:
    return f'<td class="number">{value:,}</td>' if isinstance(value, int) else f"<td>{escape(str(value))}</td>"
