"""The report of a run, looked at with a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from finetune_trainer.artifact.report import render_report
from support.browser import Seen, colours_of, opened
from support.shown_reports import HOSTILE, STEPS, shown_report


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_report(shown_report()), encoding="utf-8")
    return path


def _unfold(seen: Seen) -> None:
    for summary in seen.page.locator("summary").all():
        summary.click()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_report_is_drawn_without_a_request_or_an_error(browser: Browser, file: Path, dark: bool) -> None:
    with opened(browser, file, dark=dark) as seen:
        _unfold(seen)
        picture = seen.page.screenshot(path=str(file.with_name(f"report-{dark}.png")), full_page=True)
        assert (seen.console, seen.requests) == ([], [])
        curves = [curve.bounding_box() for curve in seen.page.locator("polyline.curve").all()]
        # Loss, held-out loss, learning rate, throughput and memory, each before and after the pause.
        assert len(curves) == 10
        assert all(box and box["width"] > 50 and box["height"] > 2 for box in curves)
        assert seen.page.locator("rect.span").count() == 3
        assert seen.page.locator("path.mark").count() == 4
    light, *_ = colours = colours_of(browser, picture)
    assert (sum(light) < 120) is dark, "the paper has the colour of the scheme"
    assert len(colours) > 20, "there is more than paper"


def test_hostile_texts_are_shown_and_do_not_run(browser: Browser, file: Path) -> None:
    with opened(browser, file) as seen:
        _unfold(seen)
        assert seen.console == []
        assert seen.page.locator("script, img, a[href^=javascript]").count() == 0
        assert seen.page.title() == f"team/support-bot {HOSTILE}"
        assert HOSTILE in seen.page.locator("mark").inner_text()
        assert seen.page.locator(".pair").last.locator("pre").all_inner_texts() == [HOSTILE, "(not asked)", HOSTILE]
        assert seen.page.get_by_role("cell", name=HOSTILE).count() >= 3


def test_report_can_be_read_without_seeing_it(browser: Browser, file: Path) -> None:
    with opened(browser, file) as seen:
        page = seen.page
        assert page.locator("html").get_attribute("lang") == "en"
        assert page.get_by_role("img", name="Loss, learning rate, throughput and memory").count() == 1
        headings = [heading.inner_text() for heading in page.get_by_role("heading", level=2).all()]
        assert headings == ["Course", "Evaluation", "Samples", "Attempts", "Data", "Configuration"]
        page.get_by_text("Values as a table").press("Enter")
        last = page.get_by_role("row", name=f"{STEPS} ").last
        assert last.is_visible()
        assert all(header.get_attribute("scope") for header in page.locator("th").all())


def test_report_fits_a_narrow_window(browser: Browser, file: Path) -> None:
    with opened(browser, file, width=390) as seen:
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
