"""Chat templates and data files that were made to do harm: refused in words, with bounded time and memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from finetune_trainer.data import chat, readers
from finetune_trainer.data.bounded import Bounded, TookTooLong
from finetune_trainer.data.chat import ChatTemplate
from finetune_trainer.data.examples import Conversation
from finetune_trainer.data.splitfiles import SUMMARY_FILE, TRAIN_FILE
from finetune_trainer.data.splits import SplitArrays, TokenizedSplit, fetch_splits, write_split
from finetune_trainer.errors import BadRow, DataError, NotSafetensors, StorageError, UserError
from finetune_trainer.prepare import prepare
from support.artifacts import prepared_of
from support.paper_model import CHAT_TEMPLATE
from support.run_plans import Place

END = "<|im_end|>"
TALK = Conversation(({"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}))
REFUSED = "cannot render a question with its answer: the chat template refuses it: "

# By name: a template, and how the reason begins.
ESCAPES: dict[str, tuple[str, str]] = {
    "classes": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "access to attribute '__class__' of 'str' object"),
    "attr": ("{{ (messages|attr('__class__')).x }}", "access to attribute '__class__' of 'list' object"),
    "map": (
        "{{ ([messages]|map(attribute='__class__')|first).x }}",
        "access to attribute '__class__' of 'list' object",
    ),
    "format": ("{{ '{0.__class__.x}'.format(messages) }}", "access to attribute '__class__' of 'list' object"),
    "format by attr": ("{{ ('{0.__class__.x}'|attr('format'))(messages) }}", "access to attribute '__class__'"),
    "globals of a function": ("{{ raise_exception.__globals__.x }}", "access to attribute '__globals__'"),
    "globals of a class": ("{{ namespace.__init__.__globals__ }}", "access to attribute '__init__'"),
    "globals of a helper": ("{{ lipsum.__globals__['os'].system('id') }}", "access to attribute '__globals__'"),
    "self of a method": ("{{ strftime_now.__self__.x }}", "access to attribute '__self__'"),
    "own context": ("{{ self._TemplateReference__context.x }}", "access to attribute '_TemplateReference__context'"),
    "loops": ("{% for m in messages %}{{ loop._recurse.__globals__ }}{% endfor %}", "access to attribute '_recurse'"),
    "private name": ("{% set n = namespace(_a=1) %}{{ n._a }}", "'_a' begins with an underscore"),
    "changes its input": ("{{ messages.append(1) }}", "access to attribute 'append' of 'list' object"),
    "functions of the encoder": ("{{ messages|tojson(default=namespace) }}", ""),
    "classes of the encoder": ("{{ messages|tojson(cls=namespace) }}", ""),
    "files": ("{% include '/etc/passwd' %}", "no loader for this environment specified"),
    "modules": ("{% import 'os' as os %}", "no loader for this environment specified"),
}
BOMBS: dict[str, tuple[str, str]] = {
    "endless loop": ("{% for a in range(9**5) %}{% for b in range(9**5) %}{% endfor %}{% endfor %}", "it takes longer"),
    "loops over text": (
        "{% set t = 'x' * 9999 %}{% for a in t %}{% for b in t %}{% for c in t %}{% endfor %}{% endfor %}{% endfor %}",
        "it takes longer",
    ),
    "endless range": ("{{ range(10**9)|list }}", "Range too big"),
    "large product": ("{{ 'x' * 10**12 }}", "the result of * is too large"),
    "large product of a list": ("{{ [1] * 10**10 }}", "the result of * is too large"),
    "large power": ("{{ 10**(10**8) }}", "the result of ** is too large"),
    "a power that grows": (
        "{% set n = namespace(x=9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "",
    ),
    "billion laughs": (
        "{% set n = namespace(x='ha' * 9999) %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "it takes",
    ),
    "padding": ("{{ 'x'|center(10**12) }}", ""),
    "width": ("{{ '%999999999999d' % 1 }}", ""),
    "words without end": ("{{ lipsum(n=10**9) }}", "it takes"),
    "recursion": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "maximum recursion depth exceeded"),
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short limits of templates."""
    monkeypatch.setattr(chat, "Bounded", partial(Bounded, seconds=0.5, extra=256 << 20))


