"""What `finetune watch` draws in a terminal, looked at: rich's picture of the terminal in a real browser."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from rich.console import Console

from finetune_cli.render.watching import Seen, picture
from support.browser import colours_of, opened
from support.shown_jobs import JOBS, NOW, followed

# The picture's style sheet would fetch a font.
_FONTS = re.compile(r"@font-face\s*\{[^}]*\}")
COLUMNS, LINES = 100, 34


def terminal(seen: Seen) -> str:
    """A page with the picture of a terminal of 100 columns."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(picture(seen, COLUMNS, LINES, NOW))
    return f"<!doctype html><title>watch</title>{_FONTS.sub('', console.export_svg(title='kubectl finetune watch'))}"


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        pytest.param(followed(54), ("support-bot", "Training", "54/128", "tokens/s", "held-out"), id="training"),
        pytest.param(Seen({}).with_job(JOBS["failed"]), ("legal", "Failed"), id="failed"),
        pytest.param(Seen({}).with_job(JOBS["complete"]), ("Complete",), id="complete"),
    ],
)
def test_watch_is_drawn(browser: Browser, tmp_path: Path, seen: Seen, said: tuple[str, ...]) -> None:
    file = tmp_path / "watch.html"
    file.write_text(terminal(seen), encoding="utf-8")
    with opened(browser, file) as shown:
        drawing = shown.page.locator("svg")
        png = drawing.screenshot(path=str(tmp_path / "watch.png"))
        assert (shown.console, shown.requests) == ([], [])
        text = (drawing.text_content() or "").replace("\u00a0", " ")
    assert [word for word in said if word not in text] == []
    assert len(colours_of(browser, png)) > 20


def test_the_curve_falls(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "watch.html"
    file.write_text(terminal(followed(54)), encoding="utf-8")
    with opened(browser, file) as shown:
        rows = shown.page.locator("svg text").filter(has_text=re.compile("[\u2801-\u28ff]"))
        boxes = [box for row in rows.all() if (box := row.bounding_box())]
    # Braille dots: the curve begins high on the left and ends low on the right.
    assert len({round(box["y"]) for box in boxes}) > 5
    highest, lowest = min(boxes, key=lambda box: box["y"]), max(boxes, key=lambda box: box["y"])
    assert highest["x"] < lowest["x"] + lowest["width"]
