"""HTML pages that need nothing but themselves. Pure.

Every text that is handed in is escaped, and each page forbids scripts and requests by its own policy, so that nothing
that comes from data or from a manifest can run.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

# https://www.w3.org/TR/CSP3/: nothing may be loaded or run; the style sheet below is part of the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1b1f24;--faint:#59636e;--line:#d1d9e0;--shade:#f4f6f8;
--first:#0757ba;--second:#b3261e;--third:#8250df;--mark:#bbf7d0;--marked:#1b1f24}
@media (prefers-color-scheme:dark){:root{--paper:#0d1117;--ink:#e6edf3;--faint:#9da7b3;--line:#3d444d;--shade:#161b22;
--first:#6cb6ff;--second:#ff8f85;--third:#c297ff;--mark:#1a5e34;--marked:#fff}}
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:64rem;padding:1rem 1rem 4rem;background:var(--paper);
color:var(--ink)}
h1{font-size:1.6rem;line-height:1.25;overflow-wrap:anywhere}h2{font-size:1.2rem;margin-top:2.5rem}
h3{font-size:1rem;margin:1.5rem 0 .25rem}p{max-width:48rem}
.wide{overflow-x:auto;margin:.5rem 0 1rem}table{border-collapse:collapse}
caption{text-align:left;color:var(--faint);padding-bottom:.25rem}
td,th{border:1px solid var(--line);padding:.25rem .6rem;text-align:left;vertical-align:top}
thead th{background:var(--shade)}tbody th{font-weight:500}.number{text-align:right;font-variant-numeric:tabular-nums}
td.bar{min-width:20rem}.bar div{background:var(--first);height:.8rem}
pre{background:var(--shade);border:1px solid var(--line);border-radius:4px;padding:.75rem;margin:.25rem 0 1rem;
white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.5 ui-monospace,monospace}
mark{background:var(--mark);color:var(--marked)}.faint{color:var(--faint)}summary{cursor:pointer;margin:.75rem 0}
a{color:var(--first)}figure{margin:0}svg{display:block;min-width:44rem;width:100%;height:auto}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(18rem,1fr));gap:0 1rem}
.pair p{margin:0}
@media print{body{max-width:none}}
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole page; ``title`` is text, ``body`` is HTML."""
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # An empty icon, without which browsers ask the server of the page for one.
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>'
    )
    return "\n".join([head, f"<h1>{escape(title)}</h1>", *filter(None, body), "</main></body></html>\n"])


def table(head: Iterable[str], rows: Iterable[Iterable[object]], caption: str = "") -> str:
    """A table of texts and numbers; the first cell of each row names it."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(_cells(row))}</tr>" for row in rows)
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table>{above}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(rows: Iterable[tuple[str, object]]) -> str:
    """A table of names and what is known of each."""
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{_text(value)}</td></tr>' for name, value in rows)
    return f'<div class="wide"><table><tbody>{body}</tbody></table></div>'


def _cells(row: Iterable[object]) -> Iterable[str]:
    first, *rest = row
    yield f'<th scope="row">{_text(first)}</th>'
    for value in rest:
        yield f'<td class="number">{_text(value)}</td>' if isinstance(value, int) else f"<td>{_text(value)}</td>"


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else escape(str(value))


def paragraph(text: str, style: str = "") -> str:
    """One paragraph of text."""
    return f'<p class="{style}">{escape(text)}</p>' if style else f"<p>{escape(text)}</p>"


def heading(text: str, level: int = 2) -> str:
    """The heading of a section."""
    return f"<h{level}>{escape(text)}</h{level}>"


def preformatted(text: str) -> str:
    """Text as it is, lines and spaces kept."""
    return f"<pre>{escape(text)}</pre>"


def beside(*parts: tuple[str, str]) -> str:
    """Named texts side by side, below each other where the window is narrow."""
    shown = (f'<div><p class="faint">{escape(name)}</p>{preformatted(text)}</div>' for name, text in parts)
    return f'<div class="pair">{"".join(shown)}</div>'


def folded(summary: str, *parts: str) -> str:
    """Parts that are shown on request only."""
    return f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>"
