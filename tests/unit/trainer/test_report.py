"""The report of a run: what is on the page. How it looks is seen by tests/browser."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

from finetune_trainer.artifact.report import render_report
from finetune_trainer.pages import facts, folded, heading, page, paragraph, table
from finetune_trainer.training.checkpoints.history import History
from support.shown_reports import BEGAN, HOSTILE, shown_history, shown_report


class Elements(HTMLParser):
    """The tags of a page and its attributes' names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}


def rows_of(text: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_whole_page_of_shared_parts() -> None:
    text = page(
        "a <title>", [heading("One & all", 3), paragraph("x < y", "faint"), "", table(("n",), [(1234,)], "of <n>")]
    )
    head, body = text.split("<body>")
    assert "<title>a &lt;title&gt;</title>" in head
    assert "default-src 'none'" in head
    assert body == (
        "<main>\n<h1>a &lt;title&gt;</h1>\n<h3>One &amp; all</h3>\n"
        '<p class="faint">x &lt; y</p>\n'
        '<div class="wide"><table><caption>of &lt;n&gt;</caption><thead><tr><th scope="col">n</th></tr></thead>'
        '<tbody><tr><th scope="row">1,234</th></tr></tbody></table></div>\n'
        "</main></body></html>\n"
    )


def test_facts_and_folded_parts_are_escaped() -> None:
    assert folded("<b>", facts([("<i>", "<u>"), ("n", 1000)])) == (
        '<details><summary>&lt;b&gt;</summary><div class="wide"><table><tbody>'
        '<tr><th scope="row">&lt;i&gt;</th><td>&lt;u&gt;</td></tr>'
        '<tr><th scope="row">n</th><td>1,000</td></tr></tbody></table></div></details>'
    )


def test_report_tells_everything() -> None:
    text = render_report(shown_report())
    rows = rows_of(text)
    assert ["optimizer steps", "60"] in rows
    assert ["began", "2026-09-21 14:13:20 UTC"] in rows
    assert ["perplexity", "24.5", "3.22"] in rows
    assert ["attempt 1", "0", "8", "2026-09-21 14:13:20 UTC", "Suspended"] in rows
    assert ["attempt 2", "", "", "2026-09-21 16:16:40 UTC", "PodLost, left no checkpoint"] in rows
    assert ["attempt 3", "30", "8", "2026-09-21 16:19:23 UTC", "published this result"] in rows
    assert re.findall(r"<title>(attempt \d)</title>", text) == ["attempt 1", "attempt 2", "attempt 3"]
    assert ["spec.hyperparameters.schedule", "linear", "default"] in rows
    assert ["spec.method.lora.rank", "8", "profile"] in rows
    assert ["training rows that were truncated", "12", "1.3%"] in rows
    headings = ["Course", "Evaluation", "Samples", "Attempts", "Data", "Configuration"]
    assert re.findall(r"<h2>(.*?)</h2>", text) == headings
    assert [title for title in re.findall(r"font-weight=\"600\">(.*?)</text>", text)] == [
        "Loss",
        "Learning rate",
        "Tokens per second",
        "Memory in MiB",
    ]


def test_answers_before_and_after_stand_beside_the_data() -> None:
    text = render_report(shown_report())
    section = text[text.index("<h2>Samples") : text.index("<h2>Attempts")]
    assert re.findall(r"<h3>(.*?)</h3>", section) == ["Held-out row 1", "Held-out row 4"]
    names = re.findall(r'<p class="faint">(.*?)</p><pre>(.*?)</pre>', section, re.DOTALL)
    assert [name for name, _ in names] == ["in the data", "before", "after"] * 2
    told = dict(names[:3])
    assert told["before"].endswith("your application. […]")
    assert told["after"] == "Open Settings, choose API keys, and press Rotate."
    assert names[4] == ("before", "(not asked)")


def test_report_holds_nothing_that_runs_or_loads() -> None:
    text = render_report(shown_report())
    elements = Elements(text)
    assert HOSTILE not in text
    assert not {"script", "img", "iframe", "object", "form"} & set(elements.tags)
    assert not {name for name in elements.attributes if name.startswith("on") or name == "src"}
    assert elements.tags.count("a") == 0


def test_report_without_anything_but_a_title() -> None:
    bare = replace(shown_report(), history=History(), evaluation=None, data=None, past=())
    text = render_report(bare)
    assert "No step was measured." in text
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["Course", "Configuration"]


def test_steps_of_an_older_trainer_have_no_place_in_time() -> None:
    history = shown_history()
    older = [replace(step, time=0.0, memory=0) for step in history.steps[:10]]
    text = render_report(replace(shown_report(), history=replace(history, steps=older + history.steps[10:])))
    assert "step 10: loss" not in text
    assert "step 11: loss" in text
    assert rows_of(text).count(["optimizer steps", "60"]) == 1
    assert history.attempts[0].time == BEGAN
