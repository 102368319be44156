"""What the commands show of published results: files, curves, and two results side by side. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from finetune_cli.documents import Object, leaves, scalar_text
from finetune_cli.render.curves import Point, Series, chart, short
from finetune_cli.render.describe import facts, section
from finetune_cli.render.joblist import plain_table
from finetune_cli.render.watching import HELD_OUT_STYLE, TRAIN_STYLE
from finetune_cli.render.words import NOTHING, size, spelled

_COMPARED_STYLES = ("cyan", "yellow")


@dataclass(frozen=True)
class FileLine:
    """A file as it is listed: size in bytes."""

    name: str
    size: int
    role: str
    sha256: str


def file_table(files: Sequence[FileLine]) -> RenderableType:
    """The files of an artifact, and their sum."""
    table = plain_table()
    table.add_column("FILE", no_wrap=True)
    table.add_column("SIZE", justify="right", no_wrap=True)
    table.add_column("ROLE", no_wrap=True)
    table.add_column("SHA-256", no_wrap=True)
    for file in files:
        table.add_row(file.name, size(file.size), file.role, file.sha256)
    total = sum(file.size for file in files)
    return Group(table, Text(f"{len(files)} files, {size(total)}", style="dim"))


def curve_page(title: str, name: str, steps: Sequence[Point], evaluations: Sequence[Point], width: int) -> Group:
    """One measurement over the steps of a run, and how it began and ended."""
    label = spelled(name).lower()
    curves = [
        Series(label, tuple(steps), TRAIN_STYLE),
        Series(f"held-out {label}", tuple(evaluations), HELD_OUT_STYLE, marked=True),
    ]
    head = Text.assemble((title, "bold"), f"  {spelled(name).lower()}")
    return Group(head, Text(""), *chart(curves, width, 16), Text(""), facts(_ends(label, steps, evaluations)))


def _ends(label: str, steps: Sequence[Point], evaluations: Sequence[Point]) -> Iterable[tuple[str, str]]:
    for what, points in ((label.capitalize(), steps), (f"Held-out {label}", evaluations)):
        if points:
            best = min(points, key=lambda point: point[1])
            least = f", least {short(best[1])} after step {best[0]:g}" if best != points[-1] else ""
            yield what, f"{short(points[0][1])} -> {short(points[-1][1])} after step {points[-1][0]:g}{least}"


@dataclass(frozen=True)
class Side:
    """One of two compared results.

    Attributes:
        title: its name.
        definition: what it was asked to do, as JSON.
        results: what came of it, by name, as text.
        losses: training loss by step.
    """

    title: str
    definition: Object
    results: dict[str, str]
    losses: tuple[Point, ...] = ()


def differences(left: Object, right: Object) -> list[tuple[str, str, str]]:
    """Fields in which two documents differ: path, left, right; a dash where one has none."""
    one, other = dict(leaves(left)), dict(leaves(right))
    paths = dict.fromkeys((*one, *other))
    return [(path, _said(one, path), _said(other, path)) for path in paths if one.get(path) != other.get(path)]


def _said(fields: dict[str, object], path: str) -> str:
    return scalar_text(fields.get(path)) or NOTHING


def comparison(left: Side, right: Side, width: int) -> Group:
    """Two results side by side: what was asked differently, what came of it, and both losses."""
    asked = differences(left.definition, right.definition)
    found = [(name, left.results.get(name, NOTHING), right.results.get(name, NOTHING)) for name in _names(left, right)]
    parts: list[RenderableType] = [_pairs("RESULT", found, left, right), Text("")]
    if asked:
        parts.append(_pairs("ASKED FOR DIFFERENTLY", asked, left, right))
    else:
        parts.append(Text("Nothing was asked for differently.", style="dim"))
    series = [
        Series(side.title, side.losses, style) for side, style in zip((left, right), _COMPARED_STYLES, strict=True)
    ]
    drawn = chart(series, width, 14)
    return Group(*parts, section("Training loss", *drawn)) if drawn else Group(*parts)


def _names(left: Side, right: Side) -> Iterable[str]:
    return dict.fromkeys((*left.results, *right.results))


def _pairs(title: str, rows: Sequence[tuple[str, str, str]], left: Side, right: Side) -> RenderableType:
    table = plain_table()
    table.add_column(title, no_wrap=True)
    table.add_column(left.title, header_style=f"bold {_COMPARED_STYLES[0]}", overflow="fold")
    table.add_column(right.title, header_style=f"bold {_COMPARED_STYLES[1]}", overflow="fold")
    for name, one, other in rows:
        table.add_row(name, one, other)
    return table
