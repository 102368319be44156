"""The data part of prepare as a whole: shards, weights, splits, reuse, the report and its thresholds."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from finetune_api.results import Prepared
from finetune_api.uris import parse_destination
from finetune_trainer.artifact.export import write_template
from finetune_trainer.data import dataset as pipeline
from finetune_trainer.data import shards, similarity
from finetune_trainer.data.tokenizer import TextTokenizer
from finetune_trainer.errors import DataError
from finetune_trainer.prepare import prepare
from finetune_trainer.storage import folder
from support.corpus import GOOD, MARKED_TEMPLATE, Data, lines, prepared_rows, rows
from support.run_plans import ROWS, Place, chat

SCRIPT = "<script>alert('x')</script> & \"quoted\""


def run(place: Place, data: Data) -> Prepared:
    return prepare(data.plan(place), place.environment)


def report_of(place: Place, prepared: Prepared) -> str:
    assert prepared.data is not None
    return place.store.read(parse_destination(prepared.data.report)).decode()


def summary_of(place: Place, prepared: Prepared) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(place.store.read(parse_destination(prepared.data_uri).child("summary.json")))
    return found


def test_many_shards_hold_the_rows_of_one(folder_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, found, held_out = prepared_rows(
        folder_place, rows(*ROWS, dataset={"validation": {"fraction": "0.3"}}), tmp_path / "one"
    )
    folder_place.store.delete(parse_destination(one.data_uri).child("summary.json"))
    monkeypatch.setattr(shards, "SHARD_TOKENS", 40)
    many, found_again, held_out_again = prepared_rows(
        folder_place, rows(*ROWS, dataset={"validation": {"fraction": "0.3"}}), tmp_path / "many"
    )
    names = list(summary_of(folder_place, many)["files"])
    assert len([name for name in names if name.startswith("train-")]) > 5
    assert len([name for name in names if name.startswith("validation-")]) > 1
    assert (found_again, held_out_again, many) == (found, held_out, one)


def test_shards_end_after_so_many_rows(folder_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 7)
    assert len(summary_of(folder_place, run(folder_place, rows(*ROWS)))["files"]) == 5


def test_nothing_of_the_work_is_left_on_the_disk(folder_place: Place) -> None:
    run(folder_place, rows(*ROWS))
    left = [path.name for path in (folder_place.workspace / "data").rglob("*") if path.is_file()]
    assert [name for name in left if name.endswith(".safetensors")] == []


def test_memory_does_not_grow_with_the_rows(folder_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks of what Python allocates; buffers and batches are made small so that few rows fill them."""
    monkeypatch.setattr(shards, "SHARD_TOKENS", 1 << 12)
    monkeypatch.setattr(pipeline, "_BATCH_ROWS", 32)
    monkeypatch.setattr(similarity, "_WAITING_ROWS", 32)
    monkeypatch.setattr(folder, "CHUNK_BYTES", 1 << 12)
    monkeypatch.setattr(similarity, "_PART_KEYS", 1 << 8)
    monkeypatch.setattr(similarity, "_CHUNK_KEYS", 1 << 8)
    peaks = []
    for count in (200, 200, 1000):
        data = rows(*[chat(f"What is {number}?", "It is a number.") for number in range(count)], name=f"{count}.jsonl")
        plan = data.plan(folder_place).model_copy(update={"attempt": len(peaks)})
        for key in folder_place.keys("results"):
            folder_place.store.delete(parse_destination(f"s3://bucket/{key}"))
        tracemalloc.start()
        prepare(plan, folder_place.environment)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The first run also loads modules. A row that was kept would be 2 kB, so that 800 of them would show.
    assert peaks[2] < peaks[1] + 150_000, peaks


def weighted(weight: str, *more: dict[str, Any], **dataset: Any) -> Data:
    return rows(*ROWS, *more, fields={"weight": weight}, dataset=dataset)