def opened(template: str) -> ChatTemplate:
    return ChatTemplate(template, {}, {END}, {END})


@pytest.mark.parametrize("case", ESCAPES)
def test_templates_that_want_to_leave_the_sandbox(case: str) -> None:
    template, reason = ESCAPES[case]
    with pytest.raises(UserError) as refused:
        opened(template + CHAT_TEMPLATE)
    assert refused.value.message.startswith(f"the chat template of spec.model.source {REFUSED}{reason}")


@pytest.mark.parametrize("case", BOMBS)
@pytest.mark.usefixtures("impatient")
def test_templates_that_would_take_all_time_or_memory(case: str) -> None:
    template, reason = BOMBS[case]
    with pytest.raises(UserError) as refused:
        opened(template + CHAT_TEMPLATE)
    assert refused.value.message.startswith(f"the chat template of spec.model.source {REFUSED}{reason}")


@pytest.mark.parametrize(
    "template", ["{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}", "{% if a %}" * 200 + "{% endif %}" * 200]
)
@pytest.mark.usefixtures("impatient")
def test_templates_that_no_compiler_takes(template: str) -> None:
    with pytest.raises(UserError, match=r"the chat template of spec\.model\.source is not valid: "):
        opened(template + CHAT_TEMPLATE)


@pytest.mark.usefixtures("impatient")
def test_a_template_that_does_harm_for_one_row_refuses_that_row() -> None:
    bomb = "{% for m in messages %}{% if m.content == 'now' %}{{ 'x'|center(10**12) }}{% endif %}{% endfor %}"
    template = opened(bomb + CHAT_TEMPLATE)
    assert template.render(TALK).text
    with pytest.raises(BadRow, match="the chat template refuses it: "):
        template.render(Conversation(({"role": "user", "content": "now"}, *TALK.messages[1:])))
    assert template.render(TALK).text


def test_what_is_bounded_leaves_the_timer_of_others_alone() -> None:
    rung: list[int] = []
    usual = signal.signal(signal.SIGALRM, lambda number, _: rung.append(number))
    before = signal.setitimer(signal.ITIMER_REAL, 300)
    try:
        with pytest.raises(TookTooLong), Bounded(0.05):
            time.sleep(300)
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        assert 0 < left < 300
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
        signal.signal(signal.SIGALRM, usual)
    assert not rung


def test_what_is_bounded_can_get_all_of_its_time_again() -> None:
    bounded, usual = Bounded(300), signal.getitimer(signal.ITIMER_REAL)[1]
    with bounded:
        signal.setitimer(signal.ITIMER_REAL, 100)
        bounded.renew()
        left, again = signal.getitimer(signal.ITIMER_REAL)
    assert left > 100
    assert again > usual == signal.getitimer(signal.ITIMER_REAL)[1]


def test_each_rendering_of_a_row_has_all_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    template = opened(CHAT_TEMPLATE)
    # The first row also asks whether the template shows tool calls.
    template.render(TALK)
    left: list[float] = []
    monkeypatch.setattr(Bounded, "renew", lambda bounded: left.append(signal.getitimer(signal.ITIMER_REAL)[0]))
    template.render(TALK)
    assert len(left) == 3
    assert all(left)


def test_a_row_whose_time_ends_between_two_renderings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(text: str, changed: str) -> None:
        raise TookTooLong("it takes longer than 10 s")

    template, usual = opened(CHAT_TEMPLATE), signal.getitimer(signal.ITIMER_REAL)[1]
    monkeypatch.setattr(chat, "_difference", late)
    with pytest.raises(BadRow, match="the chat template refuses it: it takes longer than 10 s"):
        template.render(TALK)
    assert signal.getitimer(signal.ITIMER_REAL)[1] == usual


def zst(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


@pytest.mark.parametrize(
    ("suffix", "compress"), [("gz", gzip.compress), ("xz", lzma.compress), ("bz2", bz2.compress), ("zst", zst)]
)
def test_compressed_bombs(
    folder_place: Place, monkeypatch: pytest.MonkeyPatch, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(readers, "_HARMLESS_BYTES", 4 << 20)
    folder_place.put(f"data/train.jsonl.{suffix}", compress(b"\n" * (32 << 20)))
    source = f"s3://bucket/data/train.jsonl.{suffix}"
    with pytest.raises(DataError) as refused:
        prepare(folder_place.plan(dataset={"train": [{"source": source}]}), folder_place.environment)
    assert refused.value.message == f"{source} grows to more than 200 times its size when it is decompressed"


def parquet_bomb() -> bytes:
    """A few kilobytes, in which each of 256 rows has the same text of 8 MiB."""
    text = pyarrow.array(["x" * (8 << 20)])
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 256, pyarrow.int32()), text)
    target = io.BytesIO()
    table = pyarrow.table({"text": column}).replace_schema_metadata(None)
    pyarrow.parquet.write_table(table, target, compression="zstd", store_schema=False)
    return target.getvalue()


def test_a_parquet_bomb(folder_place: Place) -> None:
    content = parquet_bomb()
    assert len(content) < 1 << 20
    folder_place.put("data/train.parquet", content)
    source = {"source": "s3://bucket/data/train.parquet", "format": "completion"}
    with pytest.raises(DataError) as refused:
        prepare(folder_place.plan(dataset={"train": [source]}), folder_place.environment)
    assert refused.value.message == (
        "s3://bucket/data/train.parquet is no usable Parquet file: 256 rows of it take more than 1024 MiB or 120 s"
    )


def test_a_link_that_leads_out_of_a_claim_is_not_followed(folder_place: Place, tmp_path: Path) -> None:
    claim = tmp_path / "claims" / "data"
    (claim / "rows").mkdir(parents=True)
    (tmp_path / "token").write_text("secret")
    (claim / "rows" / "train.jsonl").symlink_to(tmp_path / "token")
    for source in ("pvc://data/rows/train.jsonl", "pvc://data/rows"):
        plan = folder_place.plan(dataset={"train": [{"source": source}]}, claims={"data": str(claim)})
        with pytest.raises(UserError) as refused:
            prepare(plan, folder_place.environment)
        assert refused.value.message == "pvc://data/rows/train.jsonl is a link that leads out of the claim"


@pytest.mark.parametrize("name", ["../../stolen", "/etc/stolen", "train-00000.bin", "other.safetensors", "train-0.pt"])
def test_prepared_data_that_names_other_files(folder_place: Place, tmp_path: Path, name: str) -> None:
    prepared = prepared_of(folder_place).model_copy(update={"data_uri": "s3://bucket/prepared"})
    summary = f'{{"train": {prepared.train.to_json()}, "files": {{"{name}": "sha256:{"0" * 64}"}}}}'
    folder_place.put(f"prepared/{SUMMARY_FILE}", summary.encode())
    with pytest.raises(StorageError, match="is damaged: it is not what prepare wrote"):
        fetch_splits(folder_place.plan(prepared=prepared), folder_place.environment, tmp_path / "into" / "data")
    assert not (tmp_path / "stolen").exists()


@pytest.mark.parametrize(
    ("offsets", "reason"),
    [
        ([0, 2**40], "its rows do not cover its tokens"),
        ([-4, 4], "its rows do not cover its tokens"),
        ([0, 9, 2, 4], "a row of it ends before it begins"),
    ],
)
def test_prepared_data_whose_rows_lie_elsewhere(tmp_path: Path, offsets: list[int], reason: str) -> None:
    arrays = SplitArrays(np.zeros(4, np.int32), np.ones(4, np.uint8), np.array(offsets, np.int64))
    write_split(tmp_path / TRAIN_FILE, arrays)
    with pytest.raises(NotSafetensors) as refused:
        TokenizedSplit(tmp_path / TRAIN_FILE)
    assert refused.value.reason == reason


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json"])
@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, '{"a": ' + "9" * 5000 + "}", "\x80\x04N."])
def test_documents_that_overwhelm_their_reader(folder_place: Place, name: str, content: str) -> None:
    folder_place.put(f"model/{name}", content.encode("latin-1"))
    with pytest.raises(UserError, match=r"is not JSON|is not readable"):
        prepare(folder_place.plan(), folder_place.environment)