def test_a_fractional_weight_takes_the_same_rows_whatever_others_there_are(folder_place: Place, tmp_path: Path) -> None:
    _, half, _ = prepared_rows(folder_place, weighted("0.5"), tmp_path / "half")
    _, more, _ = prepared_rows(
        folder_place, weighted("0.5", *[chat(str(n), "x") for n in range(30)]), tmp_path / "more"
    )
    _, often, _ = prepared_rows(folder_place, weighted("2.5"), tmp_path / "often")
    assert 5 < len(half) < 25
    assert [row for row in more if "plus one" in row[0].text] == half
    counts = Counter(row[0].text for row in often)
    assert {text for text, count in counts.items() if count == 3} == {row[0].text for row in half}
    assert set(counts.values()) == {2, 3}


def test_held_out_rows_are_those_without_weights_and_once_each(folder_place: Place, tmp_path: Path) -> None:
    split = {"fraction": "0.3"}
    _, _, held_out = prepared_rows(folder_place, weighted("1", validation=split), tmp_path / "one")
    prepared, trained, again = prepared_rows(folder_place, weighted("3", validation=split), tmp_path / "three")
    assert again == held_out
    assert len(trained) == 3 * (30 - len(held_out))
    assert prepared.steps == -(-len(trained) // 8)


def test_sources_of_several_formats(folder_place: Place, tmp_path: Path) -> None:
    folder_place.put("more/texts.jsonl", lines({"text": "Once"}, {"text": "Twice"}))
    texts = {"source": "s3://bucket/more/texts.jsonl", "format": "completion"}
    data = rows(GOOD, dataset={"train": [{"source": "s3://bucket/corpus/rows.jsonl"}, texts]})
    prepared, found, _ = prepared_rows(folder_place, data, tmp_path / "fetched")
    assert [row[0].text for row in found][1:] == ["Once<|im_end|>", "Twice<|im_end|>"]
    assert prepared.data is not None
    assert prepared.data.source_rows == (1, 2)


def test_unpaired_rows_keep_their_labels(folder_place: Place, tmp_path: Path) -> None:
    from finetune_trainer.data.splits import fetch_splits

    content = [{"prompt": str(n), "completion": "a", "label": n % 3 == 0} for n in range(7)]
    plan = rows(*content, fields={"format": "unpaired", "weight": "2"}).plan(folder_place)
    prepared = prepare(plan, folder_place.environment)
    train = fetch_splits(
        plan.model_copy(update={"prepared": prepared}), folder_place.environment, tmp_path / "fetched"
    ).train
    assert [train.label(index) for index in range(len(train))] == [n % 3 == 0 for n in range(7) for _ in range(2)]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"fields": {"format": "chat", "weight": "1"}}, True),
        ({"dataset": {"checks": {"maxRefusedRows": 5}}}, True),
        ({"fields": {"limit": 30}}, False),
        ({"fields": {"weight": "2"}}, False),
        ({"dataset": {"chatTemplate": MARKED_TEMPLATE}}, False),
    ],
    ids=["defaults written out", "checks", "limit", "weight", "template"],
)
def test_what_the_run_and_its_data_depend_on(folder_place: Place, change: dict[str, Any], same: bool) -> None:
    one, other = run(folder_place, rows(*ROWS)), run(folder_place, rows(*ROWS, **change))
    assert (one.run_id == other.run_id, one.data_uri == other.data_uri) == (same, same)


def test_how_rows_are_read_belongs_to_their_own_source(folder_place: Place) -> None:
    """The same two files and the same two settings, the other way round."""
    folder_place.put("a.jsonl", lines(GOOD))
    folder_place.put("b.jsonl", lines(chat("a", "b")))

    def of(*weights: str) -> str:
        sources = [{"source": f"s3://bucket/{name}.jsonl", "weight": w} for name, w in zip("ab", weights, strict=True)]
        return prepare(folder_place.plan(dataset={"train": sources}), folder_place.environment).run_id

    assert of("2", "1") != of("1", "2")


# The report


def test_the_report_escapes_what_the_data_says(folder_place: Place) -> None:
    data = rows("{", chat(SCRIPT, SCRIPT), dataset={"checks": {"maxRefusedRows": 1}}, name="a&b.jsonl")
    page = report_of(folder_place, run(folder_place, data))
    assert "<script>" not in page
    assert (
        "<mark>&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;quoted&quot;&lt;|im_end|&gt;</mark>"
        in page
    )
    assert "s3://bucket/corpus/a&amp;b.jsonl:1" in page
    assert "not valid JSON: Expecting property name" in page


def test_the_report_counts_and_shows(folder_place: Place) -> None:
    long = chat("Why?", "word " * 100)
    data = rows(
        GOOD, GOOD, long, chat("word " * 100, "cut"), dataset={"validation": {"fraction": "0"}}, limit_tokens=64
    )
    data = Data(data.files, dataset={}, limit_tokens=64)
    prepared = run(folder_place, data)
    assert prepared.data is not None
    assert prepared.data.to_wire() == {
        "report": f"{prepared.data_uri}/data-report.html",
        "sourceRows": [4],
        "refused": 0,
        "duplicates": 1,
        "nearDuplicates": 0,
        "validationOverlap": 0,
        "withoutLoss": 1,
    }
    page = report_of(folder_place, prepared)
    for text in ("at most 32", "at most 1,024", "25.0%", "50.0%", " …</pre>"):
        assert text in page
    facts = summary_of(folder_place, prepared)["facts"]
    assert sum(count for _, count in facts["lengths"]) == 4
    assert (facts["truncated"], facts["withoutLoss"], facts["trainRows"]) == (2, 1, 4)


def test_the_same_data_gives_the_same_report(folder_place: Place) -> None:
    first = run(folder_place, rows(*ROWS))
    page = report_of(folder_place, first)
    folder_place.store.delete(parse_destination(first.data_uri).child("summary.json"))
    assert report_of(folder_place, run(folder_place, rows(*ROWS))) == page


def test_the_report_of_a_failed_job_is_there(folder_place: Place) -> None:
    with pytest.raises(DataError) as failed:
        run(folder_place, rows("{"))
    place = failed.value.remedy.rpartition("the data report is ")[2]
    assert "Refused rows" in folder_place.store.read(parse_destination(place)).decode()


def test_a_failed_job_is_judged_again_without_reading_the_data(folder_place: Place) -> None:
    strict, lenient = ({"checks": {"maxRefusedRows": allowed}} for allowed in (0, 1))
    with pytest.raises(DataError):
        run(folder_place, rows("{", *ROWS, dataset=strict))
    keys = folder_place.keys("results")
    with pytest.raises(DataError, match="1 of 31 rows cannot be used"):
        run(folder_place, rows("{", *ROWS, dataset=strict))
    prepared = run(folder_place, rows("{", *ROWS, dataset=lenient))
    assert folder_place.keys("results") == keys
    assert prepared.train.rows == 30
    assert prepared.data is not None
    assert prepared.data.refused == 1


def test_the_report_and_the_outcome_stay_small(folder_place: Place) -> None:
    bad = ["{" + "x" * 5000 for _ in range(3000)]
    data = rows(*bad, *[chat(str(n), "long " * 2000) for n in range(50)], dataset={"checks": {"maxRefusedRows": 3000}})
    prepared = run(folder_place, data)
    assert len(prepared.to_json()) < 2000
    assert len(report_of(folder_place, prepared)) < 60_000


def test_a_given_template_is_published_in_place_of_the_models(paper_model: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((paper_model / "tokenizer.json").read_bytes())
    config = {"eos_token": "<|im_end|>", "chat_template": "old"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    write_template(MARKED_TEMPLATE, tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {"eos_token": "<|im_end|>"}
    assert (tmp_path / "chat_template.jinja").read_text() == MARKED_TEMPLATE
    assert TextTokenizer(tmp_path).chat_template() is not None
